"""R12: a handler holds the event loop for longer than a lease."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.scene import assert_nothing_left, judge, read_all, report, wait_until_empty
from tests.faults.service import Service

NEIGHBOURS = 20


async def run_one(
    server: EmbeddedRedis, settings: Settings, folder: Path, how: str, leases: float, *, processes: int = 1
) -> tuple[int, str]:
    """One blocking event among others; answers how many events were handed out again, and the log."""
    started = time.monotonic()
    async with (
        Broker(server.url, settings=settings) as broker,
        Service("blocking", url=server.url, settings=settings, folder=folder, processes=processes) as service,
    ):
        neighbour = {"how": "await", "s": 0.2}
        blocker = {"how": how, "s": leases * settings.lease_ms / 1000}
        ids = await broker.invoke_many("block", [*[neighbour] * NEIGHBOURS, blocker])
        await wait_until_empty(broker, "block", timeout_s=40)
        resource = broker.core.resource("function", "block")
        await assert_nothing_left(broker, resource)
    async with Broker(server.url, settings=settings) as broker:
        found = await read_all(broker, resource, server, folder, ids=ids)
    # One that holds the interpreter is, for Redis, a stopped process.
    judge(found, stopped={run.pid for run in found.runs} if how == "c" else ())
    report(f"R12 {how} {leases:g}", redelivered=found.redelivered, seconds=time.monotonic() - started)
    return found.redelivered, service.log_text()


@pytest.mark.parametrize("how", ["sleep", "python"])
async def test_a_blocked_loop_keeps_its_leases_and_the_log_names_the_function(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path, how: str
) -> None:
    redelivered, log = await run_one(durable, short_leases, tmp_path, how, 3)
    assert redelivered == 0
    assert '"event":"loop_blocked","function":"block"' in log
    assert "_count_for" in log if how == "python" else "time.sleep" in log


async def test_a_c_call_of_half_a_lease_costs_nothing(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    redelivered, _ = await run_one(durable, short_leases, tmp_path, "c", 0.5)
    assert redelivered == 0


async def test_a_c_call_that_holds_the_interpreter_past_its_lease_is_fenced_and_loses_nothing(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    """Nobody can renew the leases meanwhile: another process takes over, and what comes late is refused."""
    redelivered, log = await run_one(durable, short_leases, tmp_path, "c", 2.5, processes=2)
    assert redelivered >= 1
    assert '"lease_lost"' in log
    assert '"event":"process_stood_still","function":"block"' in log
