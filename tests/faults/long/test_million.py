"""The headline: a million events while workers and Redis are killed and paused, all of it at random."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import StoreError, StoreUnavailable
from broker.settings import Settings
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.scene import EVENTS, SEED, assert_nothing_left, judge, read_all, report, wait_until_empty
from tests.faults.service import Service
from tests.faults.test_restarted_redis import restart

WORKERS = 4
PRODUCERS = 4
BATCH = 500
AHEAD = 50_000
"""How many events may wait: so that faults meet producers and workers all the time, not one after the other."""
LEASES_SLEPT = (1.5, 2.5)


class Producers:
    """Send until so many are accepted. What raised has an unknown outcome, and is sent again as something new."""

    def __init__(self, broker: Broker, wanted: int) -> None:
        self._broker = broker
        self._wanted = wanted
        self._under_way = 0
        self.accepted: list[str] = []
        self.unknown = 0

    @property
    def done(self) -> bool:
        return len(self.accepted) >= self._wanted

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(PRODUCERS):
                group.create_task(self._send())
            group.create_task(self._look())

    async def _send(self) -> None:
        while (left := self._wanted - len(self.accepted) - self._under_way) > 0 or self._under_way:
            count = min(BATCH, max(left, 0))
            if count == 0 or self._waiting > AHEAD:
                await asyncio.sleep(0.05)
                continue
            self._under_way += count
            try:
                self.accepted += await self._broker.invoke_many("work", ({"ms": number % 5} for number in range(count)))
                self._waiting += count
            except StoreUnavailable:
                self.unknown += count
            finally:
                self._under_way -= count

    _waiting = 0

    async def _look(self) -> None:
        while not self.done:
            await asyncio.sleep(0.2)
            try:
                self._waiting = (await self._broker.function("work").counts()).visible
            except StoreError:
                continue


class Chaos:
    """One fault after the other until all events are accepted."""

    def __init__(self, killer: Killer, service: Service, server: EmbeddedRedis, broker: Broker, lease_s: float) -> None:
        self._killer, self._service, self._server, self._broker = killer, service, server, broker
        self._lease_s = lease_s
        self.hits: Counter[str] = Counter()
        self.stopped: set[int] = set()
        self._waking: set[asyncio.Task[None]] = set()

    async def run(self, producers: Producers) -> None:
        deck: list[str] = []
        while not producers.done:
            if not deck:
                deck = [*["kill worker"] * 5, *["pause worker"] * 3, "kill redis", "pause redis"]
                self._killer.random.shuffle(deck)
            await asyncio.sleep(self._killer.pause_s(0.8, 2.0))
            if await self._hit(what := deck.pop()):
                self.hits[what] += 1
        await asyncio.gather(*self._waking)

    async def _hit(self, what: str) -> bool:
        match what:
            case "kill worker":
                return self._killer.hit_one(await self._workers(), signal.SIGKILL) is not None
            case "pause worker":
                pid = self._killer.hit_one(await self._workers(), signal.SIGSTOP)
                if pid is not None:
                    self.stopped.add(pid)
                    self._waking.add(asyncio.create_task(self._wake(pid, self._sleep_s())))
                return pid is not None
            case "kill redis":
                await restart(self._server, away_s=self._killer.pause_s(0, 0.8))
            case _:
                pid = self._server.pid
                self._killer.hit(pid, signal.SIGSTOP)
                await self._wake(pid, self._sleep_s())
        return True

    async def _workers(self) -> list[int]:
        """Those that are ready and awake."""
        try:
            return [
                worker.pid for worker in await self._service.workers(self._broker) if worker.pid not in self._asleep
            ]
        except StoreError:
            return []

    _asleep: frozenset[int] = frozenset()

    def _sleep_s(self) -> float:
        return self._killer.pause_s(*LEASES_SLEPT) * self._lease_s

    async def _wake(self, pid: int, after_s: float) -> None:
        self._asleep |= {pid}
        try:
            await asyncio.sleep(after_s)
        finally:
            self._killer.hit(pid, signal.SIGCONT)
            self._asleep -= {pid}


@pytest.mark.timeout(3_600)
async def test_a_million_events_survive_killed_and_paused_workers_and_a_killed_and_paused_redis(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    async with (
        Broker(durable.url, settings=short_leases) as broker,
        Service(
            "steady", url=durable.url, settings=short_leases, folder=tmp_path, processes=WORKERS, max_calls=100
        ) as service,
    ):
        producers = Producers(broker, EVENTS)
        chaos = Chaos(killer, service, durable, broker, short_leases.lease_ms / 1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(producers.run())
            group.create_task(chaos.run(producers))
        under_fire_s = time.monotonic() - started
        await wait_until_empty(broker, "work", timeout_s=240)
        seconds = time.monotonic() - started
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
        refused = sum(int(line["refused"]) for line in service.lines("lease_lost"))
        noticed = sum(int(line["count"]) for line in service.lines("leases_lost"))
    accepted = set(producers.accepted)
    assert len(accepted) == len(producers.accepted)
    ran = {line.event for line in read_histories(tmp_path)}
    unexpected = len(ran - accepted)
    deaths = killer.times_ns(signal.SIGKILL)
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=accepted | ran, deaths_ns=deaths)
    report(
        "headline",
        seed=killer.seed,
        lost=len(accepted - {run.event for run in found.runs if run.ended}),
        accepted=len(accepted),
        workers=WORKERS,
        workers_killed=chaos.hits["kill worker"],
        workers_paused=chaos.hits["pause worker"],
        redis_killed=chaos.hits["kill redis"],
        redis_paused=chaos.hits["pause redis"],
        unknown_outcomes=producers.unknown,
        of_these_stored=unexpected,
        redelivered=found.redelivered,
        late_settles_refused=refused,
        lost_leases_noticed=noticed,
        under_fire_s=under_fire_s,
        seconds=seconds,
        judged_after_s=time.monotonic() - started,
    )
    judge(found, stopped=chaos.stopped)
    assert unexpected <= producers.unknown
    assert all(chaos.hits[what] for what in ("kill worker", "pause worker", "kill redis", "pause redis"))
    assert refused + noticed, "some slept past their leases, and were told so"
