"""Signals to processes that the test started, by their ids, from a seeded plan; and when each was sent."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Shot:
    """One signal that was sent."""

    pid: int
    number: signal.Signals
    at_ns: int


class Killer:
    """Chooses and hits. The same seed makes the same choices; ``shots`` is its history."""

    def __init__(self, seed: int) -> None:
        self.seed: Final = seed
        self.random: Final = random.Random(seed)
        self.shots: Final[list[Shot]] = []

    def hit(self, pid: int, number: signal.Signals) -> bool:
        """Sends the signal; False when the process has already gone."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        # Afterwards: what the process did up to here it did alive.
        self.shots.append(Shot(pid, number, time.monotonic_ns()))
        return True

    def hit_one(self, pids: Sequence[int], number: signal.Signals) -> int | None:
        """Sends the signal to one of the processes; answers which, None when there is none."""
        if not pids:
            return None
        pid = self.random.choice(sorted(pids))
        return pid if self.hit(pid, number) else None

    def pause_s(self, low: float, high: float) -> float:
        """How long until the next shot."""
        return self.random.uniform(low, high)

    def times_ns(self, number: signal.Signals) -> dict[int, int]:
        """When each process was hit by the signal."""
        return {shot.pid: shot.at_ns for shot in self.shots if shot.number == number}
