"""Worker processes that have done enough are exchanged: no event is lost or run twice, and never are there fewer."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.embedded import EmbeddedRedis
from runtime.recycling import Allowance, Recycle, memory_bytes
from runtime.supervisor import Supervisor
from tests.faults.scene import assert_nothing_left, judge, read_all, report, until, wait_until_empty
from tests.faults.service import ROOT, Serve, Service

EACH = 300
EXCHANGES = 4
MOST_EVENTS = 60_000
PROCESSES = 2
CHUNK_MB = 8
CALLS_OF_NEEDY = 24


async def test_after_so_many_events_a_process_is_exchanged_and_events_notice_nothing(
    serve: Serve, durable: EmbeddedRedis, tmp_path: Path
) -> None:
    options = ("--max-events-per-process", str(EACH))
    async with serve("steady", processes=PROCESSES, options=options) as (broker, service):
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


async def test_a_process_that_has_grown_too_large_is_exchanged(serve: Serve) -> None:
    limit_mb = memory_bytes() // 1024 // 1024 + 100
    async with serve("hoarding", options=("--max-memory", str(limit_mb))) as (broker, service):
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


async def test_a_limit_below_what_the_app_needs_is_told_and_does_not_exchange_processes_for_ever(serve: Serve) -> None:
    limit_mb = memory_bytes() // 1024 // 1024 + 50
    async with serve("needy", options=("--max-memory", str(limit_mb))) as (broker, service):
        for _ in range(CALLS_OF_NEEDY):
            await broker.call("need", {"mb": 2 * limit_mb}, timeout=60)
            await asyncio.sleep(0.25)
        recycled, told = list(service.lines("worker_recycled")), list(service.lines("memory_limit_too_low"))
    assert len(recycled) <= 1, "the second one has room for what the first one took"
    assert 1 <= len(told) <= 2, "each process says it once"
    assert told[0]["limit_mb"] == limit_mb
    assert told[0]["memory_mb"] > limit_mb
    assert "--max-memory" in told[0]["action"]


async def test_one_whose_successor_cannot_start_goes_on(serve: Serve) -> None:
    options, only_once = ("--max-events-per-process", "1"), {"FAULTS_ONCE": "1"}
    async with serve("once_only", options=options, environment=only_once) as (broker, service):
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


async def test_what_is_not_asked_for_is_never_a_reason() -> None:
    told = list[str]()
    await asyncio.wait_for(Recycle().watch(lambda: 10**9, told.append), 10)  # has nothing to look at
    assert not told
    for events, recycle in ((4, Recycle(events=5)), (0, Recycle(events=5, memory_mb=1))):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(recycle.watch(lambda events=events: events, told.append), 1.2)  # type: ignore[misc]
        assert not told
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(Recycle(events=5, memory_mb=1).watch(lambda: 5, told.append), 1.2)
    assert told[0].split()[:3] == ["spent", "events", "5"]


LOOKS = {
    "grows over the limit later": ([(0, 0, 50), (1, 1, 60), (20, 9, 100), (21, 9, 101)], [21], False),
    "is over it before it has done anything": ([(0, 0, 110), (900, 0, 140), (901, 1, 142), (990, 9, 150)], [], True),
    "is over it as soon as it works": ([(0, 0, 50), (1, 1, 120), (2, 2, 125), (60, 9, 125), (61, 9, 157)], [61], True),
    "leaks at once": ([(0, 0, 50), (1, 5, 120), (2, 9, 126)], [2], True),
    "rests over it and leaks": ([(0, 0, 110), (1, 1, 130), (2, 2, 138)], [2], True),
}


@pytest.mark.parametrize("case", LOOKS)
def test_when_a_process_is_too_large(case: str) -> None:
    looks, expected, told = LOOKS[case]
    allowance = Allowance(100)
    over, news = list[int](), 0
    for now, events, used in looks:
        if allowance.is_over(used, events, float(now)):
            over.append(now)
        news += allowance.is_news
    assert over == expected
    assert news == told


def test_one_that_takes_the_place_of_one_that_needed_more_at_once_has_a_quarter_more() -> None:
    first = Allowance(100)
    assert first.is_over(300, 1, 0.0)
    assert first.is_early
    second = Allowance(100, early=300)
    assert not any(second.is_over(370, events, float(now)) for now, events in ((0, 0), (1, 1), (11, 2), (900, 3)))
    assert second.is_over(463, 4, 1_000.0)
    assert not second.is_early


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
