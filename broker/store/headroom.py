"""Back-pressure: producers are told to wait before Redis is full, so that there is room to handle what is there.

A sample of INFO every second while there are sends: 12 to 16 µs of Redis's time where this was measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from broker.errors import StoreError, StoreThrottled
from broker.log import log
from broker.store.scripts import ScriptRunner
from broker.store.server import Memory, memory_of, read_info

_SAMPLE_EVERY_S: Final = 1.0
_SAMPLE_SOON_S: Final = 0.2
_SOON_WITHIN_PERCENT: Final = 10.0
_AGAIN_BELOW: Final = 0.98
"""Producers go on when so much of the limit is reached, so that they do not come and go with every sample."""
_OFF: Final = 100


class Headroom:
    """Knows how full Redis is, nearly. ``full_at_percent`` of maxmemory is the limit; 100 leaves it to Redis."""

    def __init__(self, runner: ScriptRunner, *, full_at_percent: int) -> None:
        self._runner: Final = runner
        self._percent: Final = full_at_percent
        self._memory = Memory(0, 0)
        self._sampled_at_s = float("-inf")
        self._sampling: asyncio.Task[None] | None = None
        self.full = False
        """Whether producers are refused at the moment."""

    def note(self, infos: Sequence[bytes]) -> None:
        """Takes replies of INFO that somebody asked for anyway, one a node. The fullest decides: whatever is sent may
        lead there, or its record."""
        self._sampled_at_s = time.monotonic()
        self._memory = max((memory_of(read_info(info)) for info in infos), key=_percent, default=Memory(0, 0))
        limit = self._percent * (_AGAIN_BELOW if self.full else 1.0)
        full = self._percent < _OFF and self._memory.percent >= limit
        if full != self.full:
            self.full = full
            percent = round(self._memory.percent, 1)
            if full:
                log.warning("producers_throttled", percent=percent)
            else:
                log.info("producers_go_on", percent=percent)

    async def check(self) -> None:
        """Raises StoreThrottled where a producer must wait. No round trip, except to find out whether there is room."""
        if self._percent >= _OFF:
            return
        if time.monotonic() - self._sampled_at_s > self._every_s() and self._sampling is None:
            self._sampling = asyncio.create_task(self.look(), name="penstock-headroom")
        if self.full:
            if self._sampling is not None:
                await asyncio.shield(self._sampling)
            if self.full:
                raise StoreThrottled(self._runner.place, self._memory.percent, self._percent)

    async def look(self) -> None:
        """Finds out how full Redis is now."""
        try:
            self.note(await self._runner.fetch_everywhere("INFO", "memory"))
        except StoreError:  # the send itself finds out, and says so
            self._sampled_at_s, self.full = time.monotonic(), False
        finally:
            self._sampling = None

    async def close(self) -> None:
        """Ends a sample that is under way."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)

    def _every_s(self) -> float:
        near = self._memory.percent >= self._percent - _SOON_WITHIN_PERCENT
        return _SAMPLE_SOON_S if near else _SAMPLE_EVERY_S


def _percent(memory: Memory) -> float:
    return memory.percent
