"""A receive that waits: it ends with the first message, whatever makes one visible (sqs.md 6)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from broker import Broker
from tests.wire.clients import Sqs
from tests.wire.gateway import Gateway, WireClock

WAIT_S = 20
SOON_S = 15.0


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive looks again now and then without being woken; here it must be woken."""
    monkeypatch.setattr("broker.receiving._LOOK_AGAIN_S", 600.0)


class Waiter:
    """Receives in threads, and knows when a receive has begun to wait at the gateway."""

    def __init__(self, pool: ThreadPoolExecutor, sqs: Sqs, gateway: Gateway) -> None:
        self._pool = pool
        self._sqs = sqs
        self._gateway = gateway

    def start(self, url: str, count: int = 1) -> Future[list[str]]:
        """A receive that waits, answered when it does: Redis has been told that somebody sleeps on the queue."""
        future = self._pool.submit(self._sqs.bodies, url, count, WaitTimeSeconds=WAIT_S)
        name = url.rsplit("/", 1)[1]

        async def listeners(broker: Broker) -> int:
            channel = broker.core.keys.of(broker.core.resource("queue", name)).wake
            answer: list[bytes | int] = await broker.core.runner.fetch("PUBSUB", "NUMSUB", channel)
            return int(answer[1])

        deadline = time.monotonic() + SOON_S
        pause = threading.Event()
        while not future.done() and not self._gateway.run(listeners, account=self._sqs.account):
            assert time.monotonic() < deadline, "the receive did not begin to wait"
            pause.wait(0.005)
        return future


@pytest.fixture
def waiter(sqs: Sqs, gateway: Gateway) -> Iterator[Waiter]:
    with ThreadPoolExecutor(4) as pool:
        yield Waiter(pool, sqs, gateway)


def test_a_message_that_is_there_ends_the_wait_at_once(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url)
    assert sqs.bodies(url, WaitTimeSeconds=WAIT_S) == ["x"]


def test_a_send_wakes_a_receive(sqs: Sqs, waiter: Waiter) -> None:
    url = sqs.queue()
    receive = waiter.start(url)
    sqs.send(url, "woken")
    assert receive.result(SOON_S) == ["woken"]


def test_the_queues_own_wait_holds_if_nothing_is_said_and_zero_means_none(sqs: Sqs) -> None:
    url = sqs.queue("orders", ReceiveMessageWaitTimeSeconds="20")
    assert sqs.receive(url, WaitTimeSeconds=0) == []
    with ThreadPoolExecutor(1) as pool:
        receive = pool.submit(sqs.bodies, url)
        sqs.send(url, "woken")
        assert receive.result(SOON_S) == ["woken"]


def test_a_wait_that_is_over_answers_nothing(sqs: Sqs) -> None:
    assert "Messages" not in sqs.receive_message(QueueUrl=sqs.queue(), WaitTimeSeconds=1)


def test_a_delay_that_ends_wakes_a_receive(sqs: Sqs, waiter: Waiter, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url, "delayed", DelaySeconds=600)
    receive = waiter.start(url)
    clock.advance(601)
    assert receive.result(SOON_S) == ["delayed"]


def test_a_visibility_timeout_that_ends_wakes_a_receive(sqs: Sqs, waiter: Waiter, clock: WireClock) -> None:
    url = sqs.queue("orders", VisibilityTimeout="600")
    sqs.send(url)
    assert len(sqs.receive(url)) == 1
    receive = waiter.start(url)
    clock.advance(601)
    assert receive.result(SOON_S) == ["x"]


def give_back(sqs: Sqs, url: str, message: dict[str, str]) -> None:
    sqs.hide(url, message, 0)


def delete(sqs: Sqs, url: str, message: dict[str, str]) -> None:
    sqs.delete(url, message)


def test_a_message_given_back_wakes_a_receive(sqs: Sqs, waiter: Waiter) -> None:
    url = sqs.queue()
    sqs.send(url)
    (message,) = sqs.receive(url)
    receive = waiter.start(url)
    give_back(sqs, url, message)
    assert receive.result(SOON_S) == ["x"]


@pytest.mark.parametrize(("end", "expected"), [(delete, ["b"]), (give_back, ["a"])])
def test_a_group_that_is_released_wakes_a_receive(
    sqs: Sqs, waiter: Waiter, end: Callable[[Sqs, str, dict[str, str]], None], expected: list[str]
) -> None:
    url = sqs.queue("orders.fifo", ContentBasedDeduplication="true")
    for body in ("a", "b"):
        sqs.send(url, body, MessageGroupId="g")
    (message,) = sqs.receive(url, 1)
    receive = waiter.start(url)
    end(sqs, url, message)
    assert receive.result(SOON_S) == expected


def test_several_receives_wait_at_once_and_each_message_wakes_one(sqs: Sqs, waiter: Waiter) -> None:
    url = sqs.queue()
    receives = [waiter.start(url) for _ in range(3)]
    for body in ("a", "b", "c"):
        sqs.send(url, body)
    assert sorted(body for receive in receives for body in receive.result(SOON_S)) == ["a", "b", "c"]
