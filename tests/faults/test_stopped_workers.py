"""R2: a worker is stopped with SIGSTOP past its lease and then goes on, as after a long pause of its machine."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.apps import open_effects
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.ledger import grants_by_entry
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
from tests.faults.service import Serve, Service

ROUNDS = sized(4, 100)
WORK_S = 0.5
EVENTS = 8


def running(folder: Path, ids: list[str]) -> dict[int, set[str]]:
    """Which of the events each process is at, by the histories."""
    found: dict[int, set[str]] = {}
    for line in read_histories(folder):
        if line.event not in ids:
            continue
        if line.kind == "start":
            found.setdefault(line.pid, set()).add(line.event)
        elif line.kind == "end":
            found[line.pid].discard(line.event)
    return found


async def freeze_round(
    killer: Killer, service: Service, broker: Broker, folder: Path, *, until_done: bool
) -> tuple[list[str], int]:
    """A worker is stopped in the middle of its handlers, until another one has taken over its events (or has done
    them), and then goes on. Answers the events, and how many were stopped with the worker."""
    ids = await broker.invoke_many("charge", [{"s": WORK_S}] * EVENTS)
    await until(lambda: any(running(folder, ids).values()), timeout_s=10, what="a handler runs")
    await asyncio.sleep(killer.pause_s(0.1, WORK_S / 2))
    workers = {worker.pid for worker in await service.workers(broker) if not worker.alone}
    pid = killer.hit_one(
        [pid for pid, events in running(folder, ids).items() if events and pid in workers], signal.SIGSTOP
    )
    assert pid is not None
    held = running(folder, ids)[pid]

    def taken_over() -> bool:
        """Elsewhere one of them runs now (the late settle meets a live event), or all are done (it meets none)."""
        kind = "end" if until_done else "start"
        elsewhere = {line.event for line in read_histories(folder) if line.kind == kind and line.pid != pid}
        return held <= elsewhere if until_done else bool(held & elsewhere)

    try:
        await until(taken_over, timeout_s=15, what="another worker has taken over")
        await asyncio.sleep(killer.pause_s(0, WORK_S / 2))
    finally:
        killer.hit(pid, signal.SIGCONT)
    return ids, len(held)


@pytest.mark.timeout(120)
async def test_a_worker_that_slept_past_its_lease_is_refused_and_cannot_undo_newer_work(
    serve: Serve, durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started, ids, zombies = Killer(SEED), time.monotonic(), list[str](), 0
    async with serve("zombies", processes=2) as (broker, service):
        for number in range(ROUNDS):
            round_ids, held = await freeze_round(killer, service, broker, tmp_path, until_done=number % 2 == 1)
            ids += round_ids
            zombies += held
            await wait_until_empty(broker, "charge", timeout_s=40)
        resource = broker.core.resource("function", "charge")
        await until(
            lambda: len(list(service.lines("leases_lost"))) + len(list(service.lines("lease_lost"))) >= ROUNDS,
            timeout_s=5,
            what="each late settle is in the log",
        )
        await assert_nothing_left(broker, resource)
        refused = sum(int(line["refused"]) for line in service.lines("lease_lost"))
        fenced = sum(int(line["fenced"]) for line in service.lines("lease_lost"))
        noticed = sum(int(line["count"]) for line in service.lines("leases_lost"))
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)
    with closing(open_effects(tmp_path)) as store:
        attempts = store.execute("SELECT event, token, kept FROM attempts").fetchall()
        kept = dict(store.execute("SELECT event, token FROM effects").fetchall())
    report(
        "R2",
        seed=killer.seed,
        events=len(ids),
        zombies=zombies,
        redelivered=found.redelivered,
        refused_settles=refused,
        fenced=fenced,
        noticed_by_keeper=noticed,
        late_effects=len(attempts) - len(kept),
        late_effects_refused=sum(not keeps for _, _, keeps in attempts),
        seconds=time.monotonic() - started,
    )
    judge(found, stopped={shot.pid for shot in killer.shots})
    assert zombies >= ROUNDS
    assert found.redelivered >= zombies
    assert refused + noticed >= zombies
    grants = grants_by_entry(found.steps)
    newest = {event: grants[entry][-1].fence for event, entry in found.entries.items()}
    assert kept == newest
    assert any(not keeps for _, _, keeps in attempts), "a late side effect met a newer one"
