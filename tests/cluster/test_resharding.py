"""Slots move to other nodes under load."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from broker.settings import Settings
from broker.store.slots import slot_of
from tests.cluster.load import Load, under_load
from tests.servers import RedisCluster


def _slots(load: Load) -> list[int]:
    core = load.broker.core
    names = [core.keys.of(core.resource("function", "f0")).meta, core.keys.of(core.resource("queue", "q0")).meta]
    return [slot_of(name) for name in (*names, core.keys.directory("mappings"), core.keys.workers("live"))]


def _move(cluster: RedisCluster, slot: int) -> None:
    source = cluster.primary_of(slot)
    target = next(member for member in cluster.serving() if member is not source)
    for _ in cluster.move_slot(slot, target):
        pass


async def test_slots_that_move_under_load_lose_nothing_and_run_nothing_twice(
    cluster: RedisCluster, prefix: str
) -> None:
    async with under_load(cluster.url, prefix) as load:
        for slot in _slots(load):
            await asyncio.to_thread(_move, cluster, slot)
        await load.flowing()
        await load.ended()
        assert load.at_once() == []


async def test_slots_that_the_server_moves_as_a_whole_lose_nothing_and_run_nothing_twice(
    cluster: RedisCluster, prefix: str
) -> None:
    if not cluster.moves_whole_slots():
        pytest.skip("the server has no CLUSTER MIGRATESLOTS, which is new in Valkey 9")
    async with under_load(cluster.url, prefix) as load:
        for slot in _slots(load):
            source = await asyncio.to_thread(cluster.primary_of, slot)
            target = next(member for member in await asyncio.to_thread(cluster.serving) if member is not source)
            await asyncio.to_thread(cluster.move_whole_slot, slot, target)
        await load.flowing()
        await load.ended()
        assert load.at_once() == []


async def test_a_send_into_a_slot_that_is_half_moved_waits_for_it(cluster: RedisCluster, prefix: str) -> None:
    """Its keys are at two nodes, and a script needs them all: neither node runs it until they are together again."""
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        queue = broker.queue("orders")
        await queue.create()
        await queue.send("before")
        slot = slot_of(broker.core.keys.of(queue.resource).meta)
        source = await asyncio.to_thread(cluster.primary_of, slot)
        target = next(member for member in await asyncio.to_thread(cluster.serving) if member is not source)
        steps = cluster.move_slot(slot, target, keys_at_once=1)
        await asyncio.to_thread(next, steps)
        await asyncio.to_thread(next, steps)  # one key is there, the others are here
        sending, counting = asyncio.create_task(queue.send("meanwhile")), asyncio.create_task(queue.counts())
        await asyncio.sleep(0.05)
        assert not sending.done()
        assert not counting.done()
        await asyncio.to_thread(lambda: list(steps))
        await sending
        assert (await counting).total >= 1, "nobody but the router repeats this one"
        assert sorted(message.body for message in await queue.receive(10)) == ["before", "meanwhile"]
