"""Two gateways on one Redis behave as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.wire.clients import Refused, Sqs, WireProtocol
from tests.wire.gateway import Gateway, WireClock, running_gateway

SOON_S = 15.0


@pytest.fixture
def second_gateway(redis_server: EmbeddedRedis, wire_settings: Settings) -> Iterator[Gateway]:
    with running_gateway(redis_server.url, wire_settings) as running:
        yield running


@pytest.fixture
def other(connect: Callable[..., Sqs], protocol: WireProtocol, account: str, second_gateway: Gateway) -> Sqs:
    """The same account at the second gateway."""
    return connect(protocol, account, at=second_gateway)


def test_what_one_is_told_the_other_knows(sqs: Sqs, other: Sqs) -> None:
    url = sqs.queue("orders", DelaySeconds="5")
    assert other.get_queue_url(QueueName="orders")["QueueUrl"] == url.replace(sqs.endpoint, other.endpoint)
    other.configure(url, DelaySeconds="0")
    assert sqs.attributes(url, "DelaySeconds") == {"DelaySeconds": "0"}
    sqs.send(url, "sent here, received there")
    (message,) = other.receive(url)
    assert sqs.receive(url) == []
    sqs.delete(url, message)
    assert other.counts(url) == (0, 0, 0)
    other.delete_queue(QueueUrl=url)
    assert sqs.refusal("send_message", QueueUrl=url, MessageBody="x") == sqs.no_queue
    assert sqs.refusal("create_queue", QueueName="orders").code == "AWS.SimpleQueueService.QueueDeletedRecently"


def test_settings_hold_at_once_at_both(sqs: Sqs, other: Sqs) -> None:
    url = sqs.queue()
    for body in ("a", "b"):
        sqs.send(url, body)
    assert other.bodies(url, 1) == ["a"]
    sqs.configure(url, MaximumMessageSize="1024", VisibilityTimeout="0")
    with pytest.raises(Refused):
        other.send(url, "x" * 1025)
    assert other.bodies(url, 1) == other.bodies(url, 1) == ["b"]


def test_a_send_at_one_wakes_a_receive_at_the_other(sqs: Sqs, other: Sqs) -> None:
    url = sqs.queue()
    with ThreadPoolExecutor(1) as pool:
        receive = pool.submit(other.bodies, url, WaitTimeSeconds=20)
        sqs.send(url, "woken")
        assert receive.result(SOON_S) == ["woken"]


def test_groups_duplicates_and_attempts_hold_over_both(sqs: Sqs, other: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    original = sqs.send(url, "a1", MessageGroupId="a")
    assert other.send(url, "a1", MessageGroupId="a")["MessageId"] == original["MessageId"]
    other.send(url, "a2", MessageGroupId="a")
    (first,) = sqs.receive(url, 1, ReceiveRequestAttemptId="t")
    assert other.receive(url) == []
    (again,) = other.receive(url, 1, ReceiveRequestAttemptId="t")
    assert again["ReceiptHandle"] == first["ReceiptHandle"]
    other.delete(url, first)
    assert sqs.bodies(url) == ["a2"]


def test_a_purge_at_one_counts_at_the_other(sqs: Sqs, other: Sqs) -> None:
    url = sqs.queue()
    sqs.purge_queue(QueueUrl=url)
    assert other.refusal("purge_queue", QueueUrl=url).code == "AWS.SimpleQueueService.PurgeQueueInProgress"


def test_what_one_lists_in_pages_the_other_can_go_on_with(sqs: Sqs, other: Sqs) -> None:
    for number in range(3):
        sqs.queue(f"q{number}")
    first = sqs.list_queues(MaxResults=2)
    rest = other.list_queues(MaxResults=2, NextToken=first["NextToken"])
    assert [len(page["QueueUrls"]) for page in (first, rest)] == [2, 1]
