"""Figures: what a process counts of itself, in plain numbers.

Counting is an addition in a dict or a list, without locks: each figure is written by one thread. What becomes of them
when somebody asks: :mod:`broker.exposition`.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
)
"""Bounds of how long something took: from a millisecond to the longest timeout of a handler."""
OTHER: Final = "other"
"""What stands for all that there is no room for in a bounded label."""
_MAX_LABEL: Final = 100

Key: TypeAlias = tuple[str, ...]
"""A metric's name and the values of its labels."""


class Metric(msgspec.Struct, frozen=True):
    """What one metric is called, says, and is told apart by. Counters get ``_total`` behind their name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    says: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets, rising."""

    @property
    def shown_name(self) -> str:
        """Its name as queries use it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class Histogram:
    """Counts values by size. ``counts`` has one place more than there are bounds: for what is over the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Takes over what another process has counted with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.total += total


class Tick:
    """A counter that is raised so often that looking it up would cost more than the addition."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Figures:
    """The counters and histograms of one process, by metric and labels."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics: Final = {metric.name: metric for metric in metrics}
        self._counts: Final[dict[Key, float]] = {}
        self._ticks: Final[dict[Key, Tick]] = {}
        self.histograms: Final[dict[Key, Histogram]] = {}
        self._values: Final[dict[Key, set[str]]] = {}

    def count(self, *key: str, by: float = 1) -> None:
        """Adds to a counter: its name, then the values of its labels."""
        self._counts[key] = self._counts.get(key, 0) + by

    def tick(self, *key: str) -> Tick:
        """The same counter for keeping where it is used often; one place for each key."""
        return self._ticks.setdefault(key, Tick())

    @property
    def counts(self) -> dict[Key, float]:
        """What the counters are at now."""
        found = dict(self._counts)
        for key, tick in tuple(self._ticks.items()):
            found[key] = found.get(key, 0) + tick.value
        return found

    def histogram(self, *key: str) -> Histogram:
        """The histogram of that name and those labels; for keeping where it is used often."""
        found = self.histograms.get(key)
        if found is None:
            found = self.histograms[key] = Histogram(self.metrics[key[0]].bounds)
        return found

    def bounded(self, value: str, *of: str, at_most: int = 20) -> str:
        """The value of a label that comes from user code: as it is for the first so many, then ``other``."""
        known = self._values.setdefault(of, set())
        value = value[:_MAX_LABEL]
        if value in known:
            return value
        if len(known) >= at_most:
            return OTHER
        known.add(value)
        return value


class LoopLag:
    """How late the event loop comes round: the worst of the last minute, what is under way included.

    It looks every quarter of a second, and nothing else than being late costs it anything. Whoever asks may be another
    thread.
    """

    EVERY_S: Final = 0.25
    KEPT_S: Final = 60.0

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._due_s = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._worst: Final[dict[int, float]] = {}

    def start(self) -> None:
        """Begins to look, where it does not yet."""
        if self._timer is None:
            self._again()

    def stop(self) -> None:
        """Ends that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._due_s = time.monotonic() + self.EVERY_S
        self._timer = self._loop.call_later(self.EVERY_S, self._tick)

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._note(now_s, now_s - self._due_s)
        self._again()

    def _note(self, now_s: float, lag_s: float) -> None:
        second = int(now_s)
        self._worst[second] = max(self._worst.get(second, 0.0), lag_s)
        for old in [each for each in self._worst if each < now_s - self.KEPT_S]:
            del self._worst[old]

    def worst_s(self) -> float:
        """Seconds."""
        now_s = time.monotonic()
        recent = [lag_s for second, lag_s in tuple(self._worst.items()) if second >= now_s - self.KEPT_S]
        under_way = now_s - self._due_s if self._timer is not None else 0.0
        return max(0.0, under_way, *recent)
