"""Claims of a mapped queue: what they bring, without what must not run and what the mapping's filters do not want."""

from __future__ import annotations

import time
from typing import Final

from broker import limits
from broker.log import log
from broker.names import Resource
from broker.queue_settings import queue_settings
from broker.store.values import Claim, Deferral, member_of
from runtime.batches import Held
from runtime.engine import Engine
from runtime.filtering import MessageFilter
from runtime.handlers import HandlerFunction
from runtime.recursion import LoopStop
from runtime.shaping import open_letter
from runtime.tally import BatchTally
from runtime.tracing import Tracer

FULL_BYTES: Final = limits.MAX_BATCH_PAYLOAD_BYTES - limits.MAX_MESSAGE_BYTES
"""From here on one more message might be more than a batch may carry: it is sent as it is."""


class BatchClaims:
    """Claims messages of one mapping, for batches."""

    def __init__(
        self, engine: Engine, function: HandlerFunction, queue: Resource, tally: BatchTally, tracer: Tracer
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._queue: Final = queue
        self._settler: Final = engine.settler(queue)
        self._tally: Final = tally
        self._loops: Final = LoopStop(engine, function, queue, tracer)
        self.filter: Final = MessageFilter(engine, function.name, queue)

    async def take(self, room: int, *, max_bytes: int = FULL_BYTES) -> tuple[Claim, list[Held]]:
        """One claim for at most so many messages and bytes, and what of it is for the handler. Errors: the StoreError
        family; whatever was claimed is given back then."""
        token = self._engine.lease_token()
        core = self._engine.core
        try:
            claim = await core.messages.claim(
                self._queue,
                token=token,
                lease_ms=core.settings.lease_ms,
                room=room,
                mode="alone" if self._engine.alone else "work",
                max_bytes=max_bytes,
                wake=True,
                max_crashes=self._function.settings.max_crashes,
            )
        except BaseException:
            self._engine.give_back(self._queue, token)
            raise
        self._engine.seen_suspects(self._queue, claim.suspects)
        if claim.outbox:
            self._engine.relays.kick(self._queue)
        now = time.monotonic()
        held = [
            Held(
                open_letter(claimed, claim.nonce),
                member_of(claimed.entry, token),
                claim.now_ms,
                now,
                claim.fence,
                claim.nonce,
            )
            for claimed in claim.messages
        ]
        self._engine.keeper.hold(self._queue, [item.member for item in held])
        try:
            if self._engine.alone:
                await self._engine.settled_alone()
                ours = self._engine.keeper.holding(self._queue)  # that may have taken long
                held = [item for item in held if item.member in ours]
            held = await self._without_quarantined(held)
            if self.filter.patterns:
                held = await self._without_unwanted(held)
            return claim, await self._loops.without_looping(held)
        except BaseException:
            self.release(held)
            raise

    def release(self, held: list[Held]) -> None:
        """Gives messages back at once; no failure is counted."""
        for item in held:
            self._settler.defer(Deferral(item.member, 0), counter="released")

    async def _without_unwanted(self, held: list[Held]) -> list[Held]:
        """Deletes what the filters do not want: no call is made for it, and a batch is filled with others."""
        wanted, unwanted = await self.filter.sort(held)
        for item in unwanted:
            self._settler.finish(item.member, counter="filtered")
        if unwanted:
            self._tally.filtered(len(unwanted))
        return wanted

    async def _without_quarantined(self, held: list[Held]) -> list[Held]:
        """Takes out what has ended too many workers: to the dead-letter queue, or kept aside where there is none."""
        most = self._function.settings.max_crashes
        poison = [item for item in held if item.letter.facts.crashes > most]
        for item in poison:
            await self._quarantine(item)
        return [item for item in held if item.letter.facts.crashes <= most] if poison else held

    async def _quarantine(self, item: Held) -> None:
        cause = await self._engine.end_of(item.letter.facts.culprit) or "the worker ended without a word"
        settings = await queue_settings(self._engine.core, self._queue)
        target = settings.dead_letter or quarantine_of(self._queue)
        log.error(
            "message_quarantined",
            queue=self._queue.name,
            message_id=item.letter.id,
            crashes=item.letter.facts.crashes,
            cause=cause,
            moved_to=target,
        )
        record = await self._engine.quarantine_record(self._queue, item.letter, target, cause)
        self._settler.finish(item.member, counter="failed", onward=(("q", record),))


def quarantine_of(queue: Resource) -> str:
    """The name of the queue that takes what has ended too many workers, where there is no dead-letter queue."""
    suffix = "-quarantine.fifo" if queue.fifo else "-quarantine"
    return queue.name.removesuffix(".fifo")[: 80 - len(suffix)] + suffix
