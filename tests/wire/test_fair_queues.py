"""Fair queues: a group on a standard queue marks a tenant, and a noisy one makes no other wait (sqs.md 7)."""

from __future__ import annotations

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock


def send(sqs: Sqs, url: str, group: str, count: int) -> None:
    for start in range(0, count, 10):
        entries = [
            {"Id": str(number), "MessageBody": f"{group}{number}", "MessageGroupId": group}
            for number in range(start, min(start + 10, count))
        ]
        assert "Failed" not in sqs.send_message_batch(QueueUrl=url, Entries=entries)


def test_a_group_comes_back_as_an_attribute_without_what_belongs_to_fifo(sqs: Sqs) -> None:
    url = sqs.queue()
    assert "SequenceNumber" not in sqs.send(url, MessageGroupId="tenant")
    (message,) = sqs.receive(url)
    assert message["Attributes"]["MessageGroupId"] == "tenant"
    assert not {"SequenceNumber", "MessageDeduplicationId"} & set(message["Attributes"])


def test_a_group_blocks_nothing(sqs: Sqs) -> None:
    url = sqs.queue()
    send(sqs, url, "t", 3)
    assert len(sqs.receive(url, 1)) == 1
    assert len(sqs.receive(url)) == 2


def test_a_body_can_be_sent_twice_in_a_group(sqs: Sqs) -> None:
    url = sqs.queue()
    for _ in range(2):
        sqs.send(url, "same", MessageGroupId="t")
    assert sqs.bodies(url) == ["same", "same"]


def test_a_bad_group_is_refused(sqs: Sqs) -> None:
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", MessageGroupId="a b")
    assert refusal.code == "InvalidParameterValue"


def test_quiet_tenants_do_not_wait_behind_a_noisy_one_that_has_many_messages_in_flight(sqs: Sqs) -> None:
    url = sqs.queue()
    send(sqs, url, "noisy", 150)
    for _ in range(5):
        assert len(sqs.receive(url)) == 10
    send(sqs, url, "quiet", 2)
    received = [body for _ in range(2) for body in sqs.bodies(url)]
    assert {"quiet0", "quiet1"} <= set(received)


def test_a_noisy_tenants_messages_are_all_received_in_the_end(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    send(sqs, url, "noisy", 40)
    send(sqs, url, "quiet", 5)
    sqs.send(url, "without")
    received = [body for _ in range(8) for body in sqs.bodies(url)]
    assert len(received) == len(set(received)) == 46
    clock.advance(31)
    assert sqs.counts(url) == (46, 0, 0)
