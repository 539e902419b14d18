"""R4: with ``appendfsync everysec`` the power goes: what the disk has not got is cut off the append-only file.

The worst that the setting allows is imitated: the file is cut to the size that it had two seconds before the end, at
whatever byte that is. What was acknowledged before must be there, and what is there must be whole.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults import checker
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.ledger import read_ledger
from tests.faults.scene import SEED, assert_nothing_left, judged, report, sized, wait_until_empty
from tests.faults.service import Service
from tests.faults.test_restarted_redis import Producers

CUTS = sized(3, 20)
UNSYNCED_S = 2.0
"""What ``everysec`` may lose: the second since the last sync began, and the one that the next may take."""
LOOK_S = 0.02


@pytest.fixture
def everysec(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis", options={"auto-aof-rewrite-percentage": "0"}) as server:
        yield server


class Disk:
    """Watches how large the append-only file is; cuts it to what it was a while ago."""

    def __init__(self, directory: Path) -> None:
        parts = sorted((directory / "appendonlydir").glob("*.incr.aof"))
        self._file = parts[-1] if parts else directory / "appendonly.aof"
        self._sizes: deque[tuple[float, int]] = deque()

    async def watch(self) -> None:
        while True:
            self._sizes.append((time.monotonic(), self._file.stat().st_size))
            while self._sizes[0][0] < time.monotonic() - 2 * UNSYNCED_S:
                self._sizes.popleft()
            await asyncio.sleep(LOOK_S)

    def cut(self, died_at: float, *, torn_bytes: int) -> tuple[float, int]:
        """Takes away what is younger; answers from when on writes may be gone, and how many bytes went."""
        at, size = next((known for known in reversed(self._sizes) if known[0] <= died_at - UNSYNCED_S), self._sizes[0])
        whole = self._file.stat().st_size
        kept = min(whole, size + torn_bytes)  # not at a whole command: a disk knows none
        os.truncate(self._file, kept)
        self._sizes.clear()
        return at, whole - kept


class TimedProducers(Producers):
    """Remembers when each event was acknowledged."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.acknowledged: dict[str, float] = {}

    async def _send(self, count: int) -> None:
        before = len(self.accepted)
        await super()._send(count)
        now = time.monotonic()
        for identity in self.accepted[before:]:
            self.acknowledged.setdefault(identity, now)


@pytest.mark.timeout(240)
async def test_power_loss_takes_the_last_seconds_and_leaves_nothing_half(
    everysec: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    doubtful: set[str] = set()
    cut_bytes = 0
    async with (
        Broker(everysec.url, settings=short_leases) as broker,
        Service("steady", url=everysec.url, settings=short_leases, folder=tmp_path, processes=2),
    ):
        producers = TimedProducers(broker)
        producing = asyncio.create_task(producers.run())
        disk = Disk(everysec.directory)
        watching = asyncio.create_task(disk.watch())
        for number in range(CUTS):
            await asyncio.sleep(killer.pause_s(2 * UNSYNCED_S, 3 * UNSYNCED_S))
            died_at = time.monotonic()
            await asyncio.to_thread(everysec.kill)
            since, lost_bytes = disk.cut(died_at, torn_bytes=killer.random.randrange(200))
            cut_bytes += lost_bytes
            doubtful |= {each for each, at in producers.acknowledged.items() if since - LOOK_S <= at <= died_at + 1}
            await asyncio.to_thread(everysec.start)
            if number % 2:  # what the first start made of a torn file must survive the second
                await asyncio.to_thread(everysec.kill)
                await asyncio.to_thread(everysec.start)
        await asyncio.sleep(1)
        producers.stopping = True
        await producing
        watching.cancel()
        resource = broker.core.resource("function", "work")
        await wait_until_empty(broker, "work", timeout_s=90)
        await assert_nothing_left(broker, resource)
        keys = broker.core.keys.of(resource)
    done = {line.event for line in read_histories(tmp_path) if line.kind == "end"}
    missing = set(producers.accepted) - done
    steps = read_ledger(everysec.directory, keys, lease_ms=short_leases.lease_ms)
    faults = {
        "lost although on disk": len(missing - doubtful),
        "wrong leases": len(checker.lease_faults(steps)),
        "wrong counts": len(checker.count_faults(steps)),
    }
    report(
        "R4",
        seed=SEED,
        cuts=CUTS,
        accepted=len(producers.accepted),
        acknowledged_in_the_last_two_seconds=len(doubtful),
        lost=len(missing),
        lost_because="acknowledged less than two seconds before a cut",
        bytes_cut=cut_bytes,
        unknown=producers.unknown,
        seconds=time.monotonic() - started,
    )
    judged(**faults)
    assert not any(faults.values()), faults
    assert cut_bytes
