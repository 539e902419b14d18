"""A function's asynchronous event queue: claims no more events than can start, and runs each in a call of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from broker.names import Resource
from broker.records import NO_HEADER, FunctionSettings
from broker.store.permits import PERMIT_NOTICE
from broker.store.values import Claim, Deferral, member_of
from runtime.context import Context
from runtime.engine import Engine
from runtime.event_ends import EventEnds
from runtime.event_permits import EventPermits
from runtime.events import Event
from runtime.handlers import HandlerFunction, Unreadable
from runtime.invoker import Call
from runtime.outcomes import failed
from runtime.policy import before_run
from runtime.reach import Reach
from runtime.room import HELD_S
from runtime.tally import Tally
from runtime.waiter import Waiter

_CLAIM_AT_MOST: Final = 1_000
_PREFETCH_S: Final = 0.1
_GATHER_S: Final = 0.005
_GATHER_BELOW: Final = 8


class InvocationSource:
    """Takes the events of one function for this process."""

    def __init__(
        self,
        engine: Engine,
        function: HandlerFunction,
        waiter: Waiter,
        *,
        partition: int = 0,
        tally: Tally | None = None,
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._waiter: Final = waiter
        self._whole: Final[Resource] = engine.core.resource("function", function.resource_name)
        self.resource: Final[Resource] = self._whole.part(partition)
        self._arn: Final = self.resource.arn
        self._room: Final = engine.room
        self.permits: Final = EventPermits(engine, function, self._whole, waiter)
        """Of a function with a limit that is split; else the claims take them."""
        self.asked_for = self.asked_bytes = 0  # so many events, and bytes, by the last claim
        self._reach: Final = Reach(engine.core.settings.lease_ms)
        self._settler: Final = engine.settler(self.resource)
        self._limit: int | None = function.settings.concurrency
        self._prefetched: Final[deque[Event]] = deque()
        self._revision = -1
        self._stale = self._foreign = False
        self._running = 0
        self._claimed_at = 0.0
        self._starting = self._starting_soon = self._stopped = False
        self._finished_since = 0
        self._measured_at = time.monotonic()
        self._rate = 0.0
        self.tally: Final = tally or Tally(function.shown_name, engine.figures)
        """One for all partitions."""
        self._figures: Final = self.tally.figures
        self._tracer: Final = engine.tracer(function)
        self._ends: Final = EventEnds(engine, function, self.resource, self.tally, self._tracer)

    def changed(self, notice: bytes | None) -> None:
        """A wake-up; settings are read again when it says so, or when something may have been missed."""
        if notice == PERMIT_NOTICE and not self.permits.given_back():
            return
        if notice is None or notice not in {b"", PERMIT_NOTICE}:
            self._stale = True
        self._waiter.wake()

    def whole_changed(self, notice: bytes | None) -> None:
        """A wake-up of the first partition, where this is another: settings, or a permit given back."""
        if notice != b"" or self.permits.given_back():
            self.changed(notice)

    async def freshen(self) -> bool:
        """Takes over newer settings where there may be some. What was claimed under others is handed back. Answers
        whether the function rests."""
        if not self._stale:
            return False
        self._stale = False  # before the look: what changes during it is announced again
        try:
            described = await self._engine.core.directory.describe(self._whole)
        except BaseException:
            self._stale = True
            raise
        if described is None:
            return True
        self._function.settings = settings = msgspec.json.decode(described.settings, type=FunctionSettings)
        self._revision = described.revision
        self._engine.on_settings(self._function)
        if described.partitions > 1:
            self._engine.on_split(self._whole, described.partitions)
        self._foreign = self._engine.is_foreign(settings)  # an alias that names another version by now
        rests = described.held or settings.paused or self._foreign
        if rests or settings.concurrency != self._limit:
            self.hand_back()
        self._limit = settings.concurrency
        return rests

    # -- claiming -----------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many events may be claimed now: what can start, plus the prefetch where there is no limit, and calls of
        its own that start it when they end. What was claimed before starts first, where somebody else's calls have made
        room."""
        if self._foreign:
            return 0
        self._start_prefetched()
        self._measure()
        if self._prefetched and time.monotonic() - self._claimed_at >= HELD_S:
            self.hand_back(keep=int(self._rate * HELD_S))  # calls take longer than those that it had seen
        can_start = self._can_start() - len(self._prefetched)
        own = self._running or self._starting_soon
        if self._engine.alone or self._limit is not None or not self._function.on_loop or not own:
            return min(can_start, _CLAIM_AT_MOST)
        return min(can_start + min(_CLAIM_AT_MOST, int(self._rate * _PREFETCH_S)), _CLAIM_AT_MOST)

    def _can_start(self) -> int:
        free = self._room.free_for(self, self._function)
        return min(free, self._limit - self._running) if self._limit else free

    @property
    def shares_limit(self) -> bool:
        """Whether permits of its limit are given back without a word to it: it is a version, or has some."""
        return self._function.shares_limit and self._limit is not None

    def wants_room(self) -> bool:
        """Whether it waits for the end of any call in this process, not only of its own."""
        return self._room.free_for(self, self._function) < 1

    @property
    def waits_for_room(self) -> bool:
        """Whether it has claimed what cannot start before any call ends: others were quicker."""
        return bool(self._prefetched) and self.wants_room()

    @property
    def starts_soon(self) -> bool:
        """Whether what it has claimed is about to start: what is left to it in line is for that."""
        return self._starting_soon and bool(self._prefetched)

    @property
    def patience_s(self) -> float | None:
        """When to look at the latest what becomes of what it has claimed; None where all of it runs."""
        return HELD_S if self._prefetched else None

    def wait_for_room(self) -> None:
        """Has itself woken when there is some; what it has claimed may wait for that like what it has not."""
        self._room.wait_for(self, self._function, self._waiter.wake, idle=not self._running)

    def should_gather(self, room: int) -> float | None:
        """While calls end one by one: how long to let them, so that one claim takes many."""
        busy = self._running + len(self._prefetched)
        return _GATHER_S if busy > _GATHER_BELOW * room else None

    async def claim(self, room: int, token: str) -> Claim:
        """One claim; the poller keeps the token, to give back what a lost reply may have leased."""
        if not self._limit:
            return await self._claim(room, token)
        if not self.permits.needed:
            return await self._claim_in_turn(room, token)
        self._room.leave_line(self)  # there may be no permit for long
        taken = await self.permits.take(room, stopped=self._has_to_look)
        if isinstance(taken, Claim):
            return msgspec.structs.replace(taken, revision=self._revision, limit=self._limit)
        return await self._claim(taken, token, with_permits=True)

    def _has_to_look(self) -> bool:
        return self._stopped or self._stale

    async def _claim_in_turn(self, room: int, token: str) -> Claim:
        """The mappings of the function wait for the same permits: see :meth:`Engine.turn`."""
        turn = self._engine.turn(self._whole)
        if turn.locked():
            self._room.leave_line(self)
        async with turn:
            while not self._has_to_look():
                claim = await self._claim(room, token)
                known = claim.revision == self._revision and not self.permits.needed
                if claim.status != "full" or not known or self._engine.alone:
                    return claim
                self._room.leave_line(self)
                await self._waiter.wait(self._engine.permit_wait_s(self._function))
        return Claim("full", next_due_ms=0, revision=self._revision, limit=self._limit)

    async def _claim(self, room: int, token: str, *, with_permits: bool = False) -> Claim:
        self.asked_for, self.asked_bytes, sent_at = room, self._reach.bytes, time.monotonic()
        claim = await self._engine.core.messages.claim(
            self.resource,
            token=token,
            lease_ms=self._engine.core.settings.lease_ms,
            room=room,
            max_bytes=self.asked_bytes,
            mode="alone" if self._engine.alone else "work",
            wake=True,
            with_permits=with_permits,
        )
        if claim.messages:
            self._reach.took(claim, time.monotonic() - sent_at)
        if claim.status == "full" and self._figures is not None:
            self._figures.throttled("limit")
        return claim

    async def accept(self, claim: Claim, token: str) -> None:
        """Starts what was claimed, or keeps it for as soon as there is room."""
        if claim.status == "unknown":
            self._revision = -1
            return
        self._limit, resting = claim.limit, False
        if claim.revision != self._revision or self._function.settings.concurrency != claim.limit:
            self._stale = True
            resting = await self.freshen()
            if claim.revision < self._revision and self.resource.partition:
                self._engine.core.in_background(self._engine.core.partitions.adopt(self._whole), name="adopt")
        self._tracer.look()
        now_s = time.monotonic()
        events = [Event(claimed, member_of(claimed.entry, token), claim, now_s) for claimed in claim.messages]
        members = [event.member for event in events]
        self._engine.keeper.hold(self.resource, members)
        self.permits.assign(members)
        self._claimed_at = now_s
        self._prefetched.extend(events)  # from here on a stop finds them there
        if resting or self._stopped:
            self.hand_back()
        if claim.outbox:
            self._engine.relays.kick(self.resource)
        if self._limit is None and not self._engine.alone and claim.filled(self.asked_for, self.asked_bytes):
            self._start_claimed_soon()
        else:
            await self._engine.settled_alone()
            await self._start_claimed()

    def _start_claimed_soon(self) -> None:
        """There is more, which Redis is asked for before these start, as far as the prefetch goes."""
        if not self._starting_soon:
            self._starting_soon = True
            self._engine.core.in_background(self._start_after_next_claim(), name="start")

    async def _start_after_next_claim(self) -> None:
        try:
            await asyncio.sleep(0)  # the poller's claim is on its way then
            await self._start_claimed()
        finally:
            self._starting_soon = False
            self._waiter.wake()  # others may have taken the room: the poller sees to it that it hears of more

    async def _start_claimed(self) -> None:
        """As many as can start are counted once for all that start in a row: nobody else starts any meanwhile."""
        while (can_start := min(self._can_start(), len(self._prefetched))) > 0:
            breathes = False
            while can_start > 0 and self._prefetched and not breathes:
                self._start_next()
                can_start -= 1
                breathes = self._engine.holds_loop_too_long()
            self._room.leave_line(self)
            if breathes:
                await asyncio.sleep(0)

    @property
    def stopped(self) -> bool:
        """Whether it claims nothing any more, for good."""
        return self._stopped

    def stop(self) -> None:
        """Nothing more starts; what has not is given back at once."""
        self._stopped = True
        self.hand_back()
        self._waiter.wake()

    def hand_back(self, *, keep: int = 0) -> None:
        """Gives back at once what was claimed and has not started, but for the first so many."""
        while len(self._prefetched) > keep:
            member = self._prefetched.pop().member
            self._settler.defer(Deferral(member, 0), counter="released")
            self.permits.give_back([member])

    def forget(self, members: AbstractSet[str]) -> int:
        """Their leases are somebody else's now: what has not started must not. Answers how many that are."""
        ours = [event for event in self._prefetched if event.member not in members]
        self.permits.give_back([event.member for event in self._prefetched if event.member in members])
        forgotten = len(self._prefetched) - len(ours)
        self._prefetched.clear()
        self._prefetched.extend(ours)
        return forgotten

    # -- running ------------------------------------------------------------------------------------------------------

    def _consider(self, event: Event) -> None:
        settings = self._function.settings
        came_before = 0 if event.header is NO_HEADER else self._tracer.invocations(event.header.trace)
        age_s = event.age_s()
        verdict = before_run(settings, event.facts, age_s=age_s, limit=self._limit, invocations=came_before)
        if verdict is not None:
            self.permits.give_back([event.member])
            self._engine.end_in_background(self._ends.give_up_unrun(event, verdict), name="give_up")
            return
        deadline = time.monotonic() + settings.timeout_s
        context = Context(
            identity=event.identity,
            function_name=self._function.name,
            invoked_function_arn=self._arn,
            log_stream_name=self._engine.log_stream,
            deadline=deadline,
            attempt=event.facts.tries + 1,
            fencing_token=event.fence,
            settings=settings,
        )
        try:
            decoded = self._function.decode(event.body)
        except Unreadable as error:
            self.permits.give_back([event.member])
            self._ends.settle(event, failed("Runtime.UnmarshalError", str(error), event.request_id, []))
            return
        self._running += 1
        if self._figures is not None and self._figures.wait is not None and not event.facts.tries:
            self._figures.wait.observe(age_s)
        call = Call(self._function, decoded, context, deadline, self._on_outcome, self._on_free, event)
        if self._tracer.always or event.header is not NO_HEADER:
            call.trace = event.trace = self._tracer.of_event(event.header, context)
        self._engine.invoker.start(call)

    def _on_outcome(self, call: Call) -> None:
        if call.outcome is not None:
            if call.stuck and self._limit is not None:
                permits = self._engine.core.keys.of(self.resource).permits  # of its own, where the claim took it
                self._engine.keeper.hold_permits(permits, [call.work.member])
            self._ends.settle(call.work, call.outcome, keep_permit=call.stuck, started=call.started)

    def _on_free(self, call: Call) -> None:
        self._running -= 1
        if call.stuck:
            self._release_kept_permit(call.work.member)
        self._finished_since += 1
        if self.permits.held:  # asked here, as a call costs
            self.permits.give_back([call.work.member])
        self._start_prefetched()
        self._waiter.wake()

    def _start_prefetched(self) -> None:
        """Not from within a start: a call that ends as soon as it starts comes back here."""
        while self._prefetched and not self._starting and not self._starting_soon and self._can_start() > 0:
            self._start_next()
            self._room.leave_line(self)

    def _start_next(self) -> None:
        self._starting = True
        try:
            self._consider(self._prefetched.popleft())
        finally:
            self._starting = False

    def _release_kept_permit(self, member: str) -> None:
        permits = self._engine.core.keys.of(self.resource).permits
        if self._engine.keeper.drop_permits(permits, [member]):
            release = self._engine.core.permits.release_of_function(self.resource, [member])
            self._engine.core.in_background(release, name="release_permit")

    def _measure(self) -> None:
        elapsed = time.monotonic() - self._measured_at
        if elapsed >= _PREFETCH_S:
            self._rate = 0.5 * self._rate + 0.5 * self._finished_since / elapsed
            if self._running and not self._finished_since and elapsed >= HELD_S:
                self._rate = 0.0
            self._finished_since, self._measured_at = 0, time.monotonic()
