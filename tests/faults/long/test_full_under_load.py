"""R16: producers push faster than workers work, until Redis has no memory for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import StoreFull, StoreThrottled
from broker.settings import Settings
from tests.faults.history import read_histories
from tests.faults.scene import SEED, assert_nothing_left, judged, report, sized, until, wait_until_empty
from tests.faults.service import Service

MEMORY_BYTES = 32_000_000
BODY = "x" * 2_000
BATCH = 100
WORK_MS = 100
PRODUCERS = 4
REFUSALS = sized(50, 1_000)
FAILS_EACH = 100


@pytest.fixture
def small(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis", fsync="always", max_memory_bytes=MEMORY_BYTES) as server:
        yield server


class Pushing:
    """Producers that never stop; what is refused they try again a moment later."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.accepted: list[str] = []
        self.failing: set[str] = set()
        self.refused: list[StoreFull] = []
        self.since_refusal = 0
        self.stopping = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(PRODUCERS):
                group.create_task(self._push())

    async def _push(self) -> None:
        while not self.stopping:
            events = [{"ms": WORK_MS, "fails": number % FAILS_EACH == 0, "body": BODY} for number in range(BATCH)]
            try:
                ids = await self._broker.invoke_many("carry", events)
            except StoreFull as error:
                self.refused.append(error)
                self.since_refusal = 0
                await asyncio.sleep(0.02)
                continue
            self.accepted += ids
            self.failing |= set(ids[::FAILS_EACH])
            self.since_refusal += 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("at_percent", [80, 100])
async def test_producers_are_refused_by_name_while_work_goes_on(
    small: EmbeddedRedis, short_leases: Settings, tmp_path: Path, at_percent: int
) -> None:
    """80: told by Penstock before it is too late. 100: told by Redis."""
    started = time.monotonic()
    settings = msgspec.structs.replace(short_leases, full_at_percent=at_percent)
    async with (
        Broker(small.url, settings=settings) as broker,
        Service(
            "heavy",
            url=small.url,
            settings=settings,
            folder=tmp_path,
            processes=2,
            max_calls=50,
            environment={"PENSTOCK_FULL_AT": str(at_percent)},
        ) as service,
    ):
        pushing = Pushing(broker)
        producing = asyncio.create_task(pushing.run())
        function = broker.core.resource("function", "carry")
        await until(lambda: len(pushing.refused) >= REFUSALS, timeout_s=100, what="producers are refused")
        at_refusal = (await broker.function("carry").counts()).total
        done_then = len(read_histories(tmp_path))
        await until(lambda: len(read_histories(tmp_path)) > done_then + 500, timeout_s=30, what="work goes on")
        await until(lambda: pushing.since_refusal > 0, timeout_s=60, what="producers are accepted again")
        pushing.stopping = True
        await producing
        await wait_until_empty(broker, "carry", timeout_s=100)

        async def delivered() -> bool:
            return (await broker.function("carry").counts()).outbox == 0

        await until(delivered, timeout_s=30, what="dead letters have arrived")
        await assert_nothing_left(broker, function)
        dead = (await broker.queue("dead").counts()).total
        log = service.log_text()
    done = {line.event for line in read_histories(tmp_path) if line.kind == "end"}
    faults = {
        "lost": len(set(pushing.accepted) - done - pushing.failing),
        "dead letters missing": len(pushing.failing) - dead,
    }
    report(
        f"R16 {at_percent} %",
        seed=SEED,
        maxmemory_bytes=MEMORY_BYTES,
        accepted=len(pushing.accepted),
        refused_batches=len(pushing.refused),
        of_these_by_penstock=sum(isinstance(error, StoreThrottled) for error in pushing.refused),
        queued_when_full=at_refusal,
        dead_letters=dead,
        seconds=time.monotonic() - started,
    )
    judged(**faults)
    assert not any(faults.values()), faults
    assert "Traceback" not in log
