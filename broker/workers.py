"""Live workers: what each one serves, as the others see it."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from broker.core import Core
from broker.records import MappingSettings

HEARTBEAT_S: Final = 10.0
HEARTBEAT_AGAIN_S: Final = 1.0
"""After one that Redis did not take: the last sign of life may not count any more when it is back."""
HEARTBEAT_TTL_MS: Final = 30_000
_CACHE_S: Final = 1.0


class Serves(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker process says of itself. ``process`` names its inbox and begins its lease tokens."""

    process: str
    host: str = ""
    pid: int = 0
    functions: tuple[str, ...] = ()
    """What it serves: functions, and versions and aliases as ``orders:3``, ``orders:live``."""
    build: str = ""
    mappings: tuple[str, ...] = ()
    alone: bool = False
    """It runs only events that are set apart, one at a time."""

    def polls(self, mapping: MappingSettings) -> bool:
        """Whether it polls for a mapping, if that is enabled: one of the API where it serves the function, one of code
        where its own declares it."""
        if self.alone:
            return False
        return mapping.target in self.functions if mapping.origin == "api" else mapping.name in self.mappings


async def live_workers(core: Core) -> list[Serves]:
    """Every worker that has given a sign of life within the last 30 seconds."""
    return [msgspec.json.decode(text, type=Serves) for text in (await core.directory.live_workers()).values()]


class KnownWorkers:
    """Who may be there, remembered for a second: also those who are silent, as all are when Redis comes back. Whether
    somebody listens is seen when a call is handed over."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core
        self._found: list[Serves] = []
        self._found_at: float = -_CACHE_S

    async def serving(self, function: str, *, fresh: bool = False) -> list[Serves]:
        """Those that take calls of a function."""
        if fresh or time.monotonic() - self._found_at >= _CACHE_S:
            found = await self._core.directory.known_workers()
            self._found = [msgspec.json.decode(text, type=Serves) for text in found.values()]
            self._found_at = time.monotonic()
        return [worker for worker in self._found if function in worker.functions and not worker.alone]

    def forget(self, process: str) -> None:
        """Drops a worker that did not answer."""
        self._found = [worker for worker in self._found if worker.process != process]
