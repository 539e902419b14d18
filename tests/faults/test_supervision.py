"""What a supervisor makes of workers that cannot start, or die while Redis is away, or are many."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from broker.workers import live_workers
from runtime import supervisor as supervisor_module
from runtime.supervisor import Supervisor
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.scene import SEED, report, until
from tests.faults.service import ROOT, Service

MANY = 8
"""More than the event loop's own pool has threads on a machine with two cores."""


def test_an_app_that_cannot_be_registered_ends_the_service_and_says_why(durable: EmbeddedRedis) -> None:
    command = [sys.executable, "-m", "runtime", "runtime", "tests.faults.apps:impossible", "--url", durable.url]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "a function cannot be a destination of itself" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_worker_that_died_while_redis_was_away_is_replaced_when_it_is_back(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service("steady", url=durable.url, settings=short_leases, folder=tmp_path) as service,
    ):
        (worker,) = service.children()
        await asyncio.to_thread(durable.kill)
        Killer(SEED).hit(worker, signal.SIGKILL)
        await until(lambda: len(list(service.lines("worker_died"))) >= 2, timeout_s=20, what="its heir died of that")
        await asyncio.to_thread(durable.start)
        started = time.monotonic()
        identity = await broker.invoke("work", {"ms": 0})
        await until(
            lambda: any(line.event == identity for line in read_histories(tmp_path)),
            timeout_s=20,
            what="the event is handled",
        )
    report("R3 died meanwhile", seconds=time.monotonic() - started)


@pytest.mark.timeout(90)
async def test_each_of_many_workers_is_watched(durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path) -> None:
    async with Service("steady", url=durable.url, settings=short_leases, folder=tmp_path, processes=MANY) as service:
        before = set(service.children())
        assert len(before) == MANY
        killer = Killer(SEED)
        for pid in before:
            killer.hit(pid, signal.SIGKILL)
        await until(
            lambda: len(list(service.lines("worker_ready"))) == 2 * MANY, timeout_s=40, what="all have been replaced"
        )
        assert not before & set(service.children())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("how", "cause"), [("exit", "exit status 3"), ("stop", "exit status 1")])
async def test_a_worker_whose_loop_has_ended_is_replaced_whatever_still_runs_in_it(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path, how: str, cause: str
) -> None:
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service("leaving", url=durable.url, settings=short_leases, folder=tmp_path) as service,
    ):
        await broker.invoke("stay", {})
        await until(lambda: read_histories(tmp_path), timeout_s=20, what="it runs")
        await broker.invoke("leave", how)
        await until(lambda: list(service.lines("worker_died")), timeout_s=20, what="the process has ended")
        assert next(iter(service.lines("worker_died")))["cause"] == cause
        await until(lambda: len(list(service.lines("worker_ready"))) >= 2, timeout_s=20, what="another one is there")


async def test_a_stop_that_comes_before_any_worker_is_there_is_obeyed(durable: EmbeddedRedis) -> None:
    supervisor = Supervisor("tests.faults.apps:steady", url=durable.url, grace_s=1, max_calls=1, threads=1)
    supervisor.stop()
    async with asyncio.timeout(60):
        assert await supervisor.run() == 0


async def test_a_worker_that_the_system_has_no_room_for_is_started_when_there_is(
    durable: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor("tests.faults.apps:steady", url=durable.url, grace_s=1, max_calls=1, threads=1)
    really_start, refused = subprocess.Popen, 0

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        nonlocal refused
        if refused < MANY:
            refused += 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return really_start(*args, **options)

    running = asyncio.create_task(supervisor.run())
    try:
        await supervisor.ready.wait()
        (before,) = supervisor.serving
        async with Broker(durable.url) as broker:
            (worker,) = [each for each in await live_workers(broker.core) if each.process == before]
        monkeypatch.setattr(supervisor_module, "RESTART_LAST_S", 0.01)
        monkeypatch.setattr(subprocess, "Popen", start)
        assert not await supervisor.replace()
        assert supervisor.serving == {before}
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: supervisor.serving - {before}, timeout_s=30, what="another one is there")
        assert refused == MANY
        supervisor.stop()
        assert await asyncio.wait_for(running, 60) == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
