"""Worker processes that have done enough are exchanged: no event is lost or run twice, and never are there fewer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from runtime.recycling import Recycle, memory_bytes
from runtime.supervisor import Supervisor
from tests.faults.scene import assert_nothing_left, judge, read_all, report, until, wait_until_empty
from tests.faults.service import ROOT, Service

EACH = 300
EXCHANGES = 4
MOST_EVENTS = 60_000
PROCESSES = 2
CHUNK_MB = 8


async def test_after_so_many_events_a_process_is_exchanged_and_events_notice_nothing(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service(
            "steady",
            url=durable.url,
            settings=short_leases,
            folder=tmp_path,
            processes=PROCESSES,
            options=("--max-events-per-process", str(EACH)),
        ) as service,
    ):
        first = set(service.children())
        ids: list[str] = []
        while len(list(service.lines("worker_recycled"))) < EXCHANGES:
            assert len(ids) < MOST_EVENTS, service.log_text()
            ids += await broker.invoke_many("work", [{"ms": 1}] * EACH)
            await wait_until_empty(broker, "work", timeout_s=30)
        await until(lambda: not first & set(service.children()), timeout_s=20, what="the first ones have drained")
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
        recycled = list(service.lines("worker_recycled"))
    judge(found)
    assert len(found.runs) == len(ids)
    assert {line["reason"] for line in recycled} == {"events"}
    assert all(line["events"] >= EACH for line in recycled)
    assert min(claiming_at_a_time(service)) >= PROCESSES
    assert not list(service.lines("worker_died"))
    report("recycled", events=len(ids), exchanges=len(recycled), redelivered=found.redelivered)


def claiming_at_a_time(service: Service) -> Iterator[int]:
    """How many processes claim after each start and stop, from when all were there until the stop of the service."""
    changes = [(str(line["timestamp"]), 1) for line in service.lines("worker_ready")]
    stops = sorted(str(line["timestamp"]) for line in service.lines("worker_stopping"))
    changes += [(timestamp, -1) for timestamp in stops[:-PROCESSES]]
    claiming = 0
    for number, (_, change) in enumerate(sorted(changes), start=1):
        claiming += change
        if number >= PROCESSES:
            yield claiming


async def test_a_process_that_has_grown_too_large_is_exchanged(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    limit_mb = memory_bytes() // 1024 // 1024 + 100
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service(
            "hoarding",
            url=durable.url,
            settings=short_leases,
            folder=tmp_path,
            options=("--max-memory", str(limit_mb)),
        ) as service,
    ):
        (first,) = service.children()
        for _ in range(2 * limit_mb // CHUNK_MB):
            if list(service.lines("worker_recycled")):
                break
            await broker.call("hoard", {"mb": CHUNK_MB})
        await until(lambda: list(service.lines("worker_recycled")), timeout_s=20, what="it is exchanged")
        await until(lambda: first not in service.children(), timeout_s=20, what="it has drained")
        assert await broker.call("hoard", {"mb": 0}) != first
    (line,) = service.lines("worker_recycled")
    assert (line["reason"], line["memory_mb"] >= limit_mb) == ("memory", True)


async def test_one_whose_successor_cannot_start_goes_on(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service(
            "once_only",
            url=durable.url,
            settings=short_leases,
            folder=tmp_path,
            options=("--max-events-per-process", "1"),
            environment={"FAULTS_ONCE": "1"},
        ) as service,
    ):
        pid = await broker.call("whoami", {})
        await until(lambda: list(service.lines("worker_not_recycled")), timeout_s=20, what="that is told")
        assert await broker.call("whoami", {}) == pid
        assert service.children() == [pid]


async def test_a_limit_that_the_app_alone_exceeds_stops_the_start(durable: EmbeddedRedis) -> None:
    command = [sys.executable, "-m", "runtime", "runtime", "tests.faults.apps:steady", "--url", durable.url]
    ended = await asyncio.to_thread(
        lambda: subprocess.run(
            [*command, "--max-memory", "1"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "max-memory" in line
    assert "before its first event" in line


def test_what_is_not_asked_for_is_never_a_reason() -> None:
    assert Recycle().reason(10**9) == ""
    assert Recycle(events=5).reason(4) == ""
    assert Recycle(events=5).reason(5) == "events"
    assert Recycle(events=5, memory_mb=1).reason(0) == "memory"


async def test_who_waits_for_its_turn_to_exchange_workers_starts_none_after_a_stop(durable: EmbeddedRedis) -> None:
    supervisor = Supervisor("tests.faults.apps:steady", url=durable.url, grace_s=1, max_calls=1, threads=1)
    running = asyncio.create_task(supervisor.run())
    try:
        await supervisor.ready.wait()
        async with supervisor._exchanging:
            exchange = asyncio.create_task(supervisor.replace())
            await asyncio.sleep(0)
            supervisor.stop()
        assert await asyncio.wait_for(running, 60) == 0
        assert not await exchange
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
