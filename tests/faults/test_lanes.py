"""Many events that were on processes when those died run alone, in as many processes as there are workers."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.settings import Settings
from tests.faults.history import read_histories
from tests.faults.scene import report, sized, until, wait_until_empty
from tests.faults.service import Service

EVENTS = sized(1_200, 20_000)
PROCESSES = 3


@pytest.mark.timeout(200)
async def test_many_that_were_set_apart_share_several_processes_and_each_runs_one_at_a_time(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with Broker(durable.url, settings=short_leases) as broker:
        await register_function(broker.core, "work", FunctionSettings(max_crashes=1_000))
        ids = await broker.invoke_many("work", [{"ms": 3}] * EVENTS)
        await leave_leased(broker)
        await asyncio.sleep(0.1)
        async with Service(
            "steady", url=durable.url, settings=short_leases, folder=tmp_path, processes=PROCESSES
        ) as service:
            started = time.monotonic()
            await wait_until_empty(broker, "work", timeout_s=150)
            seconds = time.monotonic() - started
            lanes = sum(line["alone"] for line in service.lines("worker_ready"))
    report("lanes", events=EVENTS, seconds=seconds, lanes=lanes)
    assert lanes == PROCESSES
    running: dict[int, str] = {}
    ran: dict[str, int] = defaultdict(int)
    for line in read_histories(tmp_path):
        if line.kind == "start":
            assert line.pid not in running, "one at a time in each"
            running[line.pid] = line.event
            ran[line.event] += 1
        else:
            assert running.pop(line.pid) == line.event
    assert ran == dict.fromkeys(ids, 1)


async def leave_leased(broker: Broker) -> None:
    """What processes leave that die over all events."""
    resource, messages = broker.core.resource("function", "work"), broker.core.messages
    leased = 0
    while leased < EVENTS:
        token = f"wdeadbeef0000{leased}"
        leased += len((await messages.claim(resource, token=token, lease_ms=1, room=1_000, mode="work")).messages)

    async def apart() -> bool:
        token = "wdeadbeef0000x"
        return (await messages.claim(resource, token=token, lease_ms=1, room=1_000, mode="work")).suspects == EVENTS

    await until(apart, timeout_s=30, what="all are set apart")
