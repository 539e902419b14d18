"""Every rule for what a batch handler answers, through Redis and a worker, on a standard and on a FIFO queue: what is
deleted, what comes back, when, and where it ends. The rows are in tests/runtime/batch_rules.py."""

from __future__ import annotations

import inspect
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker, Queue
from broker.functions import change_function
from broker.records import FunctionSettings, unpack
from broker.store.values import Peeked
from runtime import App, Context
from tests.conftest import Clock
from tests.runtime.batch_rules import ANSWERS, SENT, Answer, raises
from tests.runtime.orders import settled
from tests.runtime.scene import Serve, eventually, lines, received

VISIBILITY_S = 30
ELSEWHERE = "a call of another worker"
TARGETS = {"on_success": Queue("done"), "on_failure": Queue("failed"), "dead_letter": Queue("dead")}
"""A function has these for its events; nothing of a batch may go there."""


class Batches:
    """A mapped handler that answers as the row says until it is told to be content, and the batches it got."""

    def __init__(self, queue: str, answer: Answer) -> None:
        self.app = App()
        self.got: list[list[dict[str, Any]]] = []
        self.content = False
        self._answer = answer
        self.app.queue(queue, name="take", max_concurrency=1, **answer.settings)(self.handle)

    async def handle(self, event: dict[str, Any], context: Context) -> Any:
        self.got.append(event["Records"])
        if self.content:
            return None
        answered = self._answer.answers(event["Records"])
        return await answered if inspect.isawaitable(answered) else answered

    def bodies(self, batch: int) -> list[str]:
        return [record["body"] for record in self.got[batch]]


async def sent(broker: Broker, queue: str, **options: Any) -> None:
    """The messages of every row, there before the worker, so that they are one batch."""
    client = broker.queue(queue)
    fifo = queue.endswith(".fifo")
    await client.create(visibility_timeout=VISIBILITY_S, content_deduplication=fifo, **options)
    await client.send_batch({"body": body, **({"group": body[0]} if fifo else {})} for body in SENT)


async def with_targets(broker: Broker) -> None:
    """The function, as somebody has given it destinations and a dead-letter queue through the API."""
    for target in TARGETS.values():
        await broker.queue(target.name).create()

    def change(found: FunctionSettings) -> FunctionSettings:
        return msgspec.structs.replace(found, **TARGETS)

    await change_function(broker.core, broker.core.resource("function", "take"), change)


async def waiting_in(broker: Broker, queue: str) -> list[Peeked]:
    return await broker.core.messages.peek(broker.core.resource("queue", queue), 100)


def check_log(said: list[MutableMapping[str, Any]], answer: Answer, queue: str) -> None:
    """What failed is told once, by its names, with the reason where the answer is to blame as a whole."""
    assert len(said) == bool(answer.left)
    for line in said:
        assert (line["function"], line["queue"], line["messages"]) == ("take", queue, len(SENT))
        assert line["failed"] == len(answer.left)
        assert line["problem"].startswith(answer.problem or "named in batchItemFailures")


@pytest.mark.parametrize("queue", ["orders", "orders.fifo"])
@pytest.mark.parametrize("answer", ANSWERS, ids=[answer.name for answer in ANSWERS])
async def test_answer(
    answer: Answer, queue: str, broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    batches = Batches(queue, answer)
    async with serve(batches.app):
        await with_targets(broker)
    began_ms = await broker.core.messages.now_ms()
    await sent(broker, queue)
    async with serve(batches.app):
        await settled(broker, queue, left=len(answer.left))
        left = await waiting_in(broker, queue)
        assert sorted(unpack(item.blob)[1].decode() for item in left) == sorted(answer.left)
        now_ms = await broker.core.messages.now_ms()
        assert all(began_ms <= item.due_ms - VISIBILITY_S * 1_000 <= now_ms for item in left)
        check_log(lines(logs, "batch_failed"), answer, queue)
        batches.content = True
        await clock.advance(VISIBILITY_S)
        await settled(broker, queue)
    assert batches.bodies(0) == list(SENT)
    assert [body for batch in range(1, len(batches.got)) for body in batches.bodies(batch)] == list(answer.left)
    receives = {
        record["body"]: record["attributes"]["ApproximateReceiveCount"] for batch in batches.got for record in batch
    }
    assert receives == {body: "2" if body in answer.left else "1" for body in SENT}
    for target in TARGETS.values():
        assert (await broker.queue(target.name).counts()).total == 0, "a batch goes to none of the function's targets"


@pytest.mark.parametrize("queue", ["orders", "orders.fifo"])
@pytest.mark.parametrize(
    "answer", [answer for answer in ANSWERS if answer.left and "timeout" not in answer.name], ids=lambda row: row.name
)
async def test_what_fails_as_often_as_it_may_be_received_goes_to_the_queues_dead_letters(
    answer: Answer, queue: str, broker: Broker, serve: Serve, clock: Clock
) -> None:
    dead = "dead.fifo" if queue.endswith(".fifo") else "dead"
    batches = Batches(queue, answer)
    await sent(broker, queue, dead_letter=Queue(dead), max_receives=1)
    async with serve(batches.app):
        await settled(broker, queue, left=len(answer.left))
        await clock.advance(VISIBILITY_S)
        letters: dict[str, Any] = {}
        while len(letters) < len(answer.left):  # of each group only what stands first can be received
            for letter in await received(broker, dead):
                letters[letter.body] = letter
                await letter.delete()
        await settled(broker, queue)
    assert sorted(letters) == sorted(answer.left)
    assert {letter.source for letter in letters.values()} == {f"arn:aws:sqs:us-east-1:000000000000:{queue}"}
    assert len(batches.got) == 1


# -- throttles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["orders", "orders.fifo"])
@pytest.mark.parametrize("limit", [0, 1])
async def test_what_the_concurrency_limit_holds_back_stays_in_the_queue_unreceived(
    broker: Broker, serve: Serve, clock: Clock, queue: str, limit: int
) -> None:
    """It is not claimed, so it uses up no receive, however long it takes."""
    batches = Batches(queue, Answer("", lambda _: None, (), settings={"concurrency": limit}))
    function = broker.core.resource("function", "take")
    async with serve(batches.app):
        pass  # registered
    if limit:
        taken = await broker.core.permits.take_of_function(function, [ELSEWHERE], permit_ms=10**9)
        assert taken.granted == 1
    async with serve(batches.app):
        await sent(broker, queue, dead_letter=Queue(f"dead{queue.removeprefix('orders')}"), max_receives=1)
        for _ in range(3):
            await clock.advance(3_600)
        counts = await broker.queue(queue).counts()
        assert (counts.visible, counts.in_flight, counts.retrying) == (4, 0, 0)
        assert not batches.got
        if limit:
            await broker.core.permits.release_of_function(function, [ELSEWHERE])
        else:

            def change(found: FunctionSettings) -> FunctionSettings:
                return msgspec.structs.replace(found, concurrency=None)

            await change_function(broker.core, function, change)
        await settled(broker, queue)
    assert {record["attributes"]["ApproximateReceiveCount"] for batch in batches.got for record in batch} == {"1"}


# -- when it is visible again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window_s", "timeout_s", "hidden_s"),
    [(0, 10, 30), (0, 300, 30), (20, 10, 30), (27, 3, 30), (28, 3, 61), (1, 60, 91), (300, 900, 1_230)],
)
async def test_a_failed_batch_is_hidden_for_the_visibility_timeout_or_as_long_as_its_window_needs(
    broker: Broker, serve: Serve, window_s: float, timeout_s: float, hidden_s: float
) -> None:
    settings = {"batch_window": window_s, "timeout": timeout_s, "batch_size": len(SENT)}
    batches = Batches("orders", Answer("", raises, SENT, settings=settings))
    began_ms = await broker.core.messages.now_ms()
    await sent(broker, "orders")
    async with serve(batches.app):
        await eventually(lambda: batches.got, what="the batch is full, so it does not wait for its window")
        await settled(broker, "orders", left=len(SENT))
        now_ms = await broker.core.messages.now_ms()
        for item in await waiting_in(broker, "orders"):
            assert began_ms <= item.due_ms - hidden_s * 1_000 <= now_ms
