"""Batches between claim and call: they start as soon as there is room, or when the next claim is on its way."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from runtime.batches import Batch, Held
from runtime.engine import Engine
from runtime.room import HELD_S


class BatchStarts:
    """Starts the batches of one mapping as they were claimed; what cannot start is given back.

    ``has_room`` says whether one more may start; ``still_ours`` answers of what waits those messages that may still
    run; ``may_go`` says whether messages can be given back only because they wait.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        start: Callable[[Batch], None],
        has_room: Callable[[], bool],
        still_ours: Callable[[list[Held]], list[Held]],
        may_go: Callable[[list[Held]], bool],
        release: Callable[[list[Held]], None],
        give_permits_back: Callable[[list[str]], None],
    ) -> None:
        self._engine: Final = engine
        self._start: Final = start
        self._has_room: Final = has_room
        self._still_ours: Final = still_ours
        self._may_go: Final = may_go
        self._release: Final = release
        self._give_permits_back: Final = give_permits_back
        self._waiting: Final[deque[tuple[Batch, float]]] = deque()
        self._soon = self._stopped = False

    def __len__(self) -> int:
        """How many have not started yet."""
        return len(self._waiting)

    @property
    def soon(self) -> bool:
        """Whether some are about to."""
        return self._soon and bool(self._waiting)

    def add(self, batch: Batch) -> None:
        """It starts with the next :meth:`start_all`."""
        self._waiting.append((batch, time.monotonic()))
        if self._stopped:
            self.hand_back()

    async def start_all(self) -> None:
        """Starts them as far as there is room, and lets the loop go round now and then."""
        try:
            while self._starts_one():
                if self._engine.holds_loop_too_long():
                    await asyncio.sleep(0)
        except BaseException:
            self.hand_back()
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
        """The same for what found no room before. What has waited for too long for it is given back."""
        if self._soon:
            return
        while self._starts_one():
            pass
        if self._waiting:
            overdue = time.monotonic() - HELD_S
            self._keep(lambda batch, since: since > overdue or not self._may_go(batch.held))

    def forget(self) -> int:
        """Some of it may be in other hands by now: that must not start. Answers how many messages do not."""
        waiting, forgotten = tuple(self._waiting), 0
        self._waiting.clear()
        for batch, since in waiting:
            ours = self._still_ours(batch.held)
            forgotten += len(batch.held) - len(ours)
            if ours:
                self._waiting.append((Batch(ours, batch.permit), since))
            else:
                self._give_permits_back([batch.permit])
        return forgotten

    def stop(self) -> None:
        """Nothing more starts; what has not is given back at once."""
        self._stopped = True
        self.hand_back()

    def hand_back(self) -> None:
        """Gives back at once what has not started."""
        self._keep(lambda _batch, _since: False)

    def _starts_one(self) -> bool:
        if not self._waiting or self._stopped or not self._has_room():
            return False
        self._start(self._waiting.popleft()[0])
        return True

    def _keep(self, keeps: Callable[[Batch, float], bool]) -> None:
        waiting = tuple(self._waiting)
        self._waiting.clear()
        for batch, since in waiting:
            if keeps(batch, since):
                self._waiting.append((batch, since))
            else:
                self._release(batch.held)
                self._give_permits_back([batch.permit])
