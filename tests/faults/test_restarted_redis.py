"""R3: redis-server is killed with SIGKILL and started again under producers and workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import StoreUnavailable
from broker.settings import Settings
from tests.faults import checker
from tests.faults.history import newest_lines, read_histories
from tests.faults.killer import Killer
from tests.faults.scene import (
    SEED,
    assert_nothing_left,
    judge,
    read_all,
    report,
    sized,
    until,
    wait_until_empty,
)
from tests.faults.service import Serve

PRODUCERS = 8
KILLS = sized(5, 40)
BATCH = 20
RECOVERY_S = 3.0


class Producers:
    """Send without a pause, from one SDK connection; what raised has an unknown outcome."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.accepted: list[str] = []
        self.unknown = 0
        self.longest_s = 0.0
        self.stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(PRODUCERS):
                group.create_task(self._send_many() if number % 2 else self._send_singly())

    async def _send_many(self) -> None:
        while not self.stopping:
            await self._send(BATCH)
            await asyncio.sleep(0.01)

    async def _send_singly(self) -> None:
        while not self.stopping:
            await self._send(1)

    async def _send(self, count: int) -> None:
        started = time.monotonic()
        try:
            if count == 1:
                self.accepted.append(await self._broker.invoke("work", {"ms": 1}))
            else:
                self.accepted += await self._broker.invoke_many("work", [{"ms": 1}] * count)
        except StoreUnavailable:
            self.unknown += count
        self.longest_s = max(self.longest_s, time.monotonic() - started)


async def restart(server: EmbeddedRedis, *, away_s: float) -> float:
    """Kills the server, starts it again after a while; answers how long it was away."""
    started = time.monotonic()
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(away_s)
    await asyncio.to_thread(server.start)
    return time.monotonic() - started


async def works_again(folder: Path, after_ns: int) -> float:
    """How long after that time the first handler was started."""
    return await until(
        lambda: any(line.kind == "start" and line.at_ns > after_ns for line in newest_lines(folder)),
        timeout_s=30,
        what="work flows again",
    )


@pytest.mark.timeout(200)
async def test_everything_accepted_is_handled_over_restarts_of_redis(
    serve: Serve, durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    recoveries: list[float] = []
    async with serve("steady", processes=2) as (broker, service):
        producers = Producers(broker)
        producing = asyncio.create_task(producers.run())
        for number in range(KILLS):
            # The last two in a row: what the first start made of a torn file must survive the second.
            await asyncio.sleep(killer.pause_s(0.8, 1.6) if number < KILLS - 1 else 0.0)
            await restart(durable, away_s=killer.pause_s(0, 0.8))
            if number != KILLS - 2:
                recoveries.append(await works_again(tmp_path, time.monotonic_ns()))
        await asyncio.sleep(0.5)
        producers.stopping = True
        await producing
        resource = broker.core.resource("function", "work")
        await wait_until_empty(broker, "work", timeout_s=90)
        await assert_nothing_left(broker, resource)
        accepted = producers.accepted
        # What was not known to be accepted may have been.
        ran = {line.event for line in read_histories(tmp_path)}
        assert len(set(accepted)) == len(accepted)
        assert len(ran - set(accepted)) <= producers.unknown
        log = service.log_text()
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids={*accepted, *ran})
    report(
        "R3",
        seed=killer.seed,
        events=len(accepted),
        kills=KILLS,
        unknown=producers.unknown,
        redelivered=found.redelivered,
        longest_send_s=producers.longest_s,
        slowest_recovery_s=max(recoveries),
        lost_in_log=log.count('"store_lost"'),
        seconds=time.monotonic() - started,
    )
    judge(found)
    assert not checker.lost(accepted, found.runs)
    assert max(recoveries) < RECOVERY_S
