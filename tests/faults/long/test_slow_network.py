"""R7: between workers and Redis is a bad network."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.scene import SEED, assert_nothing_left, judge, read_all, report, sized, wait_until_empty
from tests.faults.service import Service
from tests.faults.slow_link import SlowLink

LEASE_MS = 6_000
"""Ten times the worst round trip, as the usual lease of 20 s is of one of 2 s."""
USUAL_CALLS, FEW_CALLS = 1_000, 100
"""At a time in a process. To renew a lease takes some 40 bytes four times in its length, and all share the link."""
RESET_SHARE = 0.04
KINDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "jitter": ({"delay_s": (0.05, 0.3)}, sized(5_000, 50_000), USUAL_CALLS),
    "jitter and resets": ({"delay_s": (0.05, 0.3)}, sized(5_000, 50_000), USUAL_CALLS),
    "10 kB a second": ({"bytes_a_second": 10_000.0}, sized(300, 3_000), FEW_CALLS),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_network_costs_time_and_nothing_else(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path, kind: str
) -> None:
    settings = msgspec.structs.replace(short_leases, lease_ms=LEASE_MS)
    options, events, calls = KINDS[kind]
    started = time.monotonic()
    upstream = Path(durable.url.removeprefix("unix://"))
    async with (
        SlowLink(upstream, tmp_path / "link.sock", chance=random.Random(SEED), **options) as link,
        Broker(durable.url, settings=settings) as broker,
        Service("steady", url=link.url, settings=settings, folder=tmp_path, processes=2, max_calls=calls) as service,
    ):
        if "resets" in kind:  # not before: a service that cannot reach its Redis at the start says so and ends
            link.reset_share = RESET_SHARE
        ids = await broker.invoke_many("work", ({"ms": number % 5} for number in range(events)))
        await wait_until_empty(broker, "work", timeout_s=150)
        resource = broker.core.resource("function", "work")
        await assert_nothing_left(broker, resource)
        noticed = sum(int(line["count"]) for line in service.lines("leases_lost"))
    async with Broker(durable.url, settings=settings) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
    report(
        f"R7 {kind}",
        seed=SEED,
        events=events,
        pieces=link.pieces,
        resets=link.resets,
        redelivered=found.redelivered,
        leases_missed=noticed,
        seconds=time.monotonic() - started,
    )
    judge(found)
    assert noticed == 0
    if "resets" in kind:
        assert link.resets
    else:
        assert found.redelivered == 0
