"""The loops that claim: one a source, each waiting for room, then for a wake-up, the next due time or a slow timer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from broker.errors import StoreError, StoreUnavailable
from broker.log import log
from broker.names import Resource
from broker.store.addresses import Place
from broker.store.values import Claim
from runtime.engine import SHARED_S, Engine
from runtime.keeper import RETRY_S
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource
from runtime.waiter import Waiter

_SLOW_S: Final = 60.0
_SLOW_PER_SOURCE_S: Final = 0.3
_BROKEN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_DUE_SLACK_S: Final = 0.001


class Pollers:
    """What all loops of one worker share: whether they go on, and when each server was last heard of."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine
        self._waiters: Final[list[Waiter]] = []
        self.stopping = False
        self._servers: Final[dict[Place | None, _Server]] = {}
        self._server_before: Final[dict[Resource, _Server]] = {}
        self._active = 0
        self._all_ended: Final = asyncio.Event()
        self._turn: Final = asyncio.Lock()

    def waiter(self) -> Waiter:
        """A waiter that a stop wakes."""
        waiter = Waiter()
        self._waiters.append(waiter)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """The loop of this waiter ends before the others."""
        self._waiters.remove(waiter)

    def why_not_polling(self) -> str | None:
        """None while work can be claimed; else the code of the error that stands in the way."""
        for server in self._servers.values():
            if server.broken_code:
                return server.broken_code
        # Without wake-ups nothing is heard of for up to a minute, and the connection is lost for a reason.
        return StoreUnavailable.code if self._engine.core.channels.steady_since is None else None

    def stop_claiming(self) -> None:
        """Nothing is claimed from now on."""
        self.stopping = True
        for waiter in self._waiters:
            waiter.wake()

    async def ended(self) -> None:
        """Returns when every loop has ended after a stop, and with it the claims that were under way."""
        if self._active:
            await self._all_ended.wait()

    def _slow_s(self) -> float:
        """A missed wake-up costs at most this; longer with many sources, so that idling stays cheap."""
        return max(_SLOW_S, _SLOW_PER_SOURCE_S * len(self._waiters)) * random.uniform(0.8, 1.2)

    # -- a function's own events --------------------------------------------------------------------------------------

    async def poll_invocations(self, source: InvocationSource, waiter: Waiter) -> None:
        """Runs until a stop."""

        async def take(room: int) -> float | None:
            token = self._engine.lease_token()
            try:
                claim = await source.claim(room, token)
                if self.stopping:
                    await self._engine.core.messages.release_claim(source.resource, token)
                    return None
                await source.accept(claim, token)
            except (StoreError, asyncio.CancelledError):
                self._engine.give_back(source.resource, token)  # whether it leased anything is unknown
                raise
            finally:
                source.permits.give_back_rest()
            self._engine.seen_suspects(source.resource, claim.suspects)
            room = min(room, source.asked_for)
            pause_s = _pause_s(claim, room, max_bytes=source.asked_bytes)
            went_without = claim.status == "full" or 0 < len(claim.messages) < room
            if source.shares_limit and went_without:
                return SHARED_S if pause_s is None else min(pause_s, SHARED_S)
            return pause_s

        await self._poll(source, take, waiter)

    async def poll_queue(self, source: QueueSource, waiter: Waiter) -> None:
        """Runs until a stop, or until its source is stopped."""
        await self._poll(source, source.take, waiter)

    async def _poll(
        self,
        source: InvocationSource | QueueSource,
        take: Callable[[int], Awaitable[float | None]],
        waiter: Waiter,
    ) -> None:
        self._active += 1
        failures = 0
        try:
            while not self.stopping and not source.stopped:
                try:
                    await self._steady(source.resource)
                    await source.freshen()
                    room = await self._room(source, waiter)
                    if room < 1:
                        continue
                    pause_s = await (self._take_alone(source, take) if self._engine.alone else take(room))
                    if not source.starts_soon:
                        self._engine.room.leave_line(source)
                except StoreError as error:
                    self._engine.room.leave_line(source)
                    self._lost(source.resource, error)
                    await waiter.wait(_BROKEN_S[min(failures, len(_BROKEN_S) - 1)])
                    failures += 1
                    continue
                failures = 0
                self._server_of(source.resource).broken_code = ""
                if pause_s != 0 and not self.stopping:
                    if source.waits_for_room:
                        source.wait_for_room()
                    slow_s = source.patience_s or self._slow_s()
                    await waiter.wait(slow_s if pause_s is None else min(slow_s, pause_s + _DUE_SLACK_S))
        finally:
            self._engine.room.leave_line(source)
            self._active -= 1
            if not self._active:
                self._all_ended.set()

    async def _room(self, source: InvocationSource | QueueSource, waiter: Waiter) -> int:
        """How much may be claimed; 0 when the caller should look again, after waiting for room."""
        room = source.room()
        if room < 1:
            if source.wants_room():
                source.wait_for_room()
            elif not source.starts_soon:
                self._engine.room.leave_line(source)
            await waiter.wait(source.patience_s)
            return 0
        gather_s = source.should_gather(room)
        if gather_s is None:
            return room
        await asyncio.sleep(gather_s)
        return 0 if self.stopping else source.room()

    async def _take_alone(
        self, source: InvocationSource | QueueSource, take: Callable[[int], Awaitable[float | None]]
    ) -> float | None:
        """One message of all sources of this process at a time: so that the one that takes the process down is the one
        that is blamed. The next claim goes out with its settle, and what that brings waits for the reply to both
        (:meth:`Engine.settled_alone`)."""
        async with self._turn:
            if self.stopping or source.room() < 1:  # by now
                return 0
            pause_s = await take(1)
            await self._engine.invoker.ended()
            return pause_s

    # -- the state of the store ---------------------------------------------------------------------------------------

    def _server_of(self, resource: Resource) -> _Server:
        place = self._engine.core.place_of(resource)
        server = self._servers.get(place) or self._servers.setdefault(place, _Server(place))
        before = self._server_before.get(resource)
        if before is not server:
            self._server_before[resource] = server
            if before is not None:
                server.take_over(before)
        return server

    def _lost(self, resource: Resource, error: StoreError) -> None:
        server = self._server_of(resource)
        server.broken_code = error.code
        if server.broken_at is None:
            server.broken_at = time.monotonic()
            log.warning("store_lost", code=error.code, reason=str(error))

    async def _steady(self, resource: Resource) -> None:
        """Before anything is claimed after an outage: leases that ran out meanwhile, of calls that still run here and
        elsewhere, are renewed first, so that nobody takes them for those of dead processes. Raises StoreUnavailable.
        """
        server = self._server_of(resource)
        if self._is_steady(server, resource):
            return
        async with server.recovery:
            if self._is_steady(server, resource):  # by now
                return
            self._engine.keeper.doubt(server.instead_of or server.place)
            if not await self._engine.keeper.renew_now(resource):
                raise StoreUnavailable("the leases cannot be renewed")
            since, _ = self._steadiness_of(resource)
            if since is not None:
                since = max(since, server.took_over_at)
            await asyncio.sleep(RETRY_S if since is None else max(0.0, since + RETRY_S - time.monotonic()))
            server.renewed_at = time.monotonic()
            if server.broken_at is not None:
                log.info("store_back", after_s=round(server.renewed_at - server.broken_at, 1))
                server.broken_at, server.broken_code, server.instead_of = None, "", None

    def _is_steady(self, server: _Server, resource: Resource) -> bool:
        """Whether the connection has held for long enough that the other workers have renewed their leases, too."""
        if server.broken_at is not None:
            return False
        since, lost_at = self._steadiness_of(resource)
        if since is None:
            return server.renewed_at > lost_at
        return time.monotonic() - since >= RETRY_S

    def _steadiness_of(self, resource: Resource) -> tuple[float | None, float]:
        core = self._engine.core
        return core.channels.steadiness_of(core.keys.of(resource).wake)


def _pause_s(claim: Claim, room: int, *, max_bytes: int) -> float | None:
    """How long to wait after a claim that asked for so much: 0 for not at all, None for until woken."""
    if claim.status == "ok" and claim.filled(room, max_bytes):
        return 0
    due_s = claim.due_in_s
    return due_s if due_s is None else due_s or _DUE_SLACK_S


class _Server:
    """What is known of one server, or one node of a cluster."""

    def __init__(self, place: Place | None) -> None:
        self.place: Final = place
        self.broken_at: float | None = None
        self.broken_code = ""
        self.renewed_at = float("-inf")
        self.took_over_at = float("-inf")
        self.instead_of: Place | None = None
        """Whom it took over from last, until the leases have been renewed here."""
        self.recovery: Final = asyncio.Lock()

    def take_over(self, lost: _Server) -> None:
        """It serves what another did. Where that was lost, leases have run out meanwhile, and nothing may be claimed
        here before they are renewed; and nobody looks at the other any more."""
        self.took_over_at, self.instead_of = time.monotonic(), lost.place
        if lost.broken_at is not None:
            if self.broken_at is None:
                self.broken_at, self.broken_code = lost.broken_at, lost.broken_code
            lost.broken_at, lost.broken_code = None, ""
