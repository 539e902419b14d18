"""A look at the directory that is repeated: when somebody says that something has changed, and now and then without."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec

from broker.errors import PenstockError
from broker.log import log

_GATHER_S: Final = 0.05
_BROKEN_S: Final = 1.0


class Lookout:
    """Repeats ``look``, which looks at ``what``; ``every_s`` is asked anew each time."""

    def __init__(self, look: Callable[[], Awaitable[None]], *, what: str, every_s: Callable[[], float]) -> None:
        self._look: Final = look
        self._what: Final = what
        self._every_s: Final = every_s
        self._changed = anyio.Event()

    def look_again(self) -> None:
        """Something has changed, or may have."""
        self._changed.set()

    async def run(self) -> None:
        """Runs for ever, and looks at first, too: something may have changed before anybody listened."""
        while True:
            try:
                await self._look()
            except (PenstockError, msgspec.MsgspecError) as error:  # also what a newer release has written
                log.warning(f"{self._what}_unread", error_type=type(error).__name__, reason=str(error))
                await anyio.sleep(_BROKEN_S)
                continue
            with anyio.move_on_after(self._every_s() * random.uniform(0.8, 1.2)):
                await self._changed.wait()
                await anyio.sleep(_GATHER_S)  # who changes one thing often changes more
            self._changed = anyio.Event()
