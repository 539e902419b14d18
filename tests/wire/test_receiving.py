"""ReceiveMessage: how many, for how long, and with which attributes (sqs.md 3, 5 and 6)."""

from __future__ import annotations

import time

import pytest

from broker import limits
from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

FEW = 3
ALWAYS = {"MessageId", "ReceiptHandle", "MD5OfBody", "Body"}


def test_without_messages_the_list_is_absent(sqs: Sqs) -> None:
    assert set(sqs.receive_message(QueueUrl=sqs.queue())) == {"ResponseMetadata"}


def test_one_message_is_received_if_nothing_is_said(sqs: Sqs) -> None:
    url = sqs.queue()
    for number in range(3):
        sqs.send(url, str(number))
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert set(message) == ALWAYS


@pytest.mark.parametrize("wanted", [1, 7, 10])
def test_as_many_messages_as_asked_for_are_received(sqs: Sqs, wanted: int) -> None:
    url = sqs.queue()
    entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(10)]
    sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert sqs.bodies(url, wanted) == [str(number) for number in range(wanted)]


@pytest.mark.parametrize("count", [-1, 0, 11])
def test_a_count_outside_its_range_is_refused(sqs: Sqs, count: int) -> None:
    said = f"Value {count} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if provided."
    refusal = sqs.refusal("receive_message", QueueUrl=sqs.queue(), MaxNumberOfMessages=count)
    assert refusal == ("InvalidParameterValue", said, 400)


@pytest.mark.parametrize("seconds", [-1, 21])
def test_a_wait_outside_its_range_is_refused(sqs: Sqs, seconds: int) -> None:
    said = f"Value {seconds} for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20, if provided."
    refusal = sqs.refusal("receive_message", QueueUrl=sqs.queue(), WaitTimeSeconds=seconds)
    assert refusal == ("InvalidParameterValue", said, 400)


@pytest.mark.parametrize("seconds", [-1, 43_201])
def test_a_visibility_timeout_outside_its_range_is_refused(sqs: Sqs, seconds: int) -> None:
    refusal = sqs.refusal("receive_message", QueueUrl=sqs.queue(), VisibilityTimeout=seconds)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    assert refusal.message.startswith(f"Value {seconds} for parameter VisibilityTimeout is invalid.")


# -- visibility -------------------------------------------------------------------------------------------------------


def test_the_queues_visibility_timeout_holds_if_nothing_is_said(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", VisibilityTimeout="60")
    sqs.send(url)
    assert len(sqs.receive(url)) == 1
    clock.advance(30)
    assert sqs.receive(url) == []
    clock.advance(31)
    assert len(sqs.receive(url)) == 1


@pytest.mark.parametrize("seconds", [45, 43_200])
def test_a_receive_has_its_own_visibility_timeout(sqs: Sqs, clock: WireClock, seconds: int) -> None:
    url = sqs.queue()
    sqs.send(url)
    assert len(sqs.receive(url, VisibilityTimeout=seconds)) == 1
    clock.advance(seconds - 30)
    assert sqs.receive(url) == []
    clock.advance(31)
    assert len(sqs.receive(url)) == 1


def test_another_visibility_timeout_of_the_queue_holds_for_the_next_receive(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    sqs.configure(url, VisibilityTimeout="5")
    sqs.receive(url)
    clock.advance(6)
    assert len(sqs.receive(url)) == 1


def test_with_a_timeout_of_zero_a_message_stays_visible_and_its_receives_are_counted(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    counts = [sqs.receive(url, VisibilityTimeout=0)[0]["Attributes"]["ApproximateReceiveCount"] for _ in range(3)]
    assert counts == ["1", "2", "3"]
    assert sqs.counts(url) == (1, 0, 0)


def test_the_receives_of_a_message_are_counted(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    for count in ("1", "2", "3"):
        (message,) = sqs.receive(url, VisibilityTimeout=10)
        assert message["Attributes"]["ApproximateReceiveCount"] == count
        clock.advance(11)


# -- system attributes ------------------------------------------------------------------------------------------------


def test_a_message_tells_who_sent_it_and_when(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    before = time.time() * 1000
    sqs.send(url)
    after = time.time() * 1000
    clock.advance(10)
    (message,) = sqs.receive(url)
    found = message["Attributes"]
    assert set(found) == {
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
    }
    assert found["SenderId"] == sqs.account
    assert before - 1 <= int(found["SentTimestamp"]) <= after + 1
    assert int(found["ApproximateFirstReceiveTimestamp"]) >= int(found["SentTimestamp"]) + 10_000


def test_the_first_receive_stays_the_first(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url)
    (first,) = sqs.receive(url)
    clock.advance(31)
    (second,) = sqs.receive(url)
    name = "ApproximateFirstReceiveTimestamp"
    assert second["Attributes"][name] == first["Attributes"][name]
    assert second["Attributes"]["SentTimestamp"] == first["Attributes"]["SentTimestamp"]


def test_without_asking_there_are_no_attributes(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert "Attributes" not in message


def test_only_the_system_attributes_asked_for_come_and_only_if_there_are_any(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    names = ["ApproximateReceiveCount", "SequenceNumber", "AWSTraceHeader"]
    (message,) = sqs.receive(url, AttributeNames=names)
    assert message["Attributes"] == {"ApproximateReceiveCount": "1"}


def test_both_names_of_the_list_of_system_attributes_are_united(json_sqs: Sqs) -> None:
    url = json_sqs.queue()
    json_sqs.send(url)
    newer = ["ApproximateReceiveCount"]
    (message,) = json_sqs.receive(url, AttributeNames=["SenderId"], MessageSystemAttributeNames=newer)
    assert message["Attributes"] == {"SenderId": json_sqs.account, "ApproximateReceiveCount": "1"}


def test_the_newer_name_alone_does_as_well(json_sqs: Sqs) -> None:
    url = json_sqs.queue()
    json_sqs.send(url)
    answer = json_sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"])
    assert set(answer["Messages"][0]["Attributes"]) >= {"SenderId", "SentTimestamp", "ApproximateReceiveCount"}


def test_an_unknown_system_attribute_is_refused(sqs: Sqs) -> None:
    refusal = sqs.refusal("receive_message", QueueUrl=sqs.queue(), AttributeNames=["Colour"])
    assert refusal.code in {"InvalidAttributeName", "InvalidParameterValue"}
    assert refusal.status == 400


# -- in flight --------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's limit, lowered in this process: 120,000 receives take too long here."""
    assert limits.MAX_IN_FLIGHT == 120_000
    monkeypatch.setattr(limits, "MAX_IN_FLIGHT", FEW)


@pytest.mark.usefixtures("few_in_flight")
def test_over_the_limit_of_messages_in_flight_short_polling_is_refused_and_long_polling_finds_nothing(sqs: Sqs) -> None:
    url = sqs.queue()
    for number in range(FEW + 2):
        sqs.send(url, str(number))
    received = sqs.receive(url)
    assert [message["Body"] for message in received] == [str(number) for number in range(FEW)]
    refusal = sqs.refusal("receive_message", QueueUrl=url)
    assert (refusal.code, refusal.status) == ("OverLimit", 403)
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    sqs.delete(url, received[0])
    assert sqs.bodies(url) == [str(FEW)]


@pytest.mark.usefixtures("few_in_flight")
def test_over_the_limit_of_messages_in_flight_a_fifo_queue_gives_nothing_and_no_error(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    for number in range(FEW + 1):
        sqs.send(url, str(number), MessageGroupId=str(number))
    (first, *_) = received = sqs.receive(url)
    assert len(received) == FEW
    assert sqs.receive(url) == []
    sqs.delete(url, first)
    assert len(sqs.receive(url)) == 1
