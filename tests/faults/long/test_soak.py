"""R24: an ordinary load for as long as ``PENSTOCK_FAULT_SOAK_S`` says, with restarts of workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.killer import Killer
from tests.faults.scene import SEED, assert_nothing_left, report, wait_until_empty
from tests.faults.service import Service

SOAK_S = float(os.environ.get("PENSTOCK_FAULT_SOAK_S", "0"))
EVENTS_A_SECOND = 1_000
RESTART_S = 60.0
GROWTH_KB_AN_HOUR = 4_096
_KB = 1024


def resident_kb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // _KB


async def keys_and_connections(broker: Broker) -> tuple[int, int]:
    """Keys for good (why a process was ended is kept for a day), and connections."""
    fetch = broker.core.runner.fetch
    found = re.search(rb"keys=(\d+),expires=(\d+)", await fetch("INFO", "keyspace"))
    assert found is not None
    return int(found[1]) - int(found[2]), len((await fetch("CLIENT", "LIST")).splitlines())


@pytest.mark.skipif(not SOAK_S, reason="PENSTOCK_FAULT_SOAK_S says for how many seconds")
async def test_memory_keys_and_connections_stay(short_leases: Settings, tmp_path: Path) -> None:
    killer, sent = Killer(SEED), 0
    with EmbeddedRedis(tmp_path / "redis") as server:
        async with (
            Broker(server.url, settings=short_leases) as broker,
            Service("steady", url=server.url, settings=short_leases, folder=tmp_path, processes=2) as service,
        ):
            started = time.monotonic()
            kept = service.children()[0]  # the other one is killed now and then
            looked: list[tuple[float, int, int, int]] = []
            next_kill = RESTART_S
            while (now := time.monotonic() - started) < SOAK_S:
                await broker.invoke_many("work", [{"ms": 2}] * EVENTS_A_SECOND)
                sent += EVENTS_A_SECOND
                if now > next_kill:
                    next_kill += RESTART_S
                    killer.hit_one([pid for pid in service.children() if pid != kept], signal.SIGKILL)
                looked.append((now, resident_kb(kept), *await keys_and_connections(broker)))
                await asyncio.sleep(max(0.0, 1 - (time.monotonic() - started - now)))
            await wait_until_empty(broker, "work", timeout_s=60)
            await assert_nothing_left(broker, broker.core.resource("function", "work"))
    settled = looked[len(looked) // 4 :]  # caches are full by then
    hours = (settled[-1][0] - settled[0][0]) / 3_600
    growth = (settled[-1][1] - settled[0][1]) / hours
    report(
        "R24",
        seed=SEED,
        for_s=SOAK_S,
        events=sent,
        kills=len(killer.shots),
        worker_kb_then=settled[0][1],
        worker_kb_at_the_end=settled[-1][1],
        growth_kb_an_hour=growth,
        keys_then=settled[0][2],
        keys_at_the_end=settled[-1][2],
        connections_at_most=max(each[3] for each in settled),
    )
    assert growth < GROWTH_KB_AN_HOUR
    assert settled[-1][2] <= settled[0][2] + 5
