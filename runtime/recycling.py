"""When a worker process has done enough: so many events, or so much memory; its supervisor then exchanges it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec

from broker.errors import InvalidOption
from broker.log import log

MB: Final = 1024 * 1024
_LOOK_EVERY_S: Final = 0.5
_ASK_AGAIN_S: Final = 10.0
_EARLY_S: Final = 10.0
_MORE: Final = 1.25
_RAISE: Final = "raise --max-memory well above what the app takes once it works, or leave it out"
_MEMORY: Final = Path("/proc/self/statm")


class Recycle(msgspec.Struct, frozen=True, kw_only=True):
    """After what a worker process is exchanged for a fresh one; None: never for that."""

    events: int | None = None
    """Events, messages and calls that it has ended."""
    memory_mb: int | None = None
    """Resident memory, in MiB."""

    def check_memory(self) -> None:
        """Before anything runs. Raises InvalidOption where the app alone is over the limit: its workers would be
        exchanged for ever."""
        used_mb = memory_bytes() // MB
        if self.memory_mb is not None and used_mb >= self.memory_mb:
            rule = f"the app takes {used_mb} MB before its first event; give more, or leave it out"
            raise InvalidOption("max-memory", self.memory_mb, rule)

    async def watch(self, ended: Callable[[], int], tell: Callable[[str], None], *, early_mb: int = 0) -> None:
        """Tells, as long as this process is there, that it is to go: ``spent REASON EVENTS MEGABYTES EARLY_MEGABYTES``.
        Again from time to time, as the one that was to take its place may not have come up. ``early_mb`` is what the
        process before it told last.
        """
        if self.events is None and self.memory_mb is None:
            return
        allowance = None if self.memory_mb is None else Allowance(self.memory_mb, early_mb)
        while True:
            await anyio.sleep(_LOOK_EVERY_S)
            events, used_mb = ended(), memory_bytes() // MB
            over = allowance is not None and allowance.is_over(used_mb, events, time.monotonic())
            if allowance is not None and allowance.is_news:
                log.warning("memory_limit_too_low", memory_mb=used_mb, limit_mb=self.memory_mb, action=_RAISE)
            if self.events is not None and events >= self.events:
                tell(f"spent events {events} {used_mb} 0")
            elif over and allowance is not None:
                tell(f"spent memory {events} {used_mb} {used_mb if allowance.is_early else 0}")
            else:
                continue
            await anyio.sleep(_ASK_AGAIN_S)


class Allowance:
    """How much memory a process may take. Pure; all in MB, times in seconds.

    The limit, where it keeps below that for its first ten seconds of work. One that does not is no smaller after an
    exchange: it has a quarter more than what it took by then, and so has one that takes the place of such a process.
    So a limit below what the app needs exchanges nothing for ever, and one that leaks goes all the same.
    """

    def __init__(self, limit: int, early: int = 0) -> None:
        self._limit: Final = limit
        self._at_rest = early
        """The most before its first event, or that the one before it took early."""
        self._early = early
        self._works_since: float | None = None
        self._told = False
        self.is_early = True
        """Whether the last look was in its first seconds of work, or before."""
        self.is_news = False
        """Whether the last look has shown, for the first time, that the limit is below what it needs."""

    def is_over(self, used: int, events: int, now: float) -> bool:
        """Whether a process of this size that has ended so many events is to go."""
        if events and self._works_since is None:
            self._works_since = now
        self.is_early = self._works_since is None or now - self._works_since < _EARLY_S
        too_low = self.is_early and used > self._limit
        self.is_news, self._told = too_low and not self._told, self._told or too_low
        if self._works_since is None:
            self._at_rest = max(self._at_rest, used)
        if not self.is_early:
            return used > (self._limit if self._early <= self._limit else self._early * _MORE)
        self._early = max(self._early, self._at_rest, used)
        return self._works_since is not None and used > max(self._limit, self._at_rest) * _MORE


def memory_bytes() -> int:
    """Resident memory of this process; where the system does not tell (macOS), the most that it ever was."""
    try:
        return int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
