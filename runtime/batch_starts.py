"""Batches between their claim and their calls: they start at once, or when the next claim is on its way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from runtime.batches import Batch, Held
from runtime.engine import Engine


class BatchStarts:
    """Starts the batches of one mapping as they were claimed; a stop gives back what it finds here."""

    def __init__(
        self,
        engine: Engine,
        start: Callable[[Batch], None],
        release: Callable[[list[Held]], None],
        give_permits_back: Callable[[list[str]], None],
    ) -> None:
        self._engine: Final = engine
        self._start: Final = start
        self._release: Final = release
        self._give_permits_back: Final = give_permits_back
        self._waiting: Final[deque[Batch]] = deque()
        self._stopped = False

    def __len__(self) -> int:
        """How many have not started yet."""
        return len(self._waiting)

    def add(self, batch: Batch) -> None:
        """It starts with the next :meth:`start_all`."""
        self._waiting.append(batch)

    async def start_all(self) -> None:
        """Starts them, and lets the loop go round now and then."""
        try:
            while self._waiting and not self._stopped:
                self._start(self._waiting.popleft())
                if self._engine.holds_loop_too_long():
                    await asyncio.sleep(0)
        finally:
            self._hand_back()  # after a stop meanwhile, or when this was cancelled

    def start_after_next_claim(self, then: Callable[[], None]) -> None:
        """There is more, which Redis is asked for before these start; ``then`` is called when they have."""
        self._engine.core.in_background(self._start_after_next_claim(then), name="start")

    async def _start_after_next_claim(self, then: Callable[[], None]) -> None:
        try:
            await asyncio.sleep(0)  # the poller's claim is on its way then
            await self.start_all()
        finally:
            then()

    def stop(self) -> None:
        """Nothing more starts; what has not is given back at once."""
        self._stopped = True
        self._hand_back()

    def _hand_back(self) -> None:
        while self._waiting:
            batch = self._waiting.popleft()
            self._release(batch.held)
            self._give_permits_back([batch.permit])
