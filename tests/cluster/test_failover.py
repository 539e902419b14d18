"""A primary goes away under load: its replica takes over, and producers and workers with it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import MutableMapping
from typing import Any

import pytest

from broker import Broker
from broker.errors import DurabilityNotMet, StoreUnavailable
from broker.names import Resource
from broker.settings import Settings
from broker.store.keys import Keyspace
from broker.store.slots import slot_of
from runtime import App, Context
from tests.cluster.load import LEASE_MS, under_load
from tests.runtime.conftest import logs  # noqa: F401 - a fixture
from tests.runtime.scene import empty, eventually, lines, serving
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


@pytest.mark.parametrize("durability", ["", "replica:1"])
async def test_a_command_under_way_at_a_stopped_primary_ends_when_another_serves(
    cluster: RedisCluster, prefix: str, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """Its outcome is unknown then, long before its own timeout, and without the time that one that answers is given."""
    monkeypatch.setattr("broker.store.connection._TIMEOUT_S", 600.0)
    monkeypatch.setattr("broker.store.cluster._RETIRE_S", 600.0)
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        queue = broker.queue("orders")
        await queue.create(durability=durability)
        await queue.send("before")  # whatever connections this takes, they are there
        meta = broker.core.keys.of(queue.resource).meta
        primary = await asyncio.to_thread(cluster.primary_of, slot_of(meta))
        primary.signal(signal.SIGSTOP)
        sending = asyncio.create_task(queue.send("meanwhile"))
        async with asyncio.timeout(60):
            with pytest.raises(StoreUnavailable):
                await queue.counts()
            if durability:  # the new primary has no replica yet
                with pytest.raises(DurabilityNotMet):
                    await sending
            else:
                await sending
            assert (await queue.counts()).total == (1 if durability else 2)


async def test_a_planned_failover_loses_nothing_and_runs_nothing_twice(cluster: RedisCluster, prefix: str) -> None:
    async with under_load(cluster.url, prefix) as load:
        for function in ("f0", "f1"):
            primary = await asyncio.to_thread(_primary_of, cluster, prefix, function)
            replica = await asyncio.to_thread(cluster.replica_of, primary)
            await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")
            await load.flowing()
        await load.ended()
        assert load.at_once() == []


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_call_that_outlasts_its_lease_during_a_failover_keeps_it_and_the_worker_is_ready_again(
    cluster: RedisCluster,
    prefix: str,
    fault: signal.Signals,
    logs: list[MutableMapping[str, Any]],  # noqa: F811 - the fixture
) -> None:
    """The lease runs out while nobody serves it; who still holds it renews it before anybody claims again."""
    settings = Settings(prefix=prefix, lease_ms=LEASE_MS)
    app, gate, began = App(), asyncio.Event(), list[Any]()

    @app.function(name="f0", timeout=600)
    async def handle(event: Any, context: Context) -> None:
        began.append(event)
        if event == "long":
            await gate.wait()

    async with Broker(cluster.url, settings=settings) as broker, serving(app, cluster.url, settings) as worker:
        await broker.invoke("f0", "long")
        await eventually(lambda: began, what="it runs")
        primary = await asyncio.to_thread(_primary_of, cluster, prefix, "f0")
        await asyncio.sleep(1)  # the lease has reached the replica
        primary.signal(fault)
        await broker.invoke("f0", "short")
        await eventually(lambda: "short" in began, what="another serves", timeout_s=30)
        await eventually(lambda: worker.why_not_ready() is None, what="the worker is ready", timeout_s=30)
        gate.set()
        await empty(broker, "f0")
    assert began == ["long", "short"]
    assert not lines(logs, "lease_lost")
    assert not lines(logs, "events_set_apart")
