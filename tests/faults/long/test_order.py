"""R14: a mapping on a FIFO queue, while workers are killed, and some messages fail once and some for good."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from broker import Broker, Queue
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults import checker
from tests.faults.checker import Run
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.scene import SEED, judged, report, sized, until
from tests.faults.service import Service
from tests.faults.test_killed_workers import shoot

GROUPS = sized(100, 1_000)
OF_A_GROUP = sized(50, 300)
KILLS = sized(12, 120)
FAILS_ONCE, FAILS = 0.01, 0.002
_PAGE = 1_000


def bodies(killer: Killer) -> list[list[str]]:
    """By number, so that all groups grow at the same time: `!` fails for good, `?` the first time."""

    def mark() -> str:
        dice = killer.random.random()
        return "!" if dice < FAILS else "?" if dice < FAILS + FAILS_ONCE else ""

    return [[f"g{group}:{number}{mark()}" for group in range(GROUPS)] for number in range(OF_A_GROUP)]


def group_of(body: str) -> str:
    return body.partition(":")[0]


def number_of(body: str) -> int:
    return int(body.partition(":")[2].rstrip("!?"))


def order_faults(runs: Iterable[Run], dead: set[str]) -> list[str]:
    """In each group a message starts only when all before it have ended well, or are dead letters."""
    faults: list[str] = []
    ended: defaultdict[str, set[int]] = defaultdict(set)
    passed: defaultdict[str, int] = defaultdict(int)
    moments = [(run.start_ns, 1, run) for run in runs] + [(run.end_ns, 0, run) for run in runs if run.ended]
    dead_numbers = {(group_of(body), number_of(body)) for body in dead}
    for _, starts, run in sorted(moments, key=lambda moment: moment[:2]):
        group, number = group_of(run.event), number_of(run.event)
        if not starts:
            ended[group].add(number)
            continue
        while passed[group] in ended[group] or (group, passed[group]) in dead_numbers:
            passed[group] += 1
        if number > passed[group]:
            faults.append(f"{run.event} starts before {group}:{passed[group]} has ended")
    return faults


def group_overlaps(runs: Iterable[Run]) -> list[str]:
    """No two processes are at one group at the same time."""
    of_group: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        of_group[group_of(run.event)].append(run)
    faults = []
    for found in of_group.values():
        for run, later in itertools.pairwise(found):
            if later.start_ns < run.end_ns and later.pid != run.pid:
                faults.append(f"{later.event} starts in {later.pid} while {run.event} runs in {run.pid}")
    return faults


@pytest.mark.timeout(300)
async def test_each_group_is_handled_in_its_order_one_at_a_time(
    durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    rows = bodies(killer)
    everything = {body for row in rows for body in row}
    fail = {body for body in everything if body.endswith("!")}
    async with Broker(durable.url, settings=short_leases) as broker:
        await broker.queue("dead.fifo").create(content_deduplication=True)
        queue = broker.queue("steps.fifo")
        await queue.create(
            content_deduplication=True, visibility_timeout=1, dead_letter=Queue("dead.fifo"), max_receives=500
        )
        async with Service(
            "ordered", url=durable.url, settings=short_leases, folder=tmp_path, processes=2, max_calls=100
        ) as service:
            done = asyncio.Event()
            shooting = asyncio.create_task(shoot(killer, service, broker, done))
            for row in rows:
                await queue.send_batch({"body": body, "group": group_of(body)} for body in row)

            await until(lambda: len(killer.shots) >= KILLS, timeout_s=120, what="enough have been killed")
            done.set()
            await shooting
            await queue.configure(max_receives=3)

            async def gone() -> bool:
                counts = await queue.counts()
                return counts.total + counts.outbox == 0

            await until(gone, timeout_s=200, what="all are done or dead letters")
        dead = set[str]()
        while messages := await broker.queue("dead.fifo").receive(_PAGE):
            dead |= {message.body for message in messages}
            for message in messages:
                await message.delete()
    deaths = killer.times_ns(signal.SIGKILL)
    runs = checker.runs_of(read_histories(tmp_path), deaths)
    ended = {run.event for run in runs if run.ended}
    faults = {
        "lost": len(everything - ended - dead),
        "groups out of order": len(order_faults(runs, dead)),
        "groups twice at a time": len(group_overlaps(runs)),
        "ran twice at a time": len(checker.overlaps(runs)),
    }
    report(
        "R14",
        seed=SEED,
        groups=GROUPS,
        messages=len(everything),
        kills=len(killer.shots),
        failing_for_good=len(fail),
        dead_letters=len(dead),
        runs=len(runs),
        seconds=time.monotonic() - started,
    )
    judged(**faults)
    assert not any(faults.values()), (faults, order_faults(runs, dead)[:5], group_overlaps(runs)[:5])
    assert fail <= dead
    assert killer.shots
