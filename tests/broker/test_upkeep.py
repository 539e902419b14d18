"""Upkeep: tasks whose process died are found, outboxes delivered, old messages removed, in every account and region."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog

from broker import Broker, Queue
from broker.moves import list_moves, start_move
from broker.records import Delivery, pack
from broker.store.values import Onward, member_of
from broker.upkeep import Upkeep
from tests.conftest import Clock
from tests.runtime.scene import eventually, received


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log lines of the test, as they are written."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@asynccontextmanager
async def running(upkeep: Upkeep) -> AsyncIterator[Upkeep]:
    task = asyncio.create_task(upkeep.run())
    try:
        yield upkeep
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def fill_outbox(broker: Broker, source: str, target: str) -> None:
    """A message that its queue sends on, and that nobody relays."""
    queue = broker.queue(source)
    await queue.create()
    await queue.send("sent on")
    claim = await broker.core.messages.claim(queue.resource, token="r1", lease_ms=60_000, room=1, mode="receive")
    record = msgspec.msgpack.encode(Delivery(kind="redrive", target=Queue(target), blob=pack(b"sent on")))
    member = member_of(claim.messages[0].entry, "r1")
    await broker.core.messages.finish(queue.resource, [member], counter="deleted", onward=[Onward(0, "x", record)])


async def all_moved(broker: Broker, queue: str) -> bool:
    (task,) = await list_moves(broker.core, broker.queue(queue).resource)
    return task.status == "COMPLETED"


# -- chores -----------------------------------------------------------------------------------------------------------


async def test_messages_of_a_queue_that_nobody_reads_are_removed_after_their_retention(
    broker: Broker, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    for name in ("first", "second", "third"):
        await broker.queue(name).create(retention=60)
        await broker.queue(name).send_many(range(700))
    await clock.advance(60)
    await broker.queue("third").send("young")
    await Upkeep(broker).round()
    for name, left in (("first", 0), ("second", 0), ("third", 1)):
        counts = await broker.core.messages.counts(broker.queue(name).resource)
        assert counts is not None
        assert counts.total == left
    found = {(line["queue"], line["count"]) for line in logs if line["event"] == "messages_expired"}
    assert found == {("first", 700), ("second", 700), ("third", 700)}


async def test_more_queues_than_one_round_looks_at_get_their_turn(broker: Broker, clock: Clock) -> None:
    names = [f"q{number}" for number in range(120)]
    for name in names:
        await broker.queue(name).create(retention=60)
        await broker.queue(name).send("old")
    await clock.advance(60)
    upkeep = Upkeep(broker)
    for _ in range(3):
        await upkeep.round()
    counts = await asyncio.gather(*(broker.core.messages.counts(broker.queue(name).resource) for name in names))
    assert [each.total for each in counts if each] == [0] * 120


async def test_outboxes_that_nobody_owns_are_delivered_in_every_account_and_region(broker: Broker) -> None:
    for account, region in (("000000000000", "us-east-1"), ("111111111111", "eu-west-1")):
        within = broker.within(account, region)
        await within.queue("target").create()
        await fill_outbox(within, "source", "target")
    async with running(Upkeep(broker, every_s=0.05)):
        for account, region in (("000000000000", "us-east-1"), ("111111111111", "eu-west-1")):
            (message,) = await received(broker.within(account, region), "target")
            assert message.body == "sent on"


async def test_one_process_at_a_time_does_the_chores(broker: Broker) -> None:
    assert await broker.core.directory.take_turn("upkeep", for_ms=60_000, everywhere=True)
    elsewhere = broker.within("111111111111", "eu-west-1")
    assert not await elsewhere.core.directory.take_turn("upkeep", for_ms=60_000, everywhere=True)
    assert await broker.core.directory.take_turn("upkeep", for_ms=60_000)
    assert await elsewhere.core.directory.take_turn("upkeep", for_ms=60_000)


async def test_every_account_and_region_with_something_in_it_is_known(broker: Broker) -> None:
    assert await broker.core.directory.scopes() == []
    await broker.queue("a").create()
    await broker.within("111111111111", "eu-west-1").queue("a").create()
    await broker.within("111111111111", "eu-west-1").queue("b").create()
    wanted = [("000000000000", "us-east-1"), ("111111111111", "eu-west-1")]
    assert await broker.core.directory.scopes() == wanted


# -- move tasks -------------------------------------------------------------------------------------------------------


async def test_a_task_begins_at_once_in_every_account_and_region(broker: Broker) -> None:
    async with running(Upkeep(broker, look_every_s=3_600)):
        await eventually(lambda: broker.core.channels.hears(broker.core.keys.hints), what="it listens")
        for scope in (("000000000000", "us-east-1"), ("111111111111", "eu-west-1")):
            within = broker.within(*scope)
            await within.queue("other").create()
            await within.queue("dead").create()
            await within.queue("dead").send("a")
            dead, other = within.queue("dead").resource, within.queue("other").resource
            await start_move(within.core, dead, destination=other)

            async def moved(within: Broker = within) -> bool:
                return await all_moved(within, "dead")

            await eventually(moved, what="the task ends")
    assert await broker.core.moves.running() == {}


async def test_a_task_whose_hint_was_missed_is_found(broker: Broker) -> None:
    await broker.queue("dead").create()
    await start_move(broker.core, broker.queue("dead").resource)
    async with running(Upkeep(broker, look_every_s=3_600)):
        await eventually(lambda: all_moved(broker, "dead"), what="the task ends")


async def test_who_is_not_the_one_takes_over_when_its_time_is_over(broker: Broker, clock: Clock) -> None:
    await broker.queue("dead").create()
    source = broker.queue("dead").resource
    await start_move(broker.core, source)
    lead = await broker.core.moves.lead(source, "one that dies", lease_ms=60_000)
    assert lead.status == "lead"
    async with running(Upkeep(broker, look_every_s=3_600)) as upkeep:

        async def waits() -> bool:
            return source in upkeep._due and source not in upkeep._movers

        await eventually(waits, what="it has seen that somebody else runs it")
        assert upkeep._due[source] > asyncio.get_running_loop().time() + 30
        await clock.advance(61)
        upkeep.kick(source)
        await eventually(lambda: all_moved(broker, "dead"), what="the task ends")


async def test_hints_that_name_no_queue_are_passed_over(broker: Broker) -> None:
    async with running(Upkeep(broker, look_every_s=3_600)):
        await eventually(lambda: broker.core.channels.hears(broker.core.keys.hints), what="it listens")
        for hint in (b"", b"\xff", b"nonsense"):
            await broker.core.runner.fetch("PUBLISH", broker.core.keys.hints, hint)
        await broker.queue("dead").create()
        await start_move(broker.core, broker.queue("dead").resource)
        await eventually(lambda: all_moved(broker, "dead"), what="the task ends")


async def test_what_fails_is_logged_and_tried_again(broker: Broker, logs: list[MutableMapping[str, Any]]) -> None:
    await broker.queue("dead").create()
    source = broker.queue("dead").resource
    await start_move(broker.core, source)
    broken = b"RUNNING,1,1,1,0,0,,\nno JSON"
    task_id = (await broker.core.moves.all(source) or [])[0].id
    stored = await broker.core.runner.fetch("HGET", broker.core.keys.of(source).moves, task_id)
    await broker.core.runner.fetch("HSET", broker.core.keys.of(source).moves, task_id, broken)
    async with running(Upkeep(broker, look_every_s=3_600)) as upkeep:
        await eventually(lambda: [line for line in logs if line["event"] == "move_interrupted"], what="it is logged")
        await broker.core.runner.fetch("HSET", broker.core.keys.of(source).moves, task_id, stored)
        upkeep.kick(source)
        await eventually(lambda: all_moved(broker, "dead"), what="the task ends")
