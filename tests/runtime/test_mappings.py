"""Event source mappings on queues, end to end. The table of partial batch responses: spec of event source mappings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker, Queue
from broker.records import FIRST_FACTS, unpack
from broker.store.values import Peeked
from runtime import App, Context, Record
from tests.conftest import Clock
from tests.runtime.orders import VISIBILITY_S, Orders, counts, failing, fill, naming, settled
from tests.runtime.scene import Gauge, Serve, eventually, received


class Order(msgspec.Struct):
    id: int


async def left(broker: Broker) -> list[Peeked]:
    return await broker.core.messages.peek(broker.core.resource("queue", "orders"), 100)


# -- batches ----------------------------------------------------------------------------------------------------------


async def test_messages_arrive_as_the_lambda_event_and_are_deleted_on_success(broker: Broker, serve: Serve) -> None:
    orders = Orders()
    queue = broker.queue("orders")
    await queue.create()
    message_id = await queue.send({"id": 1}, attributes={"kind": "new"})
    async with serve(orders.app):
        await settled(broker)
    ((record,),) = orders.batches
    assert record["messageId"] == message_id
    assert record["body"] == '{"id":1}'
    assert record["messageAttributes"]["kind"]["stringValue"] == "new"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:000000000000:orders"


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (10_000, [7])])
async def test_a_batch_has_at_most_its_size(broker: Broker, serve: Serve, size: int, expected: list[int]) -> None:
    orders = Orders(batch_size=size)
    await fill(broker, list(range(7)))
    async with serve(orders.app):
        await settled(broker)
    assert sorted(map(len, orders.batches), reverse=True) == expected
    assert sorted(map(int, orders.bodies)) == list(range(7))


async def test_a_window_gathers_until_the_batch_is_full(broker: Broker, serve: Serve) -> None:
    orders = Orders(batch_size=5, batch_window=60)
    await fill(broker, [1, 2])
    async with serve(orders.app):
        await asyncio.sleep(0.05)
        assert not orders.batches
        await broker.queue("orders").send_many([3, 4, 5])
        await settled(broker)
    assert [len(batch) for batch in orders.batches] == [5]


async def test_a_window_ends_with_what_it_has(broker: Broker, serve: Serve) -> None:
    orders = Orders(batch_size=100, batch_window=0.2)
    await fill(broker, [1, 2])
    began = time.monotonic()
    async with serve(orders.app):
        await asyncio.sleep(0.05)
        await broker.queue("orders").send(3)
        await settled(broker)
        assert time.monotonic() - began >= 0.2
        await broker.queue("orders").send(4)
        await settled(broker)
    assert orders.bodies == ["1", "2", "3", "4"]
    assert len(orders.batches) == 2


async def test_a_window_ends_before_its_batch_is_more_than_six_megabytes(broker: Broker, serve: Serve) -> None:
    orders = Orders(batch_size=100, batch_window=60, max_concurrency=1)
    await fill(broker, ["x" * 1_000_000] * 13)
    async with serve(orders.app):
        await eventually(lambda: len(orders.batches) == 2, what="two full batches")
        await asyncio.sleep(0.02)
        sizes = [sum(len(record["body"]) for record in batch) for batch in orders.batches]
        assert sizes == [6_000_000, 6_000_000]
        assert {record["attributes"]["ApproximateReceiveCount"] for batch in orders.batches for record in batch} == {
            "1"
        }


async def test_large_messages_do_not_wait_for_one_another(broker: Broker, serve: Serve) -> None:
    """What one claim may carry is no reason to believe that there is no more."""
    gauge, gate = Gauge(), asyncio.Event()
    app = App()

    @app.queue("orders", batch_size=1, timeout=30)
    async def handle(event: Any, context: Context) -> None:
        async with gauge:
            await gate.wait()

    await fill(broker, ["x" * 1_000_000] * 12)
    async with serve(app):
        await eventually(lambda: gauge.now == 12, what="all twelve run")
        gate.set()
        await settled(broker)


async def test_a_stop_in_a_window_hands_everything_back_at_once(broker: Broker, serve: Serve) -> None:
    orders = Orders(batch_size=100, batch_window=300)
    await fill(broker, [1, 2])
    async with serve(orders.app):

        async def gathered() -> bool:
            return (await counts(broker)).in_flight == 2

        await eventually(gathered, what="the window is open")
    found = await counts(broker)
    assert (found.visible, found.in_flight, found.set_apart) == (2, 0, 0)
    assert {item.facts.crashes for item in await left(broker)} == {0}
    assert not orders.batches


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_a_failed_batch_is_visible_again_when_the_visibility_timeout_is_over(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    orders = Orders(failing, batch_size=10)
    await fill(broker, [1, 2, 3])
    async with serve(orders.app):
        await settled(broker, left=3)
        assert len(orders.batches) == 1
        await clock.advance(VISIBILITY_S - 5)
        await asyncio.sleep(0.03)
        assert len(orders.batches) == 1
        orders.answer = lambda _: None
        await clock.advance(6)
        await settled(broker)
    assert [len(batch) for batch in orders.batches] == [3, 3]
    assert {record["attributes"]["ApproximateReceiveCount"] for record in orders.batches[1]} == {"2"}


async def test_a_timed_out_batch_fails_as_a_whole(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.queue("orders", timeout=0.05, partial_failures=True)
    async def handle(event: Any, context: Context) -> None:
        await asyncio.sleep(30)

    await fill(broker, [1, 2])
    async with serve(app):
        await settled(broker, left=2)
    assert {item.facts.tries for item in await left(broker)} == {1}


async def test_a_failed_message_goes_to_the_dead_letter_queue_after_its_receives(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    orders = Orders(naming("bad"), partial_failures=True)
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=1, dead_letter=Queue("dead"), max_receives=2)
    await queue.send_many(["good", "bad"])
    async with serve(orders.app):
        for _ in range(2):
            await settled(broker, left=1)
            await clock.advance(2)
        (dead,) = await received(broker, "dead")
        assert dead.body == "bad"
        assert dead.source == "arn:aws:sqs:us-east-1:000000000000:orders"
    assert orders.bodies.count("bad") == 2
    assert orders.bodies.count("good") == 1


IDS: dict[str, Callable[[list[Any]], Any]] = {
    "empty text": lambda _: {"batchItemFailures": [{"itemIdentifier": ""}]},
    "null id": lambda _: {"batchItemFailures": [{"itemIdentifier": None}]},
    "wrong key": lambda records: {"batchItemFailures": [{"foo": records[0]["messageId"]}]},
    "wrong outer key": lambda _: {"foo": []},
    "not in the batch": lambda _: {"batchItemFailures": [{"itemIdentifier": "nobody"}]},
    "text": lambda _: "done",
    "no json": lambda _: object(),
    "exception": failing,
}


@pytest.mark.parametrize("answer", IDS.values(), ids=IDS.keys())
async def test_a_bad_answer_deletes_nothing(broker: Broker, serve: Serve, answer: Callable[[list[Any]], Any]) -> None:
    orders = Orders(answer, partial_failures=True)
    await fill(broker, ["a", "b", "c"])
    async with serve(orders.app):
        await settled(broker, left=3)
    assert len(orders.batches) == 1


@pytest.mark.parametrize(
    "answer", [{}, None, {"batchItemFailures": []}, {"batchItemFailures": None}], ids=["{}", "null", "[]", "null list"]
)
async def test_an_answer_that_names_nothing_deletes_everything(broker: Broker, serve: Serve, answer: Any) -> None:
    orders = Orders(lambda _: answer, partial_failures=True)
    await fill(broker, ["a", "b", "c"])
    async with serve(orders.app):
        await settled(broker)


async def test_only_what_is_named_stays(broker: Broker, serve: Serve) -> None:
    orders = Orders(naming("b", "c"), partial_failures=True)
    await fill(broker, ["a", "b", "c", "d"])
    async with serve(orders.app):
        await settled(broker, left=2)
    assert {unpack(item.blob)[1] for item in await left(broker)} == {b"b", b"c"}


async def test_without_partial_failures_the_answer_does_not_matter(broker: Broker, serve: Serve) -> None:
    orders = Orders(naming("a"))
    await fill(broker, ["a", "b"])
    async with serve(orders.app):
        await settled(broker)


# -- typed records ----------------------------------------------------------------------------------------------------


def typed(seen: list[Any], **options: Any) -> App:
    app = App()

    async def handle(event: list[Record[Order]], context: Context) -> None:
        seen.append([(record.body.id, record.receives, record.attributes) for record in event])

    app.queue("orders", **options)(handle)
    return app


async def test_typed_records_are_decoded(broker: Broker, serve: Serve) -> None:
    seen: list[Any] = []
    await fill(broker, [{"id": 1}, {"id": 2}])
    async with serve(typed(seen)):
        await settled(broker)
    assert seen == [[(1, 1, {}), (2, 1, {})]]


async def test_one_that_does_not_decode_fails_its_batch(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    seen: list[Any] = []
    await fill(broker, [{"id": 1}, {"id": "x"}])
    async with serve(typed(seen, max_concurrency=1)):
        await settled(broker, left=2)
        await broker.queue("orders").send({"id": 3})  # its permit was given back
        await settled(broker, left=2)
    assert seen == [[(3, 1, {})]]
    text = str(logs)
    assert "Runtime.UnmarshalError" in text
    assert "Expected `int`, got `str`" in text


async def test_with_partial_failures_one_that_does_not_decode_fails_alone(broker: Broker, serve: Serve) -> None:
    seen: list[Any] = []
    await fill(broker, [{"id": 1}, "not json", {"id": 2}])
    async with serve(typed(seen, partial_failures=True)):
        await settled(broker, left=1)
    assert seen == [[(1, 1, {}), (2, 1, {})]]
    assert [unpack(item.blob)[1] for item in await left(broker)] == [b"not json"]


async def test_a_batch_in_which_nothing_decodes_fails_without_a_call(broker: Broker, serve: Serve) -> None:
    seen: list[Any] = []
    await fill(broker, ["x", "y"])
    async with serve(typed(seen, partial_failures=True)):
        await settled(broker, left=2)
    assert not seen


# -- concurrency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"max_concurrency": 2}, {"concurrency": 2}, {"max_concurrency": 5, "concurrency": 2}]
)
async def test_limits_hold_over_two_workers(broker: Broker, serve: Serve, options: dict[str, Any]) -> None:
    gauge = Gauge()

    def app() -> App:
        made = App()

        @made.queue("orders", batch_size=1, timeout=10, **options)
        async def handle(event: Any, context: Context) -> None:
            async with gauge:
                await asyncio.sleep(0.003)

        return made

    await fill(broker, list(range(60)))
    async with serve(app()), serve(app()):
        await settled(broker)
    assert (gauge.most, gauge.total) == (2, 60)
    assert (await broker.function("handle").counts()).running == 0


async def test_facts_start_anew_for_the_next_message(broker: Broker, serve: Serve) -> None:
    orders = Orders(naming("bad"), partial_failures=True)
    await fill(broker, ["bad"])
    async with serve(orders.app):
        await settled(broker, left=1)
        await broker.queue("orders").purge()
    await broker.queue("orders").send("next")
    (item,) = await left(broker)
    assert item.facts == FIRST_FACTS
