"""Filters of mappings, end to end: what does not match is deleted and counted, and no handler is called for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.errors import InvalidOption
from broker.event_patterns import InvalidPattern
from broker.mappings import register_mapping
from broker.queue_settings import describe_queue
from broker.records import MappingSettings, pack
from broker.store.values import NewMessage
from runtime import App, Context, Record, Worker
from runtime.sources.queue import QueueSource
from tests.conftest import Clock
from tests.runtime.orders import VISIBILITY_S, Orders, counts, failing, fill, naming, settled
from tests.runtime.scene import Serve, eventually, lines

NEW = {"body": {"kind": ["new"]}}


async def filtered(broker: Broker, queue: str = "orders") -> int:
    """How many messages of a queue the filters have had deleted."""
    described = await describe_queue(broker.core, broker.core.resource("queue", queue))
    return described.counters["filtered"]


def body(kind: str, number: int = 0) -> str:
    return f'{{"kind":"{kind}","number":{number}}}'


def numbers(orders: Orders) -> list[int]:
    return [json.loads(text)["number"] for text in orders.bodies]


# -- what matches -----------------------------------------------------------------------------------------------------

PASSES = True
IS_DROPPED = False

FORMATS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "json body and pattern, match": (NEW, '{"kind":"new"}', PASSES),
    "json body and pattern, no match": (NEW, '{"kind":"old"}', IS_DROPPED),
    "json body without the field": (NEW, "{}", IS_DROPPED),
    "plain body, json pattern": (NEW, "new", IS_DROPPED),
    "a number is plain, json pattern": ({"body": {"kind": [{"exists": False}]}}, "12", IS_DROPPED),
    "broken json, json pattern": (NEW, '{"kind":"new"', IS_DROPPED),
    "json body, plain pattern": ({"body": ['{"kind":"new"}']}, '{"kind":"new"}', IS_DROPPED),
    "plain body and pattern, match": ({"body": ["new"]}, "new", PASSES),
    "plain body and pattern, no match": ({"body": ["new"]}, "old", IS_DROPPED),
    "no body in the pattern, match": ({"eventSource": ["aws:sqs"]}, "anything", PASSES),
    "no body in the pattern, no match": ({"eventSource": ["aws:kinesis"]}, '{"kind":"new"}', IS_DROPPED),
    "message attributes": ({"messageAttributes": {"size": {"stringValue": ["3"]}}}, "anything", PASSES),
    "attributes and body": ({"attributes": {"ApproximateReceiveCount": ["1"]}, **NEW}, '{"kind":"new"}', PASSES),
    "attributes and body, one not": ({"awsRegion": ["nowhere"], **NEW}, '{"kind":"new"}', IS_DROPPED),
    "either of two places": ({"$or": [{"awsRegion": ["nowhere"]}, NEW]}, '{"kind":"new"}', PASSES),
}


@pytest.mark.parametrize(("pattern", "text", "passes"), FORMATS.values(), ids=FORMATS.keys())
async def test_formats_of_body_and_pattern(
    broker: Broker, serve: Serve, pattern: dict[str, Any], text: str, *, passes: bool
) -> None:
    orders = Orders(filters=[pattern])
    queue = broker.queue("orders")
    await queue.create()
    await queue.send(text, attributes={"size": 3})
    async with serve(orders.app):
        await settled(broker)
    assert orders.bodies == ([text] if passes else [])
    assert await filtered(broker) == (0 if passes else 1)


async def test_a_message_passes_that_one_of_the_filters_wants(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=['{"body":{"kind":["new"]}}', {"body": {"number": [{"numeric": [">", 7]}]}}])
    await fill(broker, [body(kind, number) for number in range(10) for kind in ("new", "old")])
    async with serve(orders.app):
        await settled(broker)
    assert sorted(numbers(orders)) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9]
    assert await filtered(broker) == 8


async def test_the_body_of_a_record_is_what_was_sent(broker: Broker, serve: Serve) -> None:
    """Matching decodes the body; what the handler gets is still its text."""
    text = '{ "kind" : "new", "size": 1e2 }'
    orders = Orders(filters=[NEW])
    await fill(broker, [text])
    async with serve(orders.app):
        await settled(broker)
    assert orders.bodies == [text]


async def test_a_body_that_is_no_text_is_matched_and_harms_no_other(broker: Broker, serve: Serve) -> None:
    """Nothing of ours sends one; it may be there all the same."""
    orders = Orders(filters=[NEW, {"body": [{"suffix": "kept \ufffd"}]}])
    await fill(broker, [body("new", 1)])
    damaged = (b'{"kind":"new","x":"\xff"}', b"\xff\xfe", b"kept \xff")
    await broker.core.messages.send(
        broker.core.resource("queue", "orders"),
        [NewMessage(pack(data), len(data)) for data in damaged],
        token="damaged",
        bucket="0",
    )
    async with serve(orders.app):
        await settled(broker)
    assert sorted(orders.bodies) == ["kept \ufffd", body("new", 1)]
    assert await filtered(broker) == 2


async def test_bodies_nested_too_deep_or_with_huge_numbers_harm_no_other(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=100)
    strange = ["[" * 100_000, '{"kind":' * 5_000, '{"kind":[' + "9" * 100_000 + "]}", '{"kind":"\\ud800"}']
    await fill(broker, [*strange, body("new", 1)])
    async with serve(orders.app):
        await settled(broker)
    assert orders.bodies == [body("new", 1)]
    assert await filtered(broker) == len(strange)


async def test_typed_records_are_decoded_after_the_filter(broker: Broker, serve: Serve) -> None:
    class Order(msgspec.Struct):
        number: int

    seen: list[int] = []
    app = App()

    async def handle(event: list[Record[Order]], context: Context) -> None:
        seen.extend(record.body.number for record in event)

    handle.__annotations__["event"] = list[Record[Order]]
    app.queue("orders", filters=[NEW])(handle)
    await fill(broker, ["not json", '{"kind":"old","number":"x"}', body("new", 7)])
    async with serve(app):
        await settled(broker)
    assert seen == [7]
    assert await filtered(broker) == 2


# -- batches ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_called_where_nothing_matches(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    orders = Orders(filters=[NEW], batch_size=10)
    await fill(broker, [body("old", number) for number in range(2_345)])
    async with serve(orders.app):
        await settled(broker)
        assert await filtered(broker) == 2_345
        sums = await eventually(lambda: lines(logs, "batches_settled"), what="the sums of the second")
    assert not orders.batches
    assert {"filtered": sum(line["filtered"] for line in sums)}.items() <= {"filtered": 2_345}.items()
    assert {line["mean_ms"] for line in sums} == {None}


async def test_a_window_is_filled_with_what_matches(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=5, batch_window=60)
    await fill(broker, [body("new" if number % 7 == 0 else "old", number) for number in range(35)])
    async with serve(orders.app):
        await settled(broker)
    assert [len(batch) for batch in orders.batches] == [5]
    assert numbers(orders) == [0, 7, 14, 21, 28]
    assert await filtered(broker) == 30


async def test_a_window_opens_with_the_first_message_that_matches(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=2, batch_window=60)
    await fill(broker, [body("old")])
    async with serve(orders.app) as worker:
        await settled(broker)
        assert await filtered(broker) == 1
        assert not worker._engine.keeper.holding(broker.core.resource("queue", "orders"))
        await broker.queue("orders").send_many([body("new", 1), body("old"), body("new", 2)])
        await settled(broker)
    assert [len(batch) for batch in orders.batches] == [2]
    assert numbers(orders) == [1, 2]


async def test_what_does_not_match_in_a_window_is_deleted_before_it_closes(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=10, batch_window=300)
    await fill(broker, [body("new", 1), body("old")])
    async with serve(orders.app):

        async def gathering() -> bool:
            found = await counts(broker)
            return (found.in_flight, found.visible, await filtered(broker)) == (1, 0, 1)

        await eventually(gathering, what="one is held, one is deleted")
        await broker.queue("orders").send_many([body("old")] * 25)

        async def more_deleted() -> bool:
            return await filtered(broker) == 26

        await eventually(more_deleted, what="the others are deleted, too")
        assert not orders.batches
    assert (await counts(broker)).visible == 1, "a stop hands back what was gathered"


async def test_a_limit_of_concurrency_is_not_used_up_by_what_does_not_match(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=3, concurrency=1, max_concurrency=2)
    await fill(broker, [body("new" if number % 10 == 0 else "old", number) for number in range(200)])
    async with serve(orders.app):
        await settled(broker)
        await eventually(lambda: _no_permits(broker), what="every permit is given back")
    assert sorted(numbers(orders)) == list(range(0, 200, 10))


async def test_calls_are_not_throttled_while_messages_are_dropped(broker: Broker, serve: Serve) -> None:
    """What is dropped needs no permit of the function, not even its only one."""
    app = App()

    @app.queue("orders", batch_size=1, concurrency=1, filters=[NEW])
    async def handle(event: Any, context: Context) -> str:
        return "called"

    await fill(broker, [body("old")] * 1_500)
    async with serve(app):

        async def dropping() -> bool:
            return await filtered(broker) > 0

        await eventually(dropping, what="the first are dropped")
        for _ in range(5):
            await eventually(lambda: _no_permits(broker), what="the last call has given its permit back")
            assert await broker.call("handle", {}) == "called"
        await settled(broker)


async def _no_permits(broker: Broker) -> bool:
    return (await broker.function("handle").counts()).running == 0


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_a_failed_batch_brings_back_what_matched_alone(broker: Broker, serve: Serve, clock: Clock) -> None:
    orders = Orders(failing, filters=[NEW])
    await fill(broker, [body("new", 1), body("old", 2), body("new", 3)])
    async with serve(orders.app):
        await settled(broker, left=2)
        orders.answer = lambda _: None
        await clock.advance(VISIBILITY_S + 1)
        await settled(broker)
    assert sorted(numbers(orders)) == [1, 1, 3, 3]
    assert await filtered(broker) == 1


async def test_partial_failures_are_of_what_matched(broker: Broker, serve: Serve, clock: Clock) -> None:
    orders = Orders(naming(body("new", 3)), filters=[NEW], partial_failures=True)
    await fill(broker, [body("new", 1), body("old", 2), body("new", 3)])
    async with serve(orders.app):
        await settled(broker, left=1)
        orders.answer = lambda _: None
        await clock.advance(VISIBILITY_S + 1)
        await settled(broker)
    assert numbers(orders) == [1, 3, 3]
    assert await filtered(broker) == 1


async def test_naming_a_message_that_was_dropped_fails_the_batch(broker: Broker, serve: Serve) -> None:
    """It is no message of the batch."""
    dropped: list[str] = []
    orders = Orders(
        lambda _: {"batchItemFailures": [{"itemIdentifier": dropped[1]}]}, filters=[NEW], partial_failures=True
    )
    dropped += await fill(broker, [body("new", 1), body("old", 2)])
    async with serve(orders.app):
        await settled(broker, left=1)
    assert len(orders.batches) == 1


# -- FIFO queues ------------------------------------------------------------------------------------------------------

FIFO = "orders.fifo"


class FifoOrders(Orders):
    """The same on a FIFO queue."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.app = App()
        self.app.queue(FIFO, **options)(self.handle)


async def fill_fifo(broker: Broker, *messages: tuple[str, str]) -> None:
    """Sends groups and bodies."""
    queue = broker.queue(FIFO)
    await queue.create(visibility_timeout=VISIBILITY_S, content_deduplication=True)
    await queue.send_batch({"body": text, "group": group} for group, text in messages)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
async def test_a_group_goes_on_behind_what_was_dropped(broker: Broker, serve: Serve, batch_size: int) -> None:
    orders = FifoOrders(filters=[NEW], batch_size=batch_size)
    kinds = [("a", "old"), ("a", "old"), ("a", "new"), ("b", "old"), ("a", "old"), ("a", "new"), ("b", "new")]
    await fill_fifo(broker, *((group, body(kind, number)) for number, (group, kind) in enumerate(kinds)))
    async with serve(orders.app):
        await settled(broker, FIFO)
        assert await filtered(broker, FIFO) == 4
    assert sorted(numbers(orders)) == [2, 5, 6]
    assert numbers(orders).index(2) < numbers(orders).index(5)


async def test_a_group_of_nothing_that_matches_ends_without_a_call(broker: Broker, serve: Serve) -> None:
    orders = FifoOrders(filters=[NEW], batch_size=2)
    await fill_fifo(broker, *(("a", body("old", number)) for number in range(25)), ("b", body("new", 99)))
    async with serve(orders.app):
        await settled(broker, FIFO)
    assert numbers(orders) == [99]
    assert await filtered(broker, FIFO) == 25


async def test_a_window_on_a_fifo_queue_is_filled_with_what_matches(broker: Broker, serve: Serve) -> None:
    orders = FifoOrders(filters=[NEW], batch_size=3, batch_window=60)
    await fill_fifo(
        broker,
        ("a", body("new", 1)),
        *(("bcd"[number % 3], body("old", number)) for number in range(10, 28)),
        ("b", body("new", 2)),
        ("c", body("new", 3)),
    )
    async with serve(orders.app):
        await settled(broker, FIFO)
    assert [sorted(json.loads(record["body"])["number"] for record in batch) for batch in orders.batches] == [[1, 2, 3]]
    assert await filtered(broker, FIFO) == 18


async def test_what_fails_holds_up_its_group_also_what_would_be_dropped(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    orders = FifoOrders(filters=[NEW], batch_size=1)
    orders.answer = failing
    await fill_fifo(broker, ("a", body("new", 1)), ("a", body("old", 2)), ("a", body("new", 3)))
    async with serve(orders.app):

        async def held_up() -> bool:
            found = await counts(broker, FIFO)
            return (found.total, found.retrying, found.in_flight) == (3, 1, 0)

        await eventually(held_up, what="one waits, the others behind it")
        assert await filtered(broker, FIFO) == 0
        orders.answer = lambda _: None
        await clock.advance(VISIBILITY_S + 1)
        await settled(broker, FIFO)
    assert numbers(orders) == [1, 1, 3]
    assert await filtered(broker, FIFO) == 1


# -- changes of the setting -------------------------------------------------------------------------------------------


def _in_force(worker: Worker) -> tuple[str, ...]:
    (source,) = (source for source in worker._sources if isinstance(source, QueueSource))
    return source._claims.filter.patterns


async def test_a_change_takes_effect_on_running_workers(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    orders = Orders(filters=[NEW])
    await fill(broker, [body("new", 1), body("old", 2)])

    async with serve(orders.app) as worker:

        async def change(*patterns: str) -> None:
            settings = MappingSettings(queue="orders", function="handle", filters=patterns)
            await register_mapping(broker.core, settings)
            await eventually(lambda: _in_force(worker) == patterns, what="it has read them")

        await settled(broker)
        await change('{"body":{"kind":["old"]}}')
        await broker.queue("orders").send_many([body("new", 3), body("old", 4)])
        await settled(broker)
        await change()
        await broker.queue("orders").send_many([body("new", 5), body("old", 6)])
        await settled(broker)
    assert numbers(orders) == [1, 4, 5, 6]
    assert await filtered(broker) == 2
    assert not lines(logs, "lease_lost")


async def test_a_change_takes_effect_in_an_open_window(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=3, batch_window=300)
    await fill(broker, [body("new", 1)])
    async with serve(orders.app) as worker:

        async def gathering() -> bool:
            return (await counts(broker)).in_flight == 1

        await eventually(gathering, what="the window is open")
        patterns = ('{"body":{"kind":["old"]}}',)
        await register_mapping(
            broker.core,
            MappingSettings(queue="orders", function="handle", batch_size=3, batch_window_s=300, filters=patterns),
        )
        await eventually(lambda: _in_force(worker) == patterns, what="it has read them")
        await broker.queue("orders").send_many([body("new", 2), body("old", 3), body("old", 4)])
        await settled(broker)
    assert numbers(orders) == [1, 3, 4]
    assert await filtered(broker) == 1


async def test_the_log_says_what_changed(serve: Serve, logs: list[MutableMapping[str, Any]]) -> None:
    async with serve(Orders().app):
        pass
    async with serve(Orders(filters=[NEW]).app):
        pass
    (change,) = lines(logs, "mapping_changed")
    assert (change["setting"], change["before"], change["after"]) == ("filters", (), ('{"body":{"kind":["new"]}}',))


async def test_a_mapping_rests_whose_filters_this_release_cannot_read(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    orders = Orders(filters=[NEW])
    await fill(broker, [])
    async with serve(orders.app) as worker:
        newer = MappingSettings(queue="orders", function="handle", filters=('{"body":{"kind":[{"newer":"x"}]}}',))
        await register_mapping(broker.core, newer)
        await eventually(lambda: lines(logs, "filters_unreadable"), what="it says so")
        await broker.queue("orders").send_many([body("new", 1), body("old", 2)])
        await asyncio.sleep(0.03)
        assert (await counts(broker)).visible == 2
        known = msgspec.structs.replace(newer, filters=('{"body":{"kind":["new"]}}',))
        await register_mapping(broker.core, known)
        await settled(broker)
        assert _in_force(worker) == known.filters
    assert numbers(orders) == [1]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([{"body": {"kind": "new"}}], r'Filters\[0\].Pattern: body: "kind" must be an object or an array: \'new\''),
        ([NEW, '{"body":[{"wildcard":"x*"}]}'], r"Filters\[1\].Pattern: body\[0\]: Unrecognized match type wildcard"),
        (["{"], r"Filters\[0\].Pattern: it must be JSON"),
        ([{"body": [{"prefix": 5}]}], r"body\[0\].prefix: prefix match pattern must be a string: 5"),
        ([NEW] * 11, "at most 10 filters are allowed: 11"),
        ([5], r"Filters\[0\].Pattern: it must be a dict or its JSON text: 5"),
        ([{"body": [object()]}], r"Filters\[0\].Pattern: it cannot be encoded as JSON"),
        ([{"body": ["x" * 5_000]}], r"Filters\[0\].Pattern: at most 4096 characters are allowed"),
    ],
)
def test_a_bad_pattern_is_refused_when_it_is_registered(filters: list[Any], message: str) -> None:
    with pytest.raises(InvalidPattern, match=message):
        Orders(filters=filters)


@pytest.mark.parametrize("filters", ['{"body":["x"]}', NEW, 5, None])
def test_filters_must_be_a_list(filters: Any) -> None:
    with pytest.raises(InvalidOption, match="filters"):
        Orders(filters=filters)


async def test_a_stop_while_messages_are_matched_loses_none(broker: Broker, serve: Serve) -> None:
    orders = Orders(filters=[NEW], batch_size=100)
    await fill(broker, [body("new" if number % 2 else "old", number) for number in range(2_000)])
    while (await counts(broker)).total:
        async with serve(orders.app):
            await asyncio.sleep(0.01)
    assert sorted(numbers(orders)) == list(range(1, 2_000, 2))
    assert await filtered(broker) == 1_000
