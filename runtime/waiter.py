"""Waiting: for a wake-up or a time, whichever comes first. Idle costs nothing but one timer."""

from __future__ import annotations

import asyncio
from typing import Final


class Waiter:
    """Waited on by one task, woken by anybody on the loop."""

    def __init__(self) -> None:
        self._woken: Final = asyncio.Event()
        self._loop: Final = asyncio.get_running_loop()

    def wake(self, _: bytes | None = None) -> None:
        """Ends the wait that is under way, or the next one."""
        self._woken.set()

    async def wait(self, seconds: float | None) -> None:
        """Returns at the next wake-up, at the latest after so many seconds."""
        timer = None if seconds is None else self._loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            self._woken.clear()
            if timer is not None:
                timer.cancel()
