"""A primary goes away under load: its replica takes over, and producers and workers with it."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from broker import Broker
from broker.errors import StoreUnavailable
from broker.names import Resource
from broker.settings import Settings
from broker.store.keys import Keyspace
from broker.store.slots import slot_of
from tests.cluster.load import under_load
from tests.servers import Member, RedisCluster


def _primary_of(cluster: RedisCluster, prefix: str, function: str) -> Member:
    keys = Keyspace(prefix, "000000000000", "us-east-1")
    return cluster.primary_of(slot_of(keys.of(Resource("function", "000000000000", "us-east-1", function)).meta))


async def test_a_killed_primary_is_replaced_and_nothing_replicated_is_lost(cluster: RedisCluster, prefix: str) -> None:
    async with under_load(cluster.url, prefix) as load:
        primary = await asyncio.to_thread(_primary_of, cluster, prefix, "f0")
        died_at = time.monotonic()
        await asyncio.to_thread(primary.kill)
        await load.flowing()
        await load.ended(died_at=died_at)
        assert load.at_once(died_at=died_at) == []


async def test_nobody_waits_for_a_primary_that_is_stopped(cluster: RedisCluster, prefix: str) -> None:
    """It keeps its connections open and answers nothing; those who wait are told as soon as another serves."""
    async with under_load(cluster.url, prefix) as load:
        primary = await asyncio.to_thread(_primary_of, cluster, prefix, "f0")
        died_at = time.monotonic()
        primary.signal(signal.SIGSTOP)
        await load.flowing()
        primary.signal(signal.SIGCONT)
        await load.ended(died_at=died_at)
        assert load.at_once(died_at=died_at) == []


async def test_a_command_under_way_at_a_stopped_primary_ends_when_another_serves(
    cluster: RedisCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome is unknown then, long before its own timeout."""
    monkeypatch.setattr("broker.store.connection._TIMEOUT_S", 600.0)
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        queue = broker.queue("orders")
        await queue.create()
        meta = broker.core.keys.of(queue.resource).meta
        primary = await asyncio.to_thread(cluster.primary_of, slot_of(meta))
        primary.signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await queue.counts()
        assert (await queue.counts()).total == 0


async def test_a_planned_failover_loses_nothing_and_runs_nothing_twice(cluster: RedisCluster, prefix: str) -> None:
    async with under_load(cluster.url, prefix) as load:
        for function in ("f0", "f1"):
            primary = await asyncio.to_thread(_primary_of, cluster, prefix, function)
            replica = await asyncio.to_thread(cluster.replica_of, primary)
            await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")
            await load.flowing()
        await load.ended()
        assert load.at_once() == []
