"""What the scenarios share: waiting for emptiness, reading all histories, judging them, and printing the figures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.ids import entry_of
from broker.names import Resource
from tests.faults import checker
from tests.faults.checker import Run
from tests.faults.history import read_histories
from tests.faults.ledger import Step, grants_by_entry, read_ledger

EVENTS: Final = int(os.environ.get("PENSTOCK_FAULT_EVENTS", "100000"))
SEED: Final = int(os.environ.get("PENSTOCK_FAULT_SEED", "20250"))
_SHOWN: Final = 10


@dataclass(frozen=True)
class Histories:
    """Everything that is known of one function after a scenario."""

    runs: list[Run]
    steps: list[Step]
    entries: dict[str, str]

    @property
    def redelivered(self) -> int:
        """How many events were leased more than once."""
        return sum(len(grants) > 1 for grants in grants_by_entry(self.steps).values())


async def read_all(
    broker: Broker,
    resource: Resource,
    server: EmbeddedRedis,
    folder: Path,
    *,
    ids: Iterable[str],
    deaths_ns: dict[int, int] | None = None,
) -> Histories:
    """The histories of the handlers and of Redis, and which message each id is."""
    nonce = await broker.core.directory.nonce(resource)
    assert nonce is not None
    entries = {identity: entry for identity in ids if (entry := entry_of(identity, nonce)) is not None}
    runs = checker.runs_of(read_histories(folder), deaths_ns or {})
    steps = read_ledger(server.directory, broker.core.keys.of(resource), lease_ms=broker.core.settings.lease_ms)
    return Histories([run for run in runs if run.event in entries], steps, entries)


def judge(found: Histories, *, stopped: Iterable[int] = (), attempt: int = 1, tries: int = 0) -> None:
    """Holds all promises against the histories; ``stopped`` processes may have gone on with what others took over."""
    faults = [
        *checker.lost(found.entries, found.runs),
        *checker.lease_faults(found.steps),
        *checker.count_faults(found.steps),
        *checker.try_faults(found.steps, tries=tries),
        *checker.repeated(found.runs),
        *checker.overlaps(found.runs, stopped=set(stopped)),
        *checker.unfenced(found.runs),
        *checker.without_lease(found.runs, found.steps, found.entries),
    ]
    if not tries:
        faults += checker.wrong_attempts(found.runs, attempt=attempt)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:_SHOWN])


async def wait_until_empty(broker: Broker, function: str, *, timeout_s: float) -> None:
    """Returns when no event of the function is left anywhere."""
    await until(lambda: _is_empty(broker, function), timeout_s=timeout_s, what=f"{function} has no events any more")


async def _is_empty(broker: Broker, function: str) -> bool:
    return (await broker.function(function).counts()).total == 0


async def until(condition: Callable[[], object], *, timeout_s: float, what: str) -> float:
    """Looks again and again; answers how many seconds it took."""
    started = time.monotonic()
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return time.monotonic() - started
        assert time.monotonic() - started < timeout_s, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)


async def assert_nothing_left(broker: Broker, resource: Resource) -> None:
    """All keys of the function that hold messages, leases, permits or counters are gone."""
    k = broker.core.keys.of(resource)
    for key in (k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.outbox, k.outgoing, k.permits):
        assert await broker.core.runner.fetch("EXISTS", key) == 0, key
    assert await broker.core.runner.fetch("XLEN", k.ready) == 0


def report(scenario: str, **figures: object) -> None:
    """One line of figures, seen with -s."""
    words = [
        f"{name}={value:.2f}" if isinstance(value, float) else f"{name}={value}" for name, value in figures.items()
    ]
    print(f"\n[{scenario}] {' '.join(words)}")
