"""When a worker process has done enough: so many events, or so much memory; its supervisor then exchanges it."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec

from broker.errors import InvalidOption

MB: Final = 1024 * 1024
_LOOK_EVERY_S: Final = 0.5
_ASK_AGAIN_S: Final = 10.0
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

    def reason(self, events: int) -> str:
        """Why a process that has ended so many events is to go, or ''."""
        if self.events is not None and events >= self.events:
            return "events"
        if self.memory_mb is not None and memory_bytes() > self.memory_mb * MB:
            return "memory"
        return ""

    async def watch(self, ended: Callable[[], int], tell: Callable[[str], None]) -> None:
        """Tells, as long as this process is there, that it is to go: ``spent REASON EVENTS MEGABYTES``. Again from time
        to time, as the one that was to take its place may not have come up."""
        if self.events is None and self.memory_mb is None:
            return
        while True:
            await anyio.sleep(_LOOK_EVERY_S)
            events = ended()
            if reason := self.reason(events):
                tell(f"spent {reason} {events} {memory_bytes() // MB}")
                await anyio.sleep(_ASK_AGAIN_S)


def memory_bytes() -> int:
    """Resident memory of this process; where the system does not tell (macOS), the most that it ever was."""
    try:
        return int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
