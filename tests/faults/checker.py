"""The promises, as pure functions over histories: each answers what is wrong, in words; an empty list is a pass."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.history import Line
from tests.faults.ledger import Counted, Extended, Gone, Granted, Removed, Step

_NEVER: Final = 1 << 63
_NOBODY: Final = ("nobody", _NEVER)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler: from its start to its end, until it was cut off, or to the death of its process."""

    event: str
    fence: int
    attempt: int
    pid: int
    start_ns: int
    end_ns: int
    ended: bool


# -- leases: Redis's own history --------------------------------------------------------------------------------------


def lease_faults(steps: Iterable[Step]) -> list[str]:
    """Never two live leases of a message; none is taken away before its end; nobody ends a message without its lease;
    fencing tokens rise with every lease of a message."""
    found = _Leases()
    for step in steps:
        match step:
            case Granted():
                found.grant(step)
            case Extended():
                found.extend(step)
            case Removed():
                found.remove(step)
            case Gone(entry) if entry in found.held or entry not in found.removed:
                found.faults.append(f"{entry}: ended for good without its lease")
            case _:
                pass
    return found.faults


@dataclass
class _Leases:
    """Who holds what while Redis's history is read."""

    held: dict[str, tuple[str, int]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def grant(self, step: Granted) -> None:
        if step.entry in self.held:
            holder = self.held[step.entry][0]
            self.faults.append(f"{step.entry}: leased to {step.token} at {step.at_ms} while {holder} holds it")
        before = self.fences.get(step.entry, 0)
        if step.fence <= before:
            self.faults.append(f"{step.entry}: fencing token {step.fence} after {before}")
        self.held[step.entry], self.fences[step.entry] = (step.token, step.ends_ms), step.fence

    def extend(self, step: Extended) -> None:
        if self.held.get(step.entry, _NOBODY)[0] == step.token:
            self.held[step.entry] = (step.token, step.ends_ms)
        else:
            self.faults.append(f"{step.entry}: {step.token} renewed a lease that is not its own")

    def remove(self, step: Removed) -> None:
        holder, ends_ms = self.held.pop(step.entry, _NOBODY)
        if holder != step.token:
            self.faults.append(f"{step.entry}: {step.why} by {step.token}, but {holder} holds it")
        elif step.why == "ended" and (step.at_ms is None or step.at_ms < ends_ms):
            self.faults.append(f"{step.entry}: lease of {holder} ends at {ends_ms}, taken away at {step.at_ms}")
        self.removed.add(step.entry)


def count_faults(steps: Iterable[Step]) -> list[str]:
    """Receives equal leases granted, crashes equal leases that ran out."""
    grants: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    counted: dict[str, Counted] = {}
    faults: list[str] = []
    for step in steps:
        match step:
            case Granted(entry):
                grants[entry] += 1
            case Removed(entry, _, "ended"):
                crashes[entry] += 1
            case Counted(entry, receives, _, crashed):
                counted[entry] = step
                if receives != grants[entry]:
                    faults.append(f"{entry}: {receives} receives, {grants[entry]} leases")
                if crashed != crashes[entry]:
                    faults.append(f"{entry}: {crashed} crashes, {crashes[entry]} leases that ran out")
            case Gone(entry):
                receives = counted[entry].receives if entry in counted else 1
                if receives != grants[entry]:
                    faults.append(f"{entry}: ended with {receives} receives, {grants[entry]} leases")
            case _:
                pass
    return faults


def try_faults(steps: Iterable[Step], *, tries: int = 0) -> list[str]:
    """No message has used more tries than that."""
    return [
        f"{step.entry}: {step.tries} tries used, of at most {tries}"
        for step in steps
        if isinstance(step, Counted) and step.tries > tries
    ]


def late_grants(steps: Iterable[Step], *, after_ms: int) -> list[str]:
    """No lease was given after that time of Redis's clock."""
    return [
        f"{step.entry}: leased to {step.token} {step.at_ms - after_ms} ms too late"
        for step in steps
        if isinstance(step, Granted) and step.at_ms > after_ms
    ]


# -- runs: the histories of the handlers ------------------------------------------------------------------------------


def runs_of(lines: Iterable[Line], deaths_ns: Mapping[int, int]) -> list[Run]:
    """Every run, in the order of their starts; ``deaths_ns`` tells when processes were killed."""
    started: dict[tuple[str, int, int], Line] = {}
    ends: dict[tuple[str, int, int], Line] = {}
    for line in lines:
        if line.kind != "effect":
            (started if line.kind == "start" else ends)[line.event, line.fence, line.pid] = line
    runs = []
    for key, line in started.items():
        end = ends.get(key)
        end_ns = end.at_ns if end is not None else deaths_ns.get(line.pid, _NEVER)
        ended = end is not None and end.kind == "end"
        runs.append(Run(line.event, line.fence, line.attempt, line.pid, line.at_ns, end_ns, ended))
    return sorted(runs, key=lambda run: run.start_ns)


def lost(accepted: Iterable[str], runs: Iterable[Run]) -> list[str]:
    """Every accepted event has a run that ended well."""
    done = {run.event for run in runs if run.ended}
    return [f"{event}: accepted, never handled" for event in accepted if event not in done]


def never_accepted(accepted: Collection[str], runs: Iterable[Run]) -> list[str]:
    """Nothing ran that nobody sent."""
    known = set(accepted)
    return [f"{event}: ran, but was never accepted" for event in sorted({run.event for run in runs} - known)]


def repeated(runs: Iterable[Run]) -> list[str]:
    """One lease, one run."""
    seen = Counter((run.event, run.fence) for run in runs)
    return [f"{event}: {count} runs under fencing token {fence}" for (event, fence), count in seen.items() if count > 1]


def overlaps(runs: Iterable[Run], *, stopped: Collection[int] = ()) -> list[str]:
    """No event runs twice at the same time, except that the first run's process was stopped (SIGSTOP) meanwhile."""
    return [
        f"{event}: starts in {later.pid} while it runs in {run.pid}"
        for event, of_event in _by_event(runs).items()
        for run, later in itertools.combinations(of_event, 2)
        if later.start_ns < run.end_ns and run.pid not in stopped
    ]


def unfenced(runs: Iterable[Run]) -> list[str]:
    """A later run has a greater fencing token."""
    return [
        f"{event}: a run with fencing token {later.fence} after one with {run.fence}"
        for event, of_event in _by_event(runs).items()
        for run, later in itertools.pairwise(of_event)
        if later.fence <= run.fence
    ]


def wrong_attempts(runs: Iterable[Run], *, attempt: int = 1) -> list[str]:
    """A crash uses no try: without errors every run is the first attempt."""
    return [f"{run.event}: attempt {run.attempt}" for run in runs if run.attempt != attempt]


def without_lease(runs: Iterable[Run], steps: Iterable[Step], entries: Mapping[str, str]) -> list[str]:
    """Every run stands on a lease that Redis gave, under that lease's fencing token; ``entries`` names the messages."""
    granted = {(step.entry, step.fence) for step in steps if isinstance(step, Granted)}
    return [
        f"{run.event}: ran under fencing token {run.fence}, which no lease of it has"
        for run in runs
        if (entries[run.event], run.fence) not in granted
    ]


def _by_event(runs: Iterable[Run]) -> dict[str, Sequence[Run]]:
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.event].append(run)
    return dict(found)
