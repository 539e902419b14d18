"""Duplicates on FIFO queues: by id and by content, for five minutes, over the queue or a group (sqs.md 7)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

WINDOW_S = 300
BY_GROUP = {"DeduplicationScope": "messageGroup"}


def send(sqs: Sqs, url: str, body: str, group: str = "g", **options: Any) -> tuple[str, str]:
    """The id and the sequence number of what was sent."""
    answer = sqs.send(url, body, MessageGroupId=group, **options)
    return answer["MessageId"], answer["SequenceNumber"]


def visible(sqs: Sqs, url: str) -> int:
    return sqs.counts(url)[0]


def test_a_duplicate_is_answered_like_the_original_and_not_delivered_again(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    original = send(sqs, url, "first", MessageDeduplicationId="d")
    assert send(sqs, url, "second", MessageDeduplicationId="d") == original
    assert send(sqs, url, "third", MessageDeduplicationId="e") != original
    assert sqs.bodies(url) == ["first", "third"]


def test_a_duplicate_is_recognised_after_the_original_was_received_and_deleted(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    original = send(sqs, url, "x", MessageDeduplicationId="d")
    (message,) = sqs.receive(url)
    sqs.delete(url, message)
    assert send(sqs, url, "x", MessageDeduplicationId="d") == original
    assert sqs.receive(url) == []


def test_the_window_is_five_minutes_from_the_first_send(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders.fifo")
    original = send(sqs, url, "x", MessageDeduplicationId="d")
    clock.advance(WINDOW_S - 30)
    assert send(sqs, url, "x", MessageDeduplicationId="d") == original
    clock.advance(31)
    assert send(sqs, url, "x", MessageDeduplicationId="d") != original
    assert visible(sqs, url) == 2


def test_a_batch_tells_of_duplicates_too(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    entries = [
        {"Id": str(number), "MessageBody": str(number), "MessageGroupId": "g", "MessageDeduplicationId": "d"}
        for number in range(3)
    ]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]
    assert len(answer) == 3
    assert len({(entry["MessageId"], entry["SequenceNumber"]) for entry in answer}) == 1
    assert visible(sqs, url) == 1


def test_content_is_the_body_alone(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    attributes = {"k": {"DataType": "String", "StringValue": "x"}}
    original = send(sqs, url, "body")
    assert send(sqs, url, "body", MessageAttributes=attributes) == original
    assert send(sqs, url, "another body") != original
    (first, _) = sqs.receive(url)
    assert first["Attributes"]["MessageDeduplicationId"] == hashlib.sha256(b"body").hexdigest()


def test_an_explicit_id_wins_over_the_content(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    original = send(sqs, url, "body")
    assert send(sqs, url, "body", MessageDeduplicationId="d") != original
    assert send(sqs, url, "another", MessageDeduplicationId="d") != original
    assert sqs.bodies(url) == ["body", "body"]


def test_an_explicit_id_that_is_the_hash_of_the_content_is_a_duplicate(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    original = send(sqs, url, "body")
    digest = hashlib.sha256(b"body").hexdigest()
    assert send(sqs, url, "another", MessageDeduplicationId=digest) == original


def test_content_counts_from_when_the_queue_is_told_so(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    assert sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageGroupId="g").code == (
        "InvalidParameterValue"
    )
    sqs.configure(url, ContentBasedDeduplication="true")
    assert send(sqs, url, "x") == send(sqs, url, "x")


def test_over_the_queue_a_duplicate_is_one_in_any_group(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    original = send(sqs, url, "x", "a", MessageDeduplicationId="d")
    assert send(sqs, url, "x", "b", MessageDeduplicationId="d") == original
    assert visible(sqs, url) == 1


@pytest.mark.parametrize("limit", ["perQueue", "perMessageGroupId"])
def test_by_group_a_duplicate_is_one_only_in_its_group(sqs: Sqs, limit: str) -> None:
    url = sqs.queue("orders.fifo", **BY_GROUP, FifoThroughputLimit=limit)
    original = send(sqs, url, "x", "a", MessageDeduplicationId="d")
    assert send(sqs, url, "x", "b", MessageDeduplicationId="d") != original
    assert send(sqs, url, "x", "a", MessageDeduplicationId="d") == original
    assert visible(sqs, url) == 2


def test_ids_remembered_before_the_scope_was_changed_go_on_blocking(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders.fifo")
    original = send(sqs, url, "x", "a", MessageDeduplicationId="d")
    sqs.configure(url, **BY_GROUP)
    assert send(sqs, url, "x", "b", MessageDeduplicationId="d") == original
    clock.advance(WINDOW_S + 1)
    send(sqs, url, "x", "a", MessageDeduplicationId="d")
    send(sqs, url, "x", "b", MessageDeduplicationId="d")
    assert visible(sqs, url) == 3
