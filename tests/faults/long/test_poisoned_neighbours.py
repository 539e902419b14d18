"""R11: what is left of the rate of healthy events while others end their process again and again."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle

import pytest

from broker import Broker
from tests.faults.scene import SEED, report, sized, until
from tests.faults.service import Serve

WINDOW_S = sized(15, 60)
POISON_EVERY_S = 5.0
PROCESSES = 2
CALLS = 20
"""At a time in each process, of 20 ms: at most 2,000 events a second."""
LEAST_SHARE = 0.5
"""Of the rate without poison, on whatever machine; what is to be reached is 0.8, and stands in the report."""


@pytest.mark.timeout(240)
async def test_neighbours_of_poison_keep_their_rate(serve: Serve) -> None:
    async with serve("poison", processes=PROCESSES, max_calls=CALLS) as (broker, service):
        await broker.invoke_many("graze", range(WINDOW_S * 6_000))
        await until(lambda: done(broker), timeout_s=20, what="they graze")
        alone = await rate(broker)
        poisoning = asyncio.create_task(poison(broker))
        beside = await rate(broker)
        sent = await poisoning
        assert (await broker.function("graze").counts()).visible, "there was work all the while"
        deaths = len(list(service.lines("worker_died")))
        await broker.function("graze").purge()
        await until(lambda: gone(broker, "swallow"), timeout_s=60, what="all poison is quarantined")
    report(
        "R11 neighbours",
        seed=SEED,
        alone_per_s=alone,
        beside_per_s=beside,
        share=beside / alone,
        poison=sent,
        poison_every_s=POISON_EVERY_S,
        deaths=deaths,
    )
    assert deaths >= sent
    assert beside / alone >= LEAST_SHARE


async def poison(broker: Broker) -> int:
    """Sends some as long as the window is open; answers how many."""
    sent, ends = 0, time.monotonic() + WINDOW_S - 1
    for what in cycle(("exit", "segfault")):
        await broker.invoke("swallow", {"do": what})
        sent += 1
        await asyncio.sleep(POISON_EVERY_S)
        if time.monotonic() > ends:
            break
    return sent


async def rate(broker: Broker) -> float:
    """Neighbours that are done in a second, over one window."""
    before, started = await done(broker), time.monotonic()
    await asyncio.sleep(WINDOW_S)
    return (await done(broker) - before) / (time.monotonic() - started)


async def done(broker: Broker) -> int:
    """How many neighbours have succeeded."""
    described = await broker.core.directory.describe(broker.function("graze").resource)
    return 0 if described is None else described.counters["done"]


async def gone(broker: Broker, function: str) -> bool:
    """Whether the function holds nothing any more."""
    return (await broker.function(function).counts()).total == 0
