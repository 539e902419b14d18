"""FIFO queues: groups in order, blocked while in flight; attempt ids; what a send needs (sqs.md 2 and 7)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
NEITHER = "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
NOT_FOR_KIND = "The request include parameter that is not valid for this queue type."


@pytest.fixture
def url(sqs: Sqs) -> str:
    """A FIFO queue that deduplicates by content, with a visibility timeout of 30 s."""
    return sqs.queue("orders.fifo", ContentBasedDeduplication="true")


def fill(sqs: Sqs, url: str, *messages: str) -> None:
    """Sends messages; the first letter of each is its group."""
    for message in messages:
        sqs.send(url, message, MessageGroupId=message[0])


# -- sending ----------------------------------------------------------------------------------------------------------


def test_a_message_needs_a_group(sqs: Sqs, url: str) -> None:
    said = "The request must contain the parameter MessageGroupId."
    assert sqs.refusal("send_message", QueueUrl=url, MessageBody="x") == ("MissingParameter", said, 400)
    entries = [{"Id": "a", "MessageBody": "x"}, {"Id": "b", "MessageBody": "y", "MessageGroupId": "g"}]
    refusal = sqs.refusal("send_message_batch", QueueUrl=url, Entries=entries)
    assert refusal == ("InvalidParameterValue", said, 400)


def test_a_message_needs_an_id_where_content_does_not_give_one(sqs: Sqs) -> None:
    url = sqs.queue("plain.fifo")
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageGroupId="g")
    assert refusal == ("InvalidParameterValue", NEITHER, 400)


@pytest.mark.parametrize("parameter", ["MessageGroupId", "MessageDeduplicationId"])
@pytest.mark.parametrize("good", ["a", PUNCTUATION, "x" * 128])
def test_a_good_id_of_group_or_duplicate_is_accepted_and_returned(
    sqs: Sqs, url: str, parameter: str, good: str
) -> None:
    sqs.send(url, **{"MessageGroupId": "g", "MessageDeduplicationId": "d", parameter: good})
    (message,) = sqs.receive(url)
    assert message["Attributes"][parameter] == good


@pytest.mark.parametrize("parameter", ["MessageGroupId", "MessageDeduplicationId"])
@pytest.mark.parametrize("bad", ["a b", "é", "x" * 129, "a\tb"])
def test_a_bad_id_of_group_or_duplicate_is_refused(sqs: Sqs, url: str, parameter: str, bad: str) -> None:
    options = {"MessageGroupId": "g", "MessageDeduplicationId": "d", parameter: bad}
    said = (
        f"Value {bad} for parameter {parameter} is invalid. Reason: {parameter} can only include "
        "alphanumeric and punctuation characters. 1 to 128 in length."
    )
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", **options)
    assert refusal == ("InvalidParameterValue", said, 400)


def test_a_delay_belongs_to_the_queue(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("late.fifo", ContentBasedDeduplication="true", DelaySeconds="30")
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageGroupId="g", DelaySeconds=2)
    said = f"Value 2 for parameter DelaySeconds is invalid. Reason: {NOT_FOR_KIND}"
    assert refusal == ("InvalidParameterValue", said, 400)
    sqs.send(url, "zero means the queue's", MessageGroupId="g", DelaySeconds=0)
    assert sqs.receive(url) == []
    assert sqs.counts(url) == (0, 0, 1)
    clock.advance(31)
    assert sqs.bodies(url) == ["zero means the queue's"]


def test_another_delay_of_the_queue_holds_for_messages_that_wait_too(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("late.fifo", ContentBasedDeduplication="true", DelaySeconds="100")
    fill(sqs, url, "a1")
    sqs.configure(url, DelaySeconds="10")
    clock.advance(11)
    assert sqs.bodies(url) == ["a1"]


def test_sequence_numbers_have_twenty_digits_and_rise(sqs: Sqs, url: str) -> None:
    numbers = [sqs.send(url, str(n), MessageGroupId="g")["SequenceNumber"] for n in range(3)]
    entries = [{"Id": str(n), "MessageBody": f"b{n}", "MessageGroupId": "g"} for n in range(3)]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]
    numbers += [entry["SequenceNumber"] for entry in sorted(answer, key=lambda entry: str(entry["Id"]))]
    assert all(len(number) == 20 and number.isdigit() for number in numbers)
    assert numbers == sorted(set(numbers))
    assert [message["Attributes"]["SequenceNumber"] for message in sqs.receive(url)] == numbers


def test_a_message_tells_its_group_id_and_number(sqs: Sqs, url: str) -> None:
    sent = sqs.send(url, MessageGroupId="g", MessageDeduplicationId="d")
    (message,) = sqs.receive(url)
    found = message["Attributes"]
    told = {"MessageGroupId": "g", "MessageDeduplicationId": "d", "SequenceNumber": sent["SequenceNumber"]}
    assert told.items() <= found.items()


# -- order and blocking -----------------------------------------------------------------------------------------------


def test_a_group_is_received_in_the_order_of_its_sends(sqs: Sqs, url: str) -> None:
    fill(sqs, url, *(f"a{number}" for number in range(8)))
    assert sqs.bodies(url, 5) == ["a0", "a1", "a2", "a3", "a4"]


def test_a_batch_keeps_its_order(sqs: Sqs, url: str) -> None:
    entries = [{"Id": str(n), "MessageBody": f"a{n}", "MessageGroupId": "a"} for n in range(10)]
    sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert sqs.bodies(url) == [f"a{n}" for n in range(10)]


def test_a_group_in_flight_gives_nothing_more_and_others_do(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "a2", "b1")
    (first,) = sqs.receive(url, 1)
    assert first["Body"] == "a1"
    (other,) = sqs.receive(url)
    assert other["Body"] == "b1"
    assert sqs.receive(url) == []
    sqs.delete(url, first)
    assert sqs.bodies(url) == ["a2"]


def test_a_group_is_blocked_until_all_of_it_that_is_in_flight_is_gone(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "a2", "a3")
    first, second = sqs.receive(url, 2)
    sqs.delete(url, first)
    assert sqs.receive(url) == []
    sqs.delete(url, second)
    assert sqs.bodies(url) == ["a3"]


def test_one_receive_takes_all_it_can_of_a_group_and_fills_up_from_others(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "b1", "a2", "b2", "a3", "c1")
    bodies = sqs.bodies(url)
    assert sorted(bodies) == ["a1", "a2", "a3", "b1", "b2", "c1"]
    assert [body for body in bodies if body[0] == "a"] == ["a1", "a2", "a3"]
    assert [body for body in bodies if body[0] == "b"] == ["b1", "b2"]


def test_when_the_visibility_ends_messages_come_back_in_order(sqs: Sqs, url: str, clock: WireClock) -> None:
    fill(sqs, url, "a1", "a2", "a3")
    assert len(sqs.receive(url)) == 3
    clock.advance(31)
    assert sqs.bodies(url) == ["a1", "a2", "a3"]


@pytest.mark.parametrize(("extended", "expected"), [(0, []), (1, ["a1"]), (2, ["a1", "a2"])])
def test_messages_come_back_up_to_the_first_that_is_still_invisible(
    sqs: Sqs, url: str, clock: WireClock, extended: int, expected: list[str]
) -> None:
    fill(sqs, url, "a1", "a2", "a3")
    sqs.hide(url, sqs.receive(url)[extended], 100)
    clock.advance(31)
    assert sqs.bodies(url) == expected
    clock.advance(100)
    assert sqs.bodies(url) == ["a1", "a2", "a3"]


def test_a_message_given_back_is_the_first_of_its_group_again(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "a2")
    (first,) = sqs.receive(url, 1)
    sqs.hide(url, first, 0)
    assert sqs.bodies(url) == ["a1", "a2"]


def test_counts_tell_visible_and_in_flight(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "a2", "b1")
    sqs.receive(url, 1)
    assert sqs.counts(url) == (2, 1, 0)


def test_many_groups_are_served_together(sqs: Sqs, url: str) -> None:
    groups = [f"g{number}" for number in range(25)]
    for start in range(0, 25, 5):
        entries = [{"Id": g, "MessageBody": g, "MessageGroupId": g} for g in groups[start : start + 5]]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    received = [body for _ in range(3) for body in sqs.bodies(url)]
    assert sorted(received) == sorted(groups)


# -- attempts ---------------------------------------------------------------------------------------------------------


def attempt(sqs: Sqs, url: str, name: str = "try-1", **options: Any) -> list[tuple[str, str]]:
    messages = sqs.receive(url, ReceiveRequestAttemptId=name, **options)
    return [(message["Body"], message["ReceiptHandle"]) for message in messages]


def test_the_same_attempt_receives_the_same_messages_and_handles(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "a2", "b1")
    first = attempt(sqs, url, count=2)
    assert [body for body, _ in first] == ["a1", "a2"]
    assert attempt(sqs, url, count=2) == first
    assert [body for body, _ in attempt(sqs, url, "try-2")] == ["b1"]


def test_a_repeated_attempt_resets_the_visibility_timeout(sqs: Sqs, url: str, clock: WireClock) -> None:
    fill(sqs, url, "a1")
    first = attempt(sqs, url)
    clock.advance(18)
    assert attempt(sqs, url) == first
    clock.advance(18)
    assert sqs.receive(url) == []
    sqs.delete(url, {"ReceiptHandle": first[0][1]})


def test_an_attempt_is_not_repeated_once_a_message_was_deleted_or_changed(sqs: Sqs, url: str) -> None:
    fill(sqs, url, "a1", "b1")
    first = attempt(sqs, url, count=1)
    sqs.delete(url, {"ReceiptHandle": first[0][1]})
    assert [body for body, _ in attempt(sqs, url, count=1)] != ["a1"]


def test_an_attempt_is_not_repeated_once_the_visibility_is_over(sqs: Sqs, url: str, clock: WireClock) -> None:
    fill(sqs, url, "a1")
    ((_, handle),) = attempt(sqs, url)
    clock.advance(31)
    ((body, other),) = attempt(sqs, url)
    assert body == "a1"
    assert other != handle


def test_an_attempts_id_is_remembered_for_five_minutes(sqs: Sqs, url: str, clock: WireClock) -> None:
    fill(sqs, url, "a1")
    assert len(attempt(sqs, url, VisibilityTimeout=43_200)) == 1
    clock.advance(301)
    assert attempt(sqs, url) == []


@pytest.mark.parametrize("bad", ["x" * 129, "a b", "é"])
def test_a_bad_attempt_id_is_refused(sqs: Sqs, url: str, bad: str) -> None:
    refusal = sqs.refusal("receive_message", QueueUrl=url, ReceiveRequestAttemptId=bad)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


# -- standard queues --------------------------------------------------------------------------------------------------


def test_a_standard_queue_takes_no_deduplication_id(sqs: Sqs) -> None:
    url = sqs.queue("orders")
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageDeduplicationId="d")
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    assert refusal.message.endswith(NOT_FOR_KIND)
