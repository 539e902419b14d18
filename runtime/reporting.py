"""What a worker process tells its supervisor of itself each second: its state, and what it has counted since.

From a thread, over a socket of its own: a handler that blocks the event loop does not hold it up, and a supervisor that
does not read holds up nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from broker.figures import Figures, Histogram, Key

EVERY_S: Final = 1.0
_LAST_WORDS_S: Final = 1.0

PollState: TypeAlias = Literal["starting", "polling", "deaf", "stopping"]


class State(msgspec.Struct, frozen=True, array_like=True):
    """What a worker process is at."""

    state: PollState
    running: int
    lag_s: float
    memory_bytes: int


class Report(msgspec.Struct, frozen=True, array_like=True):
    """One report: what was counted since the one before."""

    state: State
    counts: list[tuple[Key, float]]
    histograms: list[tuple[Key, list[int], float]]
    """Counts by bucket, and the sum of the values."""


class Reporter:
    """Reports each second, and once more at the end. What a killed process counted in its last second is lost."""

    def __init__(self, to: socket.socket, figures: Figures, state: Callable[[], State]) -> None:
        self._to: Final = to
        self._figures: Final = figures
        self._state: Final = state
        self._counts: dict[Key, float] = {}
        self._histograms: dict[Key, tuple[list[int], float]] = {}
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="penstock-reports", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Reports once more; gives up after a second."""
        self._stop.set()
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            while not self._stop.is_set():
                self._report()
                self._stop.wait(EVERY_S)
            self._report()

    def _report(self) -> None:
        try:
            counts = self._figures.counts
            histograms = {key: _read(histogram) for key, histogram in tuple(self._figures.histograms.items())}
        except RuntimeError:  # something was added in the middle of the look: the next one has it
            return
        report = Report(self._state(), self._new_counts(counts), self._new_values(histograms))
        self._to.sendall(msgspec.json.encode(report) + b"\n")

    def _new_counts(self, now: dict[Key, float]) -> list[tuple[Key, float]]:
        before, self._counts = self._counts, now
        return [(key, value - before.get(key, 0)) for key, value in now.items() if value != before.get(key)]

    def _new_values(self, now: dict[Key, tuple[list[int], float]]) -> list[tuple[Key, list[int], float]]:
        before, self._histograms = self._histograms, now
        changed = {key: found for key, found in now.items() if found != before.get(key)}
        return [(key, *_less(found, before.get(key))) for key, found in changed.items()]


def _read(histogram: Histogram) -> tuple[list[int], float]:
    return list(histogram.counts), histogram.total


def _less(now: tuple[list[int], float], before: tuple[list[int], float] | None) -> tuple[list[int], float]:
    if before is None:
        return now
    return [new - old for new, old in zip(now[0], before[0], strict=True)], now[1] - before[1]
