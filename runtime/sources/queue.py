"""A mapped queue: batches of its messages, each the event of one call; what succeeds is deleted, the rest is visible
again after the visibility timeout."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

from broker.names import Resource
from broker.records import MappingSettings
from broker.store.permits import PERMIT_NOTICE
from broker.store.values import Claim
from runtime.batch_calls import BatchCalls
from runtime.batch_claims import FULL_BYTES, BatchClaims
from runtime.batch_ends import BatchEnds
from runtime.batch_permits import BatchPermits
from runtime.batch_starts import BatchStarts
from runtime.batches import Batch, Held, in_batches, not_behind
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.invoker import Call
from runtime.mapping_rules import MappingRules
from runtime.room import HELD_S
from runtime.tally import BatchTally
from runtime.waiter import Waiter

_CLAIM_AT_MOST: Final = 10_000
_LOCAL_BATCHES: Final = 16
_LOCAL_MESSAGES: Final = 1_000


class QueueSource:
    """Takes the messages of one mapping for this process."""

    def __init__(
        self,
        engine: Engine,
        function: HandlerFunction,
        mapping: MappingSettings,
        waiter: Waiter,
        *,
        partition: int = 0,
        tally: BatchTally | None = None,
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._waiter: Final = waiter
        self._whole: Final[Resource] = engine.core.resource("queue", mapping.queue)
        self.resource: Final[Resource] = self._whole.part(partition)
        self._function_resource: Final = engine.core.resource("function", function.resource_name)
        leave = partial(engine.room.leave_line, self)
        self._permits: Final = BatchPermits(
            engine, function, self._whole, wait=self._waits_for_permit, is_behind=leave, wake=waiter.wake
        )
        self.tally: Final = tally or BatchTally(function.shown_name, mapping.queue, engine.figures)
        """One for all partitions."""
        tracer = engine.tracer(function)
        self._claims: Final = BatchClaims(engine, function, self.resource, self.tally, tracer)
        self._ends: Final = BatchEnds(function, mapping, self._claims, engine.settler(self.resource), self.tally)
        self._calls: Final = BatchCalls(engine, function, self.resource, self._ends, self.tally, tracer)
        self._rules: Final = MappingRules(engine, function, self._whole, self._claims, self._ends)
        self._starts: Final = BatchStarts(
            engine,
            start=self._start,
            has_room=lambda: not self.wants_room(),
            still_ours=self._still_ours,
            may_go=self._rules.may_go,
            release=self._claims.release,
            give_permits_back=self._permits.give_back,
        )
        self._running = 0
        self._filled = 0
        self._stopping = self._has_waited = self._in_vain = False

    def changed(self, notice: bytes | None) -> None:
        """A wake-up; settings are read again when it says so, or when something may have been missed."""
        if notice is None or notice:
            self._rules.stale = True
        self._waiter.wake()

    def whole_changed(self, notice: bytes | None) -> None:
        """A wake-up of the first partition, where this is another: its settings, or a permit given back, which a settle
        there may tell of on that channel alone."""
        if notice is None or notice or self._permits.wish.concerns():
            self.changed(notice)

    @property
    def mapping(self) -> MappingSettings:
        """Its settings, as they were read last."""
        return self._ends.mapping

    def permit_given_back(self, notice: bytes | None) -> None:
        """A wake-up of another kind: without need for a permit, claiming again would only keep others from theirs."""
        if notice == PERMIT_NOTICE:
            notice = b""
        if notice is None or notice or self._permits.wish.concerns():
            self.changed(notice)

    @property
    def target(self) -> str:
        """What it feeds, as :attr:`broker.records.MappingSettings.target` says it."""
        return self._function.resource_name

    @property
    def permit_channels(self) -> tuple[str, ...]:
        """The channels that tell of the function's settings and of permits given back."""
        return self._permits.channels

    async def freshen(self) -> None:
        """Takes over newer settings where there may be some. What was claimed under others is handed back."""
        if await self._rules.freshen():
            self._starts.hand_back()

    # -- claiming -----------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many batches may start now in this process; of these only some where the next claim goes ahead. What was
        claimed before starts first, where somebody else's calls have made room."""
        self._starts.start_what_waited()
        free = self._free()
        # A batch of a FIFO queue is what one claim brings: so no group is ever in two batches.
        if free > 0 and (self._windowed or self.resource.fifo):
            return 1
        if not self._claims_ahead:
            return free
        return min(free, max(1, min(self._local // 2, _LOCAL_MESSAGES // self._ends.mapping.batch_size)))

    @property
    def _local(self) -> int:
        """How many batches of it this process runs at most."""
        mapping = self._ends.mapping
        return mapping.max_concurrency or max(_LOCAL_BATCHES, _LOCAL_MESSAGES // mapping.batch_size)

    def _free(self) -> int:
        """How many more than have been claimed."""
        free = min(self._local - self._running, self._engine.room.free_for(self, self._function))
        return free - len(self._starts)

    @property
    def _claims_ahead(self) -> bool:
        """Whether Redis is asked for more while what it gave last starts; with a limit one claim takes all there is."""
        limited = self._ends.mapping.max_concurrency or self._function.settings.concurrency is not None
        return not (limited or self._windowed or self.resource.fifo or self._engine.alone)

    def wants_room(self) -> bool:
        """Whether it waits for the end of any call in this process, not only of its own."""
        return self._engine.room.free_for(self, self._function) < 1

    @property
    def waits_for_room(self) -> bool:
        """Whether it has claimed what cannot start before any call ends: others were quicker."""
        return len(self._starts) > 0 and self.wants_room()

    @property
    def starts_soon(self) -> bool:
        """Whether what it has claimed is about to start: what is left to it in line is for that."""
        return self._starts.soon

    @property
    def patience_s(self) -> float | None:
        """When to look at the latest what becomes of what it has claimed; None where all of it runs."""
        return HELD_S if len(self._starts) else None

    def wait_for_room(self) -> None:
        """Has itself woken when there is some."""
        self._engine.room.wait_for(self, self._function, self._waiter.wake, idle=not self._running)

    def should_gather(self, room: int) -> float | None:  # noqa: ARG002 - the window is what gathers here
        """Batches are claimed whole: nothing to wait for."""
        return None

    @property
    def _rests_or_stops(self) -> bool:
        return self._stopping or self._rules.resting

    @property
    def _windowed(self) -> bool:
        return self._ends.mapping.batch_window_s > 0 and not self._engine.alone

    async def take(self, room: int) -> float | None:
        """Claims for at most so many batches and starts them. Answers how long to wait, 0 for not at all, None for
        until woken."""
        if self._rules.resting:
            return None
        wanted = min(room, _CLAIM_AT_MOST)
        if self._function.settings.concurrency is not None:
            wanted = min(wanted, 2 * self._filled + 1)  # permits taken for nothing are refused to callers meanwhile
        permits = await self._take_permits(wanted)
        if not permits:  # a wake-up tells of one given back; at the latest those of a dead process have run out
            return 0 if self._rules.stale else self._engine.permit_wait_s(self._function)
        self._filled = 0
        try:
            return None if self._stopping else await self._fill(permits)
        finally:
            self._permits.give_back(permits)

    async def _waits_for_permit(self) -> bool:
        """Waits for a permit of the function; False when there is something else to see to first."""
        self._engine.room.leave_line(self)
        if not (self._stopping or self._rules.stale):
            await self._wait(self._engine.permit_wait_s(self._function))
        return not (self._stopping or self._rules.stale)

    async def _take_permits(self, wanted: int) -> list[str]:
        """The partitions of a queue wait in turn, so that one with much queued does not keep them from the others."""
        if self._engine.core.splits.count(self._whole) == 1 or self._engine.alone:
            return await self._permits.take(wanted, max_concurrency=self._ends.mapping.max_concurrency)
        self._engine.room.leave_line(self)  # there may be no permit for long
        async with self._engine.turn(self._function_resource, self._whole):
            while not self._rests_or_stops:
                permits = await self._permits.take(wanted, max_concurrency=self._ends.mapping.max_concurrency)
                if permits:
                    return permits
                if not self._rules.stale:
                    await self._waiter.wait(self._engine.permit_wait_s(self._function))
                await self.freshen()
        return []

    async def _fill(self, permits: list[str]) -> float | None:
        """Takes from the permits those that it uses."""
        self._has_waited = False
        size = 1 if self._engine.alone else self._ends.mapping.batch_size
        room = min(size * len(permits), _CLAIM_AT_MOST)
        claim, held = await self._claims.take(room)
        if self._wants_none_of(claim, held):
            claim, held = await self._claim_wanted(room, size, permits)
        if self._windowed and 0 < len(held) < size and not self._in_vain:
            await self._gather(held, size, permit=permits[0])
        if held:
            self._in_vain = False
        for some in in_batches(held, size):
            if permits:
                self._starts.add(Batch(some, permits.pop()))
                self._filled += 1
            else:
                self._claims.release(some)
        full = claim.filled(room, FULL_BYTES)
        if full and self._claims_ahead and self._free() > 0 and not self._stopping:
            self._starts.start_after_next_claim(self._waiter.wake)
        else:
            await self._starts.start_all()
        if self._has_waited or full or len(self._starts):  # or it has used up a wake-up that was for what follows
            return 0
        return claim.due_in_s

    def _still_ours(self, held: list[Held]) -> list[Held]:
        """After it has waited: what others have by now must not run here, nor in a FIFO queue what is behind it."""
        lost = {item.member for item in held} - self._engine.keeper.holding(self.resource)
        held, behind = not_behind(lost, held, fifo=self.resource.fifo)
        self._claims.release([item for item in behind if item.member not in lost])
        return held

    async def _wait(self, seconds: float | None) -> None:
        """While it has something in hand."""
        self._has_waited = True
        await self._waiter.wait(seconds)

    def _wants_none_of(self, claim: Claim, held: list[Held]) -> bool:
        """Whether a claim brought messages, and the filters dropped them all: there may be others behind."""
        if held or not claim.messages or self._rests_or_stops:
            return False
        return not self._engine.alone  # there, what was dropped is settled first

    async def _claim_wanted(self, room: int, size: int, permits: list[str]) -> tuple[Claim, list[Held]]:
        """Claims until the filters want something of it, or nothing is left. Meanwhile it has no permit of a function
        with a limit."""
        self._engine.room.leave_line(self)  # that may take long
        parked = self._function.settings.concurrency is not None
        if parked:
            self._permits.give_back(permits[1:])
            del permits[1:]
            await self._permits.park(permits[0])
        while True:
            await self.freshen()  # what is dropped by old filters is lost
            claim, held = await self._claims.take(size if parked else room)
            if not self._wants_none_of(claim, held):
                break
        if parked and held:
            await self._unpark(permits[0], held)
        return claim, held

    async def _unpark(self, permit: str, held: list[Held]) -> None:
        """Waits until there is room, and a permit of the function, for what is held; takes out what must not run by
        then. After a while without room, it is given back, for others."""
        overdue = False
        try:
            given_up = time.monotonic() + HELD_S
            while self.wants_room() and not (overdue or self._stopping or self._must_go(permit)):
                self.wait_for_room()
                await self._wait(HELD_S)
                await self.freshen()
                overdue = time.monotonic() >= given_up and self.wants_room() and self._rules.may_go(held)
            while not (overdue or self._stopping or self._must_go(permit) or await self._permits.resume(permit)):
                await self.freshen()
        except BaseException:
            self._claims.release(held)
            raise
        held[:] = self._still_ours(held)
        if overdue or self._must_go(permit):
            self._claims.release(held)
            held.clear()
        self._in_vain = self._in_vain or overdue

    def _must_go(self, permit: str) -> bool:
        """Whether what is held must not run by the rules of now."""
        return self._rules.resting or not self._permits.suffices(permit, max_concurrency=self.mapping.max_concurrency)

    async def _gather(self, held: list[Held], size: int, *, permit: str) -> None:
        """Adds to what is held until the batch is full, has 6 MB, or the window is over. Meanwhile, and until there is
        one again, it has no permit of the function: nothing runs."""
        try:
            await self._permits.park(permit)
            await self._gather_until_closed(held, size)
        except BaseException:
            self._claims.release(held)
            raise
        await self._unpark(permit, held)

    async def _gather_until_closed(self, held: list[Held], size: int) -> None:
        self._engine.room.leave_line(self)
        closes_at = time.monotonic() + self._ends.mapping.batch_window_s
        total = sum(len(item.letter.body) for item in held)
        while len(held) < size and total < FULL_BYTES and not self._rests_or_stops:
            left_s = closes_at - time.monotonic()
            if left_s <= 0:
                break
            await self.freshen()
            claim, more = await self._claims.take(size - len(held), max_bytes=FULL_BYTES - total)
            held += more
            total += sum(len(item.letter.body) for item in more)
            if not claim.messages:
                pause_s = claim.due_in_s
                await self._wait(left_s if pause_s is None else min(left_s, max(pause_s, 0.001)))

    def stop(self) -> None:
        """Nothing more starts; a window that is open ends, and what it gathered is given back."""
        self._stopping = True
        self._starts.stop()
        self._waiter.wake()

    @property
    def stopped(self) -> bool:
        """Whether it claims nothing any more, for good."""
        return self._stopping

    def forget(self, members: AbstractSet[str]) -> int:  # noqa: ARG002 - the keeper holds what is left
        """Their leases are somebody else's now: what has not started must not. Answers how many that are."""
        return self._starts.forget()

    # -- running ------------------------------------------------------------------------------------------------------

    def _start(self, batch: Batch) -> None:
        call = self._calls.of(batch, self._on_outcome, self._on_free)
        if call is None:
            self._permits.give_back([batch.permit])
            return
        self._running += 1
        self._engine.invoker.start(call)
        self._engine.room.leave_line(self)

    def _on_outcome(self, call: Call) -> None:
        if call.outcome is not None:
            self._ends.settle(call.work, call.outcome, started=call.started)

    def _on_free(self, call: Call) -> None:
        self._running -= 1
        self._permits.give_back([call.work.permit])
        self._waiter.wake()
