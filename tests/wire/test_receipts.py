"""DeleteMessage and ChangeMessageVisibility: what receipt handles are good for, and how long (sqs.md 2, 3, 6)."""

from __future__ import annotations

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

TWELVE_HOURS = 43_200


def fifo(sqs: Sqs, *bodies: str) -> str:
    """A FIFO queue with messages of one group."""
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    for body in bodies:
        sqs.send(url, body, MessageGroupId="g")
    return url


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_a_deleted_message_does_not_come_back(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.delete(url, message)
    clock.advance(31)
    assert sqs.receive(url) == []
    assert sqs.counts(url) == (0, 0, 0)


def test_deleting_twice_succeeds(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.delete(url, message)
    sqs.delete(url, message)


def test_each_receive_has_a_handle_of_its_own(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    handles = {sqs.receive(url, VisibilityTimeout=0)[0]["ReceiptHandle"] for _ in range(3)}
    assert len(handles) == 3


def test_an_old_handle_still_deletes_after_its_visibility_is_over(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    clock.advance(31)
    assert sqs.counts(url) == (1, 0, 0)
    sqs.delete(url, message)
    assert sqs.receive(url) == []
    assert sqs.counts(url) == (0, 0, 0)


def test_an_old_handle_still_deletes_what_somebody_else_received_since(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (old,) = sqs.receive(url)
    clock.advance(31)
    (new,) = sqs.receive(url)
    assert new["MessageId"] == old["MessageId"]
    sqs.delete(url, old)
    clock.advance(31)
    assert sqs.receive(url) == []
    sqs.delete(url, new)


def test_a_handle_of_another_queue_deletes_nothing(sqs: Sqs, clock: WireClock) -> None:
    orders, others = sqs.queue("orders"), sqs.queue("others")
    sqs.send(orders)
    (message,) = sqs.receive(orders)
    refusal = sqs.refusal("delete_message", QueueUrl=others, ReceiptHandle=message["ReceiptHandle"])
    assert refusal.code in {"ReceiptHandleIsInvalid", "InvalidParameterValue"}
    clock.advance(31)
    assert len(sqs.receive(orders)) == 1


@pytest.mark.parametrize("name", ["orders", "orders.fifo"])
@pytest.mark.parametrize("handle", ["garbage", "AQEB" + "x" * 300, "a|b c", "é", "x" * 450])
@pytest.mark.parametrize("method", ["delete_message", "change_message_visibility"])
def test_a_handle_that_is_none_is_refused(sqs: Sqs, method: str, handle: str, name: str) -> None:
    options = {"VisibilityTimeout": 5} if method == "change_message_visibility" else {}
    refusal = sqs.refusal(method, QueueUrl=sqs.queue(name), ReceiptHandle=handle, **options)
    said = f'The input receipt handle "{handle}" is not a valid receipt handle.'
    assert refusal == ("ReceiptHandleIsInvalid", said, 400)


def test_a_long_handle_is_told_in_part(sqs: Sqs) -> None:
    refusal = sqs.refusal("delete_message", QueueUrl=sqs.queue("orders"), ReceiptHandle="x" * 5_000)
    assert refusal.code == "ReceiptHandleIsInvalid"
    assert len(refusal.message) < 1_000


def test_a_fifo_queue_refuses_a_handle_that_has_expired(sqs: Sqs, clock: WireClock) -> None:
    url = fifo(sqs, "a")
    (message,) = sqs.receive(url)
    clock.advance(31)
    handle = message["ReceiptHandle"]
    said = f"Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
    expired = ("InvalidParameterValue", said, 400)
    assert sqs.refusal("delete_message", QueueUrl=url, ReceiptHandle=handle) == expired
    (again,) = sqs.receive(url)
    assert sqs.refusal("delete_message", QueueUrl=url, ReceiptHandle=handle) == expired
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=[{"Id": "a", "ReceiptHandle": handle}])
    assert [(entry["Code"], entry["Message"]) for entry in answer["Failed"]] == [expired[:2]]
    sqs.delete(url, again)


def test_a_fifo_queue_accepts_a_second_delete(sqs: Sqs) -> None:
    url = fifo(sqs, "a")
    (message,) = sqs.receive(url)
    sqs.delete(url, message)
    sqs.delete(url, message)


def test_a_fifo_message_can_be_deleted_until_its_extended_deadline(sqs: Sqs, clock: WireClock) -> None:
    url = fifo(sqs, "a", "b")
    first, second = sqs.receive(url)
    sqs.hide(url, first, 100)
    sqs.hide(url, second, 100)
    clock.advance(70)
    sqs.delete(url, first)
    clock.advance(31)
    assert sqs.refusal("delete_message", QueueUrl=url, ReceiptHandle=second["ReceiptHandle"]).code == (
        "InvalidParameterValue"
    )


# -- changing visibility ----------------------------------------------------------------------------------------------


def test_a_new_timeout_counts_from_now(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    clock.advance(10)
    sqs.hide(url, message, 100)
    clock.advance(70)
    assert sqs.receive(url) == []
    clock.advance(31)
    assert len(sqs.receive(url)) == 1


def test_a_timeout_of_zero_gives_a_message_back_at_once(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.hide(url, message, 0)
    assert sqs.counts(url) == (1, 0, 0)
    (again,) = sqs.receive(url)
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"


def test_twelve_hours_since_the_receive_are_the_longest_timeout(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    clock.advance(10)
    handle = message["ReceiptHandle"]
    too_long = {"QueueUrl": url, "ReceiptHandle": handle, "VisibilityTimeout": TWELVE_HOURS}
    said = (
        f"Value {TWELVE_HOURS} for parameter VisibilityTimeout is invalid. "
        "Reason: Total VisibilityTimeout for the message is beyond the limit [43200 seconds]."
    )
    assert sqs.refusal("change_message_visibility", **too_long) == ("InvalidParameterValue", said, 400)
    sqs.hide(url, message, TWELVE_HOURS - 60)
    clock.advance(TWELVE_HOURS - 90)
    assert sqs.receive(url) == []
    clock.advance(31)
    assert len(sqs.receive(url)) == 1


@pytest.mark.parametrize("seconds", [-1, TWELVE_HOURS + 1])
def test_a_timeout_outside_its_range_is_refused(sqs: Sqs, seconds: int) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    handle = message["ReceiptHandle"]
    refusal = sqs.refusal("change_message_visibility", QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=seconds)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    assert refusal.message.startswith(f"Value {seconds} for parameter VisibilityTimeout is invalid.")


def test_on_a_standard_queue_the_visibility_can_be_changed_after_it_is_over(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    clock.advance(31)
    sqs.hide(url, message, 60)


def test_on_a_deleted_message_the_visibility_cannot_be_changed(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    sqs.delete(url, message)
    handle = message["ReceiptHandle"]
    refusal = sqs.refusal("change_message_visibility", QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=5)
    assert refusal.code in {"InvalidParameterValue", "AWS.SimpleQueueService.MessageNotInflight"}
    assert refusal.status == 400
