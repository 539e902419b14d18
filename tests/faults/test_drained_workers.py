"""R21: SIGTERM at random moments under load; a second one; and a supervisor that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.settings import Settings
from runtime.child import ChildOptions
from tests.faults import checker
from tests.faults.killer import Killer
from tests.faults.ledger import Granted, Removed
from tests.faults.scene import SEED, assert_nothing_left, judge, read_all, report, sized, until, wait_until_empty
from tests.faults.service import HISTORY_VARIABLE, ROOT, Service

ROUNDS = sized(20, 200)
CALLS = 100
LONG = 30
SHORT = sized(15_000, 150_000)
CALLERS = 50
RESTARTS = sized(8, 100)
GRACES_S = (0.0, 0.3)
REACTION_MS = 300
"""A signal is heard when the event loop comes round to it, on a busy machine with two cores."""
BACK_S = 1.0


@asynccontextmanager
async def worker(
    server: EmbeddedRedis, settings: Settings, folder: Path, *, grace_s: float
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """One worker process without a supervisor, ready."""
    ours, theirs = socket.socketpair()
    options = ChildOptions(
        app="tests.faults.apps:draining",
        url=server.url,
        grace_s=grace_s,
        max_calls=CALLS,
        threads=4,
        alone=False,
        control=theirs.fileno(),
    )
    environment = {
        **os.environ,
        "PENSTOCK_PREFIX": settings.prefix,
        "PENSTOCK_LEASE_MS": str(settings.lease_ms),
        HISTORY_VARIABLE: str(folder),
        "PYTHONPATH": str(ROOT),
    }
    with ours, theirs, (folder / "log.jsonl").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.child", msgspec.json.encode(options).decode()],
            pass_fds=(theirs.fileno(),),
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            await asyncio.to_thread(_await_ready, ours)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _await_ready(control: socket.socket) -> None:
    control.settimeout(20)
    heard = b""
    while b"ready\n" not in heard:
        heard += control.recv(64)


async def exited(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Its exit status, and how many seconds it took from now."""
    started = time.monotonic()
    status = await asyncio.to_thread(process.wait, 30)
    return status, time.monotonic() - started


@pytest.mark.timeout(200)
async def test_after_sigterm_nothing_is_claimed_and_what_is_unfinished_is_back_at_once(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    stops: list[tuple[int, int]] = []
    slowest_s = 0.0
    async with Broker(durable.url, settings=short_leases) as broker:
        await register_function(broker.core, "mixed", FunctionSettings(timeout_s=600))
        resource, messages = broker.core.resource("function", "mixed"), broker.core.messages
        events = [{"ms": 0, "long": 1}] * LONG + [{"ms": index % 5, "long": 0} for index in range(SHORT)]
        killer.random.shuffle(events)
        ids = await broker.invoke_many("mixed", events)
        for _ in range(ROUNDS):
            grace_s = killer.random.choice(GRACES_S)
            async with worker(durable, short_leases, tmp_path, grace_s=grace_s) as process:
                await asyncio.sleep(killer.pause_s(0, 0.4))
                killer.hit(process.pid, signal.SIGTERM)
                stopped_ms = await messages.now_ms()
                status, seconds = await exited(process)
                counts = await broker.function("mixed").counts()
                slowest_s = max(slowest_s, seconds - grace_s)
                assert status == 0
                assert (counts.in_flight, counts.retrying, counts.set_apart, counts.running) == (0, 0, 0, 0)
                stops.append((stopped_ms, await messages.now_ms()))
        left = (await broker.function("mixed").counts()).total
        (tmp_path / "let-them-end").touch()
        async with worker(durable, short_leases, tmp_path, grace_s=5) as process:
            await wait_until_empty(broker, "mixed", timeout_s=60)
            process.terminate()
            assert (await exited(process))[0] == 0
        await assert_nothing_left(broker, resource)
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
    report(
        "R21",
        seed=killer.seed,
        events=len(ids),
        stops=ROUNDS,
        left_after_stops=left,
        redelivered=found.redelivered,
        slowest_exit_after_grace_s=slowest_s,
        seconds=time.monotonic() - started,
    )
    judge(found)
    assert found.redelivered >= LONG
    assert not [step for step in found.steps if isinstance(step, Removed) and step.why == "ended"], "a stop is no crash"
    for stopped_ms, gone_ms in stops:
        of_round = [step for step in found.steps if isinstance(step, Granted) and step.at_ms <= gone_ms]
        assert checker.late_grants(of_round, after_ms=stopped_ms + REACTION_MS) == []
    assert slowest_s < BACK_S


async def test_a_second_sigterm_ends_the_calls_now(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    async with Broker(durable.url, settings=short_leases) as broker:
        async with worker(durable, short_leases, tmp_path, grace_s=60) as process:
            await broker.invoke_many("mixed", [{"ms": 0, "long": 1}] * 10)
            await until(lambda: in_flight(broker, 10), timeout_s=10, what="all are running")
            process.terminate()
            await asyncio.sleep(0.3)
            assert process.poll() is None
            assert await in_flight(broker, 10), "running calls have the grace period"
            process.terminate()
            status, seconds = await exited(process)
        counts = await broker.function("mixed").counts()
    report("R21 second stop", seconds=seconds)
    assert (status, counts.visible, counts.in_flight) == (0, 10, 0)
    assert seconds < BACK_S


@pytest.mark.timeout(300)
async def test_a_rolling_restart_under_load_answers_every_call(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    answered = 0
    over = asyncio.Event()

    async def call(broker: Broker) -> None:
        nonlocal answered
        while not over.is_set():
            await broker.call("mixed", {"ms": answered % 8, "long": 0}, timeout=60)
            answered += 1

    async with Broker(durable.url, settings=short_leases) as broker, contextlib.AsyncExitStack() as stack:
        start = partial(worker, durable, short_leases, tmp_path, grace_s=30)
        live = [await stack.enter_async_context(start()) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(call(broker))
            for _ in range(RESTARTS):
                live.append(await stack.enter_async_context(start()))
                await asyncio.sleep(killer.pause_s(0, 0.2))
                old = live.pop(0)
                killer.hit(old.pid, signal.SIGTERM)
                status, _ = await exited(old)
                assert status == 0
            over.set()
    report(
        "R21 rolling restart",
        seed=killer.seed,
        restarts=RESTARTS,
        calls=answered,
        seconds=time.monotonic() - started,
    )
    assert answered > CALLERS * RESTARTS


@pytest.mark.parametrize("grace_s", [0.5])
async def test_workers_of_a_killed_supervisor_drain_by_themselves(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path, grace_s: float
) -> None:
    async with Broker(durable.url, settings=short_leases) as broker:
        service = Service(
            "draining", url=durable.url, settings=short_leases, folder=tmp_path, processes=2, grace_s=grace_s
        )
        await service.start()
        await broker.invoke_many("mixed", [{"ms": 0, "long": 1}] * 20)
        await until(lambda: in_flight(broker, 20), timeout_s=10, what="all are running")
        children = service.children()
        assert len(children) == 2
        try:
            service.signal(signal.SIGKILL)
            await service.wait()
            seconds = await until(lambda: not any(map(alive, children)), timeout_s=10, what="the workers have gone")
        finally:
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        counts = await broker.function("mixed").counts()
        assert (counts.visible, counts.in_flight) == (20, 0)
        resource = broker.core.resource("function", "mixed")
        facts = [peeked.facts for peeked in await broker.core.messages.peek(resource, 100)]
    report("R21 orphans", seconds=seconds)
    assert {(fact.receives, fact.tries, fact.crashes) for fact in facts} == {(1, 0, 0)}
    assert seconds < grace_s + BACK_S


async def in_flight(broker: Broker, count: int) -> bool:
    return (await broker.function("mixed").counts()).in_flight == count


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"
