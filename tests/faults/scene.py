"""What the scenarios share: their size, waiting for emptiness, reading all histories, judging them, and the figures.

``PENSTOCK_FAULT_SIZE=N`` makes them as large as ``make faults`` runs them, ``PENSTOCK_FAULT_SEED`` chooses what is hit
when. Nothing in a scenario is bounded by wall time alone: on a large size, or a slow machine, patience is longer.
"""

from __future__ import annotations

import asyncio
import json
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

LARGE: Final = os.environ.get("PENSTOCK_FAULT_SIZE", "P") == "N"
"""As large as ``make faults`` runs it, not as ``make test`` does."""
SEED: Final = int(os.environ.get("PENSTOCK_FAULT_SEED", "20250"))
RESULTS_VARIABLE: Final = "PENSTOCK_FAULT_RESULTS"
"""The file that figures are appended to, one JSON object a line."""
_PATIENCE: Final = 20 if LARGE else 1
_SHOWN: Final = 10


def sized(usual: int, large: int) -> int:
    """How many: ``usual`` in ``make test``, ``large`` in ``make faults``."""
    return large if LARGE else usual


EVENTS: Final = int(os.environ.get("PENSTOCK_FAULT_EVENTS", sized(100_000, 1_000_000)))


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
    faults = {
        "lost": checker.lost(found.entries, found.runs),
        "wrong leases": checker.lease_faults(found.steps),
        "wrong counts": checker.count_faults(found.steps) + checker.try_faults(found.steps, tries=tries),
        "wrong attempts": [] if tries else checker.wrong_attempts(found.runs, attempt=attempt),
        "ran twice under a lease": checker.repeated(found.runs),
        "ran twice at a time": checker.overlaps(found.runs, stopped=set(stopped)),
        "unfenced": checker.unfenced(found.runs),
        "ran without a lease": checker.without_lease(found.runs, found.steps, found.entries),
    }
    judged(**{name: len(each) for name, each in faults.items()})
    texts = [text for each in faults.values() for text in each]
    assert not texts, f"{len(texts)} faults:\n" + "\n".join(texts[:_SHOWN])


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
        assert time.monotonic() - started < timeout_s * _PATIENCE, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)


async def assert_nothing_left(broker: Broker, resource: Resource) -> None:
    """All keys of the function that hold messages, leases, permits or counters are gone."""
    k = broker.core.keys.of(resource)
    for key in (k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.outbox, k.outgoing, k.permits):
        assert await broker.core.runner.fetch("EXISTS", key) == 0, key
    assert await broker.core.runner.fetch("XLEN", k.ready) == 0


def report(scenario: str, **figures: object) -> None:
    """The figures of a scenario: one line, seen with -s, and kept for the report where one is being written."""
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
    print(f"\n[{scenario}] {' '.join(f'{name}={value}' for name, value in shown.items())}")
    _keep({"figures": shown})


def judged(**faults: int) -> None:
    """How many violations of each promise the histories show; 0 is written down, too."""
    _keep({"judged": faults})


def _keep(line: dict[str, object]) -> None:
    path = os.environ.get(RESULTS_VARIABLE)
    if path:
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        with Path(path).open("a") as file:
            file.write(json.dumps({"test": test, **line}) + "\n")
