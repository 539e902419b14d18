"""The loops that claim: one a source, each waiting for room, then for a wake-up, the next due time or a slow timer."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from broker.errors import StoreError
from broker.store.messages import Claim
from runtime.engine import Engine
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource
from runtime.waiter import Waiter

_SLOW_S: Final = 60.0
_SLOW_PER_SOURCE_S: Final = 0.3
_PAUSED_S: Final = 5.0
_BROKEN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_DUE_SLACK_S: Final = 0.001

_log = structlog.get_logger("penstock")


class Pollers:
    """What all loops of one worker share: whether they go on, and when Redis was last heard of."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine
        self._waiters: Final[list[Waiter]] = []
        self.stopping = False
        self._broken = False

    def waiter(self) -> Waiter:
        """A waiter that a stop wakes."""
        waiter = Waiter()
        self._waiters.append(waiter)
        return waiter

    def stop_claiming(self) -> None:
        """Nothing is claimed from now on."""
        self.stopping = True
        for waiter in self._waiters:
            waiter.wake()

    def _slow_s(self) -> float:
        """A missed wake-up costs at most this; longer with many sources, so that idling stays cheap."""
        return max(_SLOW_S, _SLOW_PER_SOURCE_S * len(self._waiters)) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

    # -- a function's own events --------------------------------------------------------------------------------------

    async def poll_invocations(self, source: InvocationSource, waiter: Waiter) -> None:
        """Runs until a stop."""
        failures = 0
        while not self.stopping:
            room = source.room()
            if room < 1:
                await waiter.wait(None)
                continue
            gather_s = source.should_gather(room)
            if gather_s is not None:
                await asyncio.sleep(gather_s)
                room = source.room()
            if self.stopping:
                break
            token = self._engine.lease_token()
            try:
                claim = await source.claim(room, token)
                if self.stopping:
                    await self._engine.core.messages.release_claim(source.resource, token)
                    break
                await source.accept(claim, token)
            except StoreError as error:
                self._lost(error)
                self._engine.core.in_background(
                    self._engine.core.messages.release_claim(source.resource, token), name="release_claim"
                )
                await waiter.wait(_BROKEN_S[min(failures, len(_BROKEN_S) - 1)])
                failures += 1
                continue
            failures = 0
            self._back()
            if claim.suspects and not self._engine.alone:
                self._engine.on_suspects()
            pause_s = self._pause(claim, room)
            if pause_s != 0:
                await waiter.wait(pause_s)

    def _pause(self, claim: Claim, room: int) -> float:
        if claim.status == "ok" and len(claim.messages) >= room:
            return 0
        if claim.status in {"paused", "unknown"}:
            return self._slow_s()
        if claim.next_due_ms is None:
            return self._slow_s()
        return min(self._slow_s(), max(0.0, (claim.next_due_ms - claim.now_ms) / 1000) + _DUE_SLACK_S)

    # -- mapped queues ------------------------------------------------------------------------------------------------

    async def poll_queue(self, source: QueueSource, waiter: Waiter) -> None:
        """Runs until a stop."""
        failures = 0
        while not self.stopping:
            room = source.room()
            if room < 1:
                await waiter.wait(None)
                continue
            try:
                pause_s = await source.take(room)
            except StoreError as error:
                self._lost(error)
                await waiter.wait(_BROKEN_S[min(failures, len(_BROKEN_S) - 1)])
                failures += 1
                continue
            failures = 0
            self._back()
            if pause_s != 0 and not self.stopping:
                slow_s = self._slow_s()
                await waiter.wait(slow_s if pause_s is None else min(slow_s, pause_s + _DUE_SLACK_S))

    # -- the state of the store ---------------------------------------------------------------------------------------

    def _lost(self, error: StoreError) -> None:
        if not self._broken:
            self._broken = True
            _log.warning("store_lost", code=error.code, reason=str(error))

    def _back(self) -> None:
        if self._broken:
            self._broken = False
            _log.info("store_back")
