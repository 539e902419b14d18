"""R5: connections that were cut, and connections that look alive and are not: work flows again by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults import checker
from tests.faults.conftest import LEASE_MS
from tests.faults.history import newest_lines
from tests.faults.proxy import FaultProxy, Rule
from tests.faults.scene import assert_nothing_left, judge, read_all, report, sized, until, wait_until_empty
from tests.faults.service import Serve, Service

ROUNDS = sized(10, 200)
AGAIN_S = 2.0
SUBSCRIBING_S = 1.5
HALF_OPEN_S = 20.0
"""A command waits ten seconds for its answer; a silent channel is pinged every ten seconds and given five."""


async def handled(broker: Broker, folder: Path, *, timeout_s: float, function: str = "trickle") -> float:
    """Sends one event; answers how long it took until its handler began."""
    started = time.monotonic()
    identity = await broker.invoke(function, {"ms": 0})
    await until(
        lambda: any(line.event == identity for line in newest_lines(folder)),
        timeout_s=timeout_s,
        what="the event is handled",
    )
    return time.monotonic() - started


async def connections(broker: Broker) -> int:
    return len((await broker.core.runner.fetch("CLIENT", "LIST")).splitlines())


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_work_flows_again_after_all_connections_were_cut(
    serve: Serve, durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path, state: str
) -> None:
    slowest_s, ids = 0.0, list[str]()
    async with serve("steady") as (broker, service):
        await handled(broker, tmp_path, timeout_s=5)
        await asyncio.sleep(0.2)
        before = await connections(broker)
        for number in range(ROUNDS):
            if state == "busy":
                ids += await broker.invoke_many("work", [{"ms": 5}] * 300)
            for kind in ("pubsub", "normal") if number % 2 else ("normal", "pubsub"):
                await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", kind)
            slowest_s = max(slowest_s, await handled(broker, tmp_path, timeout_s=30))
        await wait_until_empty(broker, "work", timeout_s=30)
        await asyncio.sleep(0.3)
        after = await connections(broker)
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
        log = service.log_text()
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
    report(
        f"R5 cut {state}",
        rounds=ROUNDS,
        events=len(ids),
        redelivered=found.redelivered,
        slowest_s=slowest_s,
        connections_before=before,
        connections_after=after,
    )
    judge(found)
    assert slowest_s < AGAIN_S
    assert after <= before + 2
    assert "Traceback" not in log


async def test_what_was_sent_while_nobody_listened_is_picked_up_when_the_channel_is_back(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with (
        FaultProxy(durable.directory / "redis.sock", tmp_path / "proxy.sock") as proxy,
        Broker(durable.url, settings=short_leases) as broker,
        Service("steady", url=proxy.url, settings=short_leases, folder=tmp_path),
    ):
        await handled(broker, tmp_path, timeout_s=5)
        await asyncio.sleep(LEASE_MS / 1000 + 0.3)  # until it waits for nothing but a wake-up
        slow = proxy.add(Rule("delay", command="SUBSCRIBE", delay_s=SUBSCRIBING_S))
        await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.wait_for(slow.fired.wait(), 5)
        seconds = await handled(broker, tmp_path, timeout_s=20)
        proxy.remove(slow)
    report("R5 unheard", seconds=seconds, channel_away_s=SUBSCRIBING_S)
    assert SUBSCRIBING_S / 2 < seconds < SUBSCRIBING_S + 1


@pytest.mark.timeout(100)
async def test_work_flows_again_after_connections_were_half_open(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with (
        FaultProxy(durable.directory / "redis.sock", tmp_path / "proxy.sock") as proxy,
        Broker(durable.url, settings=short_leases) as broker,
        Service("steady", url=proxy.url, settings=short_leases, folder=tmp_path, processes=2),
    ):
        ids = await broker.invoke_many("work", [{"ms": 5}] * 2_000)
        swallowing = proxy.add(Rule("swallow"))
        await asyncio.wait_for(swallowing.fired.wait(), 5)
        await asyncio.sleep(0.5)  # until every busy connection has run into it
        proxy.remove(swallowing)
        seconds = await handled(broker, tmp_path, timeout_s=40, function="work")
        await wait_until_empty(broker, "work", timeout_s=60)
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
    report("R5 half open", events=len(ids), redelivered=found.redelivered, seconds=seconds)
    # Both workers lost touch for longer than their leases and went on: what others took over may have run twice.
    judge(found, stopped={run.pid for run in found.runs})
    assert not checker.lost(ids, found.runs)
    assert seconds < HALF_OPEN_S
