"""The actions that take batches: one bad entry spoils no other (sqs.md 2, 3 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

BATCHES = ["send_message_batch", "delete_message_batch", "change_message_visibility_batch"]
BAD_ID = (
    "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
    "It can be at most 80 letters long."
)
MEBIBYTE = 1_048_576


def entries(ids: Sequence[str], *, handle: str = "h") -> list[dict[str, Any]]:
    """Entries that do for any of the three actions that take batches."""
    return [{"Id": name, "MessageBody": name, "ReceiptHandle": handle, "VisibilityTimeout": 1} for name in ids]


def for_action(method: str, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    members = {
        "send_message_batch": {"Id", "MessageBody"},
        "delete_message_batch": {"Id", "ReceiptHandle"},
        "change_message_visibility_batch": {"Id", "ReceiptHandle", "VisibilityTimeout"},
    }[method]
    return [{name: value for name, value in entry.items() if name in members} for entry in wanted]


def batch(sqs: Sqs, url: str, *wanted: dict[str, Any]) -> dict[str, Any]:
    return sqs.send_message_batch(QueueUrl=url, Entries=list(wanted))


# -- what is wrong with the whole call --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", BATCHES)
def test_a_batch_needs_an_entry(sqs: Sqs, method: str) -> None:
    refusal = sqs.refusal(method, QueueUrl=sqs.queue(), Entries=[])
    assert (refusal.code, refusal.status) == ("AWS.SimpleQueueService.EmptyBatchRequest", 400)


@pytest.mark.parametrize("method", BATCHES)
@pytest.mark.parametrize("count", [11, 20])
def test_a_batch_has_at_most_ten_entries(sqs: Sqs, method: str, count: int) -> None:
    wanted = for_action(method, entries([str(number) for number in range(count)]))
    refusal = sqs.refusal(method, QueueUrl=sqs.queue(), Entries=wanted)
    said = f"Maximum number of entries per request are 10. You have sent {count}."
    assert refusal == ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", said, 400)


@pytest.mark.parametrize("method", BATCHES)
def test_the_ids_of_a_batch_are_distinct(sqs: Sqs, method: str) -> None:
    refusal = sqs.refusal(method, QueueUrl=sqs.queue(), Entries=for_action(method, entries(["a", "b", "a"])))
    assert (refusal.code, refusal.status) == ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400)


@pytest.mark.parametrize("method", BATCHES)
@pytest.mark.parametrize("bad", ["", "a b", "a:b", "é", "a" * 81])
def test_an_id_has_a_form(sqs: Sqs, method: str, bad: str) -> None:
    refusal = sqs.refusal(method, QueueUrl=sqs.queue(), Entries=for_action(method, entries(["ok", bad])))
    assert refusal == ("AWS.SimpleQueueService.InvalidBatchEntryId", BAD_ID, 400)


@pytest.mark.parametrize("method", BATCHES)
def test_a_batch_for_an_unknown_queue_is_refused(sqs: Sqs, method: str) -> None:
    url = sqs.queue() + "-not"
    assert sqs.refusal(method, QueueUrl=url, Entries=for_action(method, entries(["a"]))) == sqs.no_queue


def test_the_longest_id_is_accepted(sqs: Sqs) -> None:
    longest = "aZ-_09" + "a" * 74
    assert (
        batch(sqs, sqs.queue(), *for_action("send_message_batch", entries([longest])))["Successful"][0]["Id"] == longest
    )


# -- sending ----------------------------------------------------------------------------------------------------------


def test_each_entry_is_answered_under_its_id(sqs: Sqs) -> None:
    url = sqs.queue()
    attributes = {"a": {"DataType": "String", "StringValue": "x"}}
    answer = batch(
        sqs,
        url,
        {"Id": "one", "MessageBody": "hello"},
        {"Id": "two", "MessageBody": "x", "MessageAttributes": attributes},
    )
    assert "Failed" not in answer
    one, two = sorted(answer["Successful"], key=lambda entry: str(entry["Id"]))
    assert set(one) == {"Id", "MessageId", "MD5OfMessageBody"}
    assert one["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592"
    assert set(two) == {"Id", "MessageId", "MD5OfMessageBody", "MD5OfMessageAttributes"}
    received = {message["MessageId"]: message["Body"] for message in sqs.receive(url)}
    assert received == {one["MessageId"]: "hello", two["MessageId"]: "x"}


def test_entries_have_delays_of_their_own(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", VisibilityTimeout="600")
    batch(sqs, url, {"Id": "a", "MessageBody": "now"}, {"Id": "b", "MessageBody": "later", "DelaySeconds": 30})
    assert sqs.bodies(url) == ["now"]
    clock.advance(31)
    assert sqs.bodies(url) == ["later"]


def test_an_entry_over_the_queues_maximum_fails_alone(sqs: Sqs) -> None:
    url = sqs.queue("orders", MaximumMessageSize="1024")
    answer = batch(sqs, url, {"Id": "big", "MessageBody": "x" * 1025}, {"Id": "small", "MessageBody": "x" * 1024})
    assert [entry["Id"] for entry in answer["Successful"]] == ["small"]
    said = "One or more parameters cannot be validated. Reason: Message must be shorter than 1024 bytes."
    failed = {"Id": "big", "Code": "InvalidParameterValue", "Message": said, "SenderFault": True}
    assert answer["Failed"] == [failed]
    assert sqs.counts(url) == (1, 0, 0)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"MessageBody": "a\x00b"}, "InvalidMessageContents"),
        ({"MessageBody": "x", "DelaySeconds": 901}, "InvalidParameterValue"),
        (
            {"MessageBody": "x", "MessageAttributes": {"k": {"DataType": "Text", "StringValue": "x"}}},
            "InvalidParameterValue",
        ),
    ],
)
def test_an_entry_that_breaks_a_rule_fails_alone_and_the_answer_is_200(
    sqs: Sqs, entry: dict[str, Any], code: str
) -> None:
    url = sqs.queue()
    answer = batch(sqs, url, {"Id": "bad", **entry}, {"Id": "good", "MessageBody": "good"})
    assert [(failed["Id"], failed["Code"], failed["SenderFault"]) for failed in answer["Failed"]] == [
        ("bad", code, True)
    ]
    assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
    assert sqs.bodies(url) == ["good"]


def test_where_every_entry_fails_the_list_of_successes_is_absent(sqs: Sqs) -> None:
    answer = batch(sqs, sqs.queue(), {"Id": "a", "MessageBody": "\x00"})
    assert "Successful" not in answer
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200


@pytest.mark.parametrize("maximum", ["1048576", "2048"])
def test_a_batch_holds_one_mebibyte_whatever_the_queues_own_maximum(sqs: Sqs, maximum: str) -> None:
    url = sqs.queue("orders", MaximumMessageSize=maximum)
    half = {"Id": "a", "MessageBody": "x" * (MEBIBYTE // 2)}
    too_long = [half, {"Id": "b", "MessageBody": "x" * (MEBIBYTE // 2 + 1)}]
    said = "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes."
    refusal = sqs.refusal("send_message_batch", QueueUrl=url, Entries=too_long)
    assert refusal == ("AWS.SimpleQueueService.BatchRequestTooLong", said, 400)
    answer = batch(sqs, url, half, half | {"Id": "b"})
    assert len(answer["Successful" if maximum == "1048576" else "Failed"]) == 2


def test_the_sum_counts_attributes(sqs: Sqs) -> None:
    attribute = {"a": {"DataType": "String", "StringValue": "x"}}  # 1 + 6 + 1
    entry = {"Id": "a", "MessageBody": "x" * (MEBIBYTE - 8), "MessageAttributes": attribute}
    url = sqs.queue()
    refusal = sqs.refusal("send_message_batch", QueueUrl=url, Entries=[entry, {"Id": "b", "MessageBody": "x"}])
    assert refusal.message == "Batch requests cannot be longer than 1048576 bytes. You have sent 1048577 bytes."
    assert len(batch(sqs, url, entry)["Successful"]) == 1


# -- deleting and hiding ----------------------------------------------------------------------------------------------


def test_messages_are_deleted_together_and_a_bad_handle_fails_alone(sqs: Sqs) -> None:
    url = sqs.queue()
    for number in range(3):
        sqs.send(url, str(number))
    wanted = [{"Id": m["Body"], "ReceiptHandle": m["ReceiptHandle"]} for m in sqs.receive(url)]
    wanted.append({"Id": "bad", "ReceiptHandle": "garbage"})
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=wanted)
    assert sorted(entry["Id"] for entry in answer["Successful"]) == ["0", "1", "2"]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("bad", "ReceiptHandleIsInvalid", True)
    assert sqs.counts(url) == (0, 0, 0)


def test_deleting_again_succeeds(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    for _ in range(2):
        entry = {"Id": "a", "ReceiptHandle": message["ReceiptHandle"]}
        answer = sqs.delete_message_batch(QueueUrl=url, Entries=[entry])
        assert answer["Successful"] == [{"Id": "a"}]
        assert "Failed" not in answer


def test_visibility_is_changed_together_and_bad_entries_fail_alone(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    for body in ("short", "long", "bad"):
        sqs.send(url, body)
    handles = {message["Body"]: message["ReceiptHandle"] for message in sqs.receive(url)}
    timeouts = {"short": 5, "long": 100, "bad": 43_201}
    wanted = [
        {"Id": body, "ReceiptHandle": handles[body], "VisibilityTimeout": timeout} for body, timeout in timeouts.items()
    ]
    answer = sqs.change_message_visibility_batch(QueueUrl=url, Entries=wanted)
    assert sorted(entry["Id"] for entry in answer["Successful"]) == ["long", "short"]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("bad", "InvalidParameterValue", True)
    clock.advance(6)
    assert sqs.bodies(url, VisibilityTimeout=1_000) == ["short"]
    clock.advance(25)
    assert sqs.bodies(url, VisibilityTimeout=1_000) == ["bad"]
    clock.advance(70)
    assert sqs.bodies(url) == ["long"]
