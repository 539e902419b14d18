"""What a supervisor knows of its workers: what they are at, and what they have counted.

Counters are those of all worker processes that there have been, so they never go back when one is exchanged or dies.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import msgspec

from broker.client import Broker
from broker.figures import Figures, Key
from broker.gateway.health import Health
from runtime.metrics import DEATHS, LAG, MEMORY, PROCESSES, RUNNING, WORKER
from runtime.reporting import Report, State

SILENT_AFTER_S: Final = 10.0
"""A worker process that has reported nothing for so long does not run: stopped, or held by a call into C."""
_STATES: Final = ("polling", "starting", "stopping", "deaf", "silent")


class _Known(msgspec.Struct):
    state: State | None = None
    heard_s: float = 0.0
    alone: bool = False

    def now(self) -> str:
        """Its state, as far as is known."""
        if time.monotonic() - self.heard_s > SILENT_AFTER_S:
            return "silent"
        return "starting" if self.state is None else self.state.state


class Monitor:
    """The worker processes of one supervisor, by their process ids."""

    def __init__(self) -> None:
        self.figures: Final = Figures(WORKER)
        self._known: Final[dict[int, _Known]] = {}
        self._health: Health | None = None

    # -- what the supervisor tells ------------------------------------------------------------------------------------

    def watch(self, broker: Broker) -> None:
        """From now on Redis can be asked."""
        self._health = Health(broker)

    def started(self, pid: int, *, alone: bool) -> None:
        """A worker process is there."""
        self._known[pid] = _Known(heard_s=time.monotonic(), alone=alone)

    def heard(self, pid: int, line: bytes) -> None:
        """It has reported."""
        report = msgspec.json.decode(line, type=Report)
        known = self._known.get(pid)
        if known is not None:
            known.state, known.heard_s = report.state, time.monotonic()
        for key, value in report.counts:
            self.figures.count(*key, by=value)
        for key, counts, total in report.histograms:
            self.figures.histogram(*key).add(counts, total)

    def ended(self, pid: int, died_of: str | None = None) -> None:
        """It is there no more; why, where that should not have been."""
        self._known.pop(pid, None)
        if died_of is not None:
            self.figures.count(DEATHS.name, self.figures.bounded(died_of, DEATHS.name))

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def why_not_ready(self) -> str | None:
        """None when Redis answers now, and every worker process that has started can claim, and one has."""
        if self._health is None:
            return "starting"
        reason = await self._health.why_not_ready()
        if reason is not None:
            return reason
        states = Counter(known.now() for known in self._known.values() if not known.alone)
        for bad in ("deaf", "silent"):
            if states[bad]:
                return f"{bad}: {states[bad]} of {states.total()} worker processes"
        return None if states["polling"] else "stopping" if states["stopping"] else "starting"

    def gauges(self) -> dict[Key, float]:
        """What is now."""
        states = Counter(known.now() for known in self._known.values())
        found: dict[Key, float] = {(PROCESSES.name, state): states[state] for state in _STATES}
        last = [known.state for known in self._known.values() if known.state is not None]
        found[RUNNING.name,] = sum(each.running for each in last)
        found[LAG.name,] = max((each.lag_s for each in last), default=0.0)
        found[MEMORY.name,] = sum(each.memory_bytes for each in last)
        return found
