"""A function's asynchronous event queue: claims no more events than can start, runs each in a call of its own, settles
them by the policy and sends records on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from broker import tracing
from broker.endings import how_it_ended
from broker.errors import StoreError
from broker.ids import message_id
from broker.invocation_records import Condition, InvocationEnd, onward_records
from broker.lineage import MAX_INVOCATIONS
from broker.log import log
from broker.names import Resource
from broker.records import FIRST_FACTS, NO_HEADER, Facts, FunctionSettings, Header, unpack
from broker.store.permits import PERMIT_NOTICE
from broker.store.values import Claim, Claimed, Deferral, member_of
from broker.tracing import Trace
from runtime.context import Context
from runtime.engine import Engine
from runtime.event_permits import EventPermits
from runtime.handlers import HandlerFunction, Unreadable
from runtime.invoker import Call
from runtime.outcomes import Outcome, exit_error, failed, response_of
from runtime.policy import Finish, GiveUp, Release, Retry, after_run, before_run
from runtime.tally import Tally
from runtime.tracing import CallTrace
from runtime.waiter import Waiter

_CLAIM_AT_MOST: Final = 1_000
_PREFETCH_S: Final = 0.1
_GATHER_S: Final = 0.005
_GATHER_BELOW: Final = 8
_MAX_NOTE_BYTES: Final = 256 * 1024
_UNREADABLE_MS: Final = 1_000


class Event:
    """One leased event of the function."""

    __slots__ = ("body", "facts", "fence", "header", "identity", "member", "now_ms", "received", "sent_ms", "trace")

    def __init__(self, claimed: Claimed, member: str, claim: Claim) -> None:
        self.header: Header
        self.header, self.body = unpack(claimed.blob)
        self.member = member
        self.facts: Facts = claimed.facts if claimed.facts_text else FIRST_FACTS
        self.identity: str | tuple[str, int] = self.header.id or (claimed.entry, claim.nonce)
        self.sent_ms = self.facts.sent_ms or int(claimed.entry[: claimed.entry.index("-")])
        self.now_ms = claim.now_ms
        self.received = time.monotonic()
        self.fence = claim.fence
        self.trace: CallTrace | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The leases that its call depends on."""
        return (self.member,)

    @property
    def request_id(self) -> str:
        """The caller's own id, or the one that the entry gives."""
        return self.identity if isinstance(self.identity, str) else message_id(*self.identity)

    @property
    def own_id(self) -> str:
        """The caller's own id, '' where it gave none."""
        return self.identity if isinstance(self.identity, str) else ""

    def age_s(self) -> float:
        """Seconds since it was accepted, by Redis's clock at the claim plus ours since then."""
        return (self.now_ms - self.sent_ms) / 1000 + time.monotonic() - self.received

    def redis_now_ms(self) -> int:
        """Redis's clock now, as well as this process knows it."""
        return self.now_ms + int((time.monotonic() - self.received) * 1000)


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
        self.permits: Final = EventPermits(engine, function, self._whole, waiter)
        """Of a function with a limit that is split; else the claims take them."""
        self.asked_for = 0  # so many events, by the last claim
        self._settler: Final = engine.settler(self.resource)
        self._limit: int | None = function.settings.concurrency
        self._prefetched: Final[deque[Event]] = deque()
        self._revision = -1
        self._stale = self._foreign = False
        self._running = 0
        self._starting = self._stopped = False
        self._finished_since = 0
        self._measured_at = time.monotonic()
        self._rate = 0.0
        self.tally: Final = tally or Tally(function.shown_name, engine.figures)
        """One for all partitions."""
        self._figures: Final = self.tally.figures
        self._tracer: Final = engine.tracer(function)

    def changed(self, notice: bytes | None) -> None:
        """A wake-up; settings are read again when it says so, or when something may have been missed."""
        if notice == PERMIT_NOTICE and not self.permits.wanted:
            return
        if notice is None or notice not in {b"", PERMIT_NOTICE}:
            self._stale = True
        self._waiter.wake()

    def whole_changed(self, notice: bytes | None) -> None:
        """A wake-up of the first partition, where this is another: settings, or a permit given back."""
        if notice != b"" or self.permits.wanted:
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
        """How many events may be claimed now: what can start, plus the prefetch where there is no limit. What was
        claimed before starts first, where somebody else's calls have made room."""
        if self._foreign:
            return 0
        self._start_prefetched()
        can_start = self._can_start() - len(self._prefetched)
        if self._engine.alone or self._limit is not None or not self._function.on_loop:
            return min(can_start, _CLAIM_AT_MOST)
        return min(can_start + min(_CLAIM_AT_MOST, int(self._rate * _PREFETCH_S)), _CLAIM_AT_MOST)

    def _can_start(self) -> int:
        free = self._engine.free_calls_for(self)
        if self._limit:
            free = min(free, self._limit - self._running)
        return free if self._function.on_loop else min(free, self._engine.invoker.free_threads)

    @property
    def shares_limit(self) -> bool:
        """Whether permits of its limit are given back without a word to it: it is a version, or has some."""
        return self._function.shares_limit and self._limit is not None

    def wants_room(self) -> bool:
        """Whether it waits for the end of any call in this process, not only of its own."""
        return self._engine.full_for(self._function) or self._engine.free_calls_for(self) < 1

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing that runs, or is about to."""
        return not self._running and not self._prefetched

    def should_gather(self, room: int) -> float | None:
        """While calls end one by one: how long to let them, so that one claim takes many."""
        busy = self._running + len(self._prefetched)
        return _GATHER_S if busy > _GATHER_BELOW * room else None

    async def claim(self, room: int, token: str) -> Claim:
        """One claim; the poller keeps the token, to give back what a lost reply may have leased."""
        with_permits = bool(self._limit) and self.permits.needed
        if with_permits:
            taken = await self.permits.take(room, stopped=lambda: self._stopped or self._stale)
            if isinstance(taken, Claim):
                return msgspec.structs.replace(taken, revision=self._revision, limit=self._limit)
            room = taken
        self.asked_for = room
        return await self._engine.core.messages.claim(
            self.resource,
            token=token,
            lease_ms=self._engine.core.settings.lease_ms,
            room=room,
            mode="alone" if self._engine.alone else "work",
            wake=True,
            with_permits=with_permits,
        )

    async def accept(self, claim: Claim, token: str) -> None:
        """Starts what was claimed, or keeps it for as soon as there is room."""
        if claim.status == "unknown":
            self._revision = -1
            return
        self._limit, resting = claim.limit, False
        if claim.status == "full" and self._figures is not None:
            self._figures.throttled("limit")
        if claim.revision != self._revision or self._function.settings.concurrency != claim.limit:
            self._stale = True
            resting = await self.freshen()
            if claim.revision < self._revision and self.resource.partition:
                self._engine.core.in_background(self._engine.core.partitions.adopt(self._whole), name="adopt")
        self._tracer.look()
        events = [Event(claimed, member_of(claimed.entry, token), claim) for claimed in claim.messages]
        members = [event.member for event in events]
        self._engine.keeper.hold(self.resource, members)
        self.permits.assign(members)
        self._prefetched.extend(events)  # from here on a stop finds them there
        if resting or self._stopped:
            self.hand_back()
        if claim.outbox:
            self._engine.relays.kick(self.resource)
        while self._prefetched and self._can_start() > 0:
            self._start_next()
            if self._engine.holds_loop_too_long():
                await asyncio.sleep(0)

    @property
    def stopped(self) -> bool:
        """Whether it claims nothing any more, for good."""
        return self._stopped

    def stop(self) -> None:
        """Nothing more starts; what has not is given back at once."""
        self._stopped = True
        self.hand_back()

    def hand_back(self) -> None:
        """Gives back at once what was claimed and has not started."""
        while self._prefetched:
            member = self._prefetched.popleft().member
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
            self._engine.core.in_background(self._give_up_unrun(event, verdict), name="give_up")
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
            self._settle(event, failed("Runtime.UnmarshalError", str(error), event.request_id, []))
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
            self._settle(call.work, call.outcome, keep_permit=call.stuck, started=call.started)

    def _on_free(self, call: Call) -> None:
        self._running -= 1
        if call.stuck:
            self._release_kept_permit(call.work.member)
        if self.permits.held:  # asked here, as a call costs
            self.permits.give_back([call.work.member])
        self._measure()
        self._start_prefetched()
        self._waiter.wake()

    def _start_prefetched(self) -> None:
        """Not from within a start: a call that ends as soon as it starts comes back here."""
        while self._prefetched and not self._starting and self._can_start() > 0:
            self._start_next()

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
        self._finished_since += 1
        elapsed = time.monotonic() - self._measured_at
        if elapsed >= _PREFETCH_S:
            self._rate = 0.5 * self._rate + 0.5 * self._finished_since / elapsed
            self._finished_since, self._measured_at = 0, time.monotonic()

    # -- settling -----------------------------------------------------------------------------------------------------

    def _settle(self, event: Event, outcome: Outcome, *, keep_permit: bool = False, started: float = 0) -> None:
        verdict = after_run(self._function.settings, event.facts, outcome, age_s=event.age_s())
        self.tally.add(outcome, verdict, event, started)
        response = response_of(outcome)
        match verdict:
            case Finish(tries):
                self._finish(event, "Success", tries, response, keep_permit=keep_permit)
            case GiveUp(condition, tries):
                self._finish(event, condition, tries, response, keep_permit=keep_permit)
            case Retry(delay_s):
                note = response if response is not None and len(response) <= _MAX_NOTE_BYTES else b"null"
                deferral = Deferral(event.member, round(delay_s * 1000), adds_try=True, note=note)
                self._settler.defer(deferral, counter="retried", keep_permit=keep_permit)
            case Release(delay_s):
                deferral = Deferral(event.member, round(delay_s * 1000))
                self._settler.defer(deferral, counter="released", keep_permit=keep_permit)

    async def _give_up_unrun(self, event: Event, verdict: GiveUp) -> None:
        """An event that must not run (any more): its record carries what its last try answered, if there was one."""
        try:
            response = await self._last_response(event, verdict)
        except StoreError:
            self._settler.defer(Deferral(event.member, _UNREADABLE_MS), counter="released")
            raise
        log.warning(
            "event_given_up",
            function=self._function.shown_name,
            request_id=event.request_id,
            condition=verdict.condition,
            tries=verdict.tries,
            crashes=event.facts.crashes,
        )
        if self._figures is not None:
            self._figures.given_up(verdict.condition)
        self._finish(event, verdict.condition, verdict.tries, response)

    def _finish(
        self, event: Event, condition: Condition, tries: int, response: bytes | None, *, keep_permit: bool = False
    ) -> None:
        settings, end = self._function.settings, None
        if settings.keep_status_s and (  # the usual end needs no word; asked here, as a call costs half a microsecond
            condition != "Success" or tries > 1 or settings.keep_result_bytes or event.own_id
        ):
            end = how_it_ended(
                condition, tries, response, own_id=event.own_id, keep_result_bytes=settings.keep_result_bytes
            )
        onward = self._records(event, condition, tries, response)
        counter = "done" if condition == "Success" else "failed"
        self._settler.finish(event.member, counter=counter, onward=onward, keep_permit=keep_permit, end=end)

    async def _last_response(self, event: Event, verdict: GiveUp) -> bytes | None:
        if verdict.condition == "Quarantined":
            return await self._cause_of_death(event)
        if not event.facts.tries:
            return None
        entry = event.member.partition("|")[0]
        return (await self._engine.core.messages.notes(self.resource, [entry]))[0]

    async def _cause_of_death(self, event: Event) -> bytes:
        return exit_error(await self._engine.end_of(event.facts.culprit), event.request_id)

    def _records(
        self, event: Event, condition: Condition, tries: int, response: bytes | None
    ) -> tuple[tuple[str, bytes], ...]:
        """What the end of an event sends on: suffix and stored record each."""
        settings = self._function.settings
        wanted = settings.on_success if condition == "Success" else settings.on_failure or settings.dead_letter
        if wanted is None:
            return ()
        end = InvocationEnd(
            function=self.resource,
            request_id=event.request_id,
            condition=condition,
            tries=tries,
            event=event.body,
            response=response,
            now_ms=event.redis_now_ms(),
            trace=self._sent_on(event),
            to_functions=condition != "RecursiveInvocation" or not self._was_stopped(event),
        )
        return onward_records(end, settings)

    def _sent_on(self, event: Event) -> Trace:
        """What the records of an event belong to."""
        if event.trace is not None:
            return event.trace.trace
        if event.header is NO_HEADER:
            return self._tracer.untraced
        return self._tracer.run_once_more(tracing.of_header(event.header))

    def _was_stopped(self, event: Event) -> bool:
        """Whether its chain has been stopped here before."""
        return self._tracer.invocations(event.header.trace) > MAX_INVOCATIONS
