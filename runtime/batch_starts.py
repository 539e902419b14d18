"""Batches between claim and call: they start as soon as there is room, or when the next claim is on its way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from runtime.batches import Batch, Held
from runtime.engine import Engine


class BatchStarts:
    """Starts the batches of one mapping as they were claimed; a stop gives back what it finds here.

    ``has_room`` says whether one more may start; ``still_ours`` takes from what has waited those messages that others
    have by now.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        start: Callable[[Batch], None],
        has_room: Callable[[], bool],
        still_ours: Callable[[list[Held]], list[Held]],
        release: Callable[[list[Held]], None],
        give_permits_back: Callable[[list[str]], None],
    ) -> None:
        self._engine: Final = engine
        self._start: Final = start
        self._has_room: Final = has_room
        self._still_ours: Final = still_ours
        self._release: Final = release
        self._give_permits_back: Final = give_permits_back
        self._waiting: Final[deque[Batch]] = deque()
        self._soon = self._stopped = False

    def __len__(self) -> int:
        """How many have not started yet."""
        return len(self._waiting)

    def add(self, batch: Batch) -> None:
        """It starts with the next :meth:`start_all`."""
        self._waiting.append(batch)
        if self._stopped:
            self._hand_back()

    async def start_all(self) -> None:
        """Starts them as far as there is room, and lets the loop go round now and then."""
        try:
            while self._starts_one():
                if self._engine.holds_loop_too_long():
                    await asyncio.sleep(0)
        except BaseException:
            self._hand_back()
            raise

    def start_after_next_claim(self, then: Callable[[], None]) -> None:
        """There is more, which Redis is asked for before these start; ``then`` is called when they have."""
        self._soon = True
        self._engine.core.in_background(self._start_after_next_claim(then), name="start")

    async def _start_after_next_claim(self, then: Callable[[], None]) -> None:
        try:
            await asyncio.sleep(0)  # the poller's claim is on its way then
            await self.start_all()
        finally:
            self._soon = False
            then()

    def start_what_waited(self) -> None:
        """The same for what found no room before, as far as it is still held."""
        while self._waiting and not self._soon and self._has_room():
            batch = self._waiting.popleft()
            held = self._still_ours(batch.held)
            if held:
                self._start(Batch(held, batch.permit))
            else:
                self._give_permits_back([batch.permit])

    def stop(self) -> None:
        """Nothing more starts; what has not is given back at once."""
        self._stopped = True
        self._hand_back()

    def _starts_one(self) -> bool:
        if not self._waiting or self._stopped or not self._has_room():
            return False
        self._start(self._waiting.popleft())
        return True

    def _hand_back(self) -> None:
        while self._waiting:
            batch = self._waiting.popleft()
            self._release(batch.held)
            self._give_permits_back([batch.permit])
