"""R1: worker processes are killed with SIGKILL at random while events run."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.killer import Killer
from tests.faults.scene import (
    EVENTS,
    SEED,
    assert_nothing_left,
    judge,
    read_all,
    report,
    sized,
    until,
    wait_until_empty,
)
from tests.faults.service import Serve, Service

PROCESSES = sized(2, 4)
CALLS = 100
BURSTS = sized(200, 1_000)
BURST_S = 0.04


async def shoot(killer: Killer, service: Service, broker: Broker, done: asyncio.Event) -> None:
    """SIGKILL to one of the workers every 0.5 to 1 s, until told that it is enough."""
    while not done.is_set():
        await asyncio.sleep(killer.pause_s(0.5, 1.0))
        workers = await service.workers(broker)
        killer.hit_one([worker.pid for worker in workers], signal.SIGKILL)


async def feed(broker: Broker) -> list[str]:
    """Sends the events in bursts, so that few of them are under fire for as long as many."""
    ids: list[str] = []
    for burst in range(BURSTS):
        numbers = range(burst, EVENTS, BURSTS)
        ids += await broker.invoke_many("work", ({"ms": number % 5} for number in numbers))
        await asyncio.sleep(BURST_S)
    return ids


async def none_visible(broker: Broker) -> bool:
    return (await broker.function("work").counts()).visible == 0


@pytest.mark.timeout(300)
async def test_no_event_is_lost_or_leased_twice_when_workers_are_killed(
    serve: Serve, durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer = Killer(SEED)
    async with serve("steady", processes=PROCESSES, max_calls=CALLS) as (broker, service):
        started = time.monotonic()
        done = asyncio.Event()
        shooting = asyncio.create_task(shoot(killer, service, broker, done))
        ids = await feed(broker)
        await until(lambda: none_visible(broker), timeout_s=150, what="all but what is set apart has been handed out")
        under_fire_s = time.monotonic() - started
        done.set()
        await shooting
        set_apart = (await broker.function("work").counts()).set_apart
        await wait_until_empty(broker, "work", timeout_s=240)
        seconds = time.monotonic() - started
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
    async with Broker(durable.url, settings=short_leases) as broker:
        deaths = killer.times_ns(signal.SIGKILL)
        found = await read_all(broker, resource, durable, tmp_path, ids=ids, deaths_ns=deaths)
    report(
        "R1",
        seed=killer.seed,
        events=EVENTS,
        workers=PROCESSES,
        kills=len(killer.shots),
        redelivered=found.redelivered,
        under_fire_s=under_fire_s,
        set_apart_then=set_apart,
        seconds=seconds,
        judged_after_s=time.monotonic() - started,
    )
    judge(found)
    assert len(killer.shots) >= BURSTS * BURST_S / 2
    assert found.redelivered
