"""Runs a move task: claims from the source in batches, ends them there, and lets the outbox carry them to their target.

Killed at any point it loses and doubles nothing. What it holds is leased under the task's own token, which the next
one to run the task gives back first; what it has ended stands in the source's outbox, which any relay delivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio
import msgspec

from broker.core import Core
from broker.errors import InvalidName, StoreError
from broker.ids import random_token
from broker.log import log
from broker.message import Message
from broker.moves import Details, end_move, lease_token
from broker.names import Function, Queue, Resource
from broker.store.moves import Lead, MoveState, MoveStatus
from broker.store.values import Claim, Deferral, Onward, member_of

Deliver: TypeAlias = Callable[[Resource], Awaitable[int]]
"""Sends on what the outbox of a resource holds."""

LEAD_MS: Final = 10_000
_LEASE_MS: Final = 30_000
_EXTEND_S: Final = 10.0
_BATCH: Final = 500
_BATCH_FIFO: Final = 200  # with the bytes below: what one relay takes from an outbox at once, so that order is kept
_BATCH_BYTES: Final = 2 * 1024 * 1024
_MOST_ASIDE: Final = 1_000
_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_GIVE_UP_S: Final = 2.0
NO_SOURCE: Final = "CouldNotDetermineMessageSource"
NO_QUEUE: Final = "AWS.SimpleQueueService.NonExistentQueue"
"""Reasons of a failed task, as SQS names them."""


class Pace:
    """How many may go now. What was not used at its time is lost, so that nothing is made up for later."""

    def __init__(self, max_per_s: int | None, *, now_ms: int) -> None:
        self._max_per_s: Final = max_per_s
        self._at_ms = now_ms
        self._credit = 0.0

    def room(self, now_ms: int) -> int | None:
        """How many may go now: a fifth of a second's share, so that they go in batches; None without limit."""
        if self._max_per_s is None:
            return None
        earned = self._max_per_s * max(0, now_ms - self._at_ms) / 1000
        batch = max(1.0, self._max_per_s / 5)
        self._credit = min(batch, self._credit + earned)
        self._at_ms = max(self._at_ms, now_ms)
        return int(self._credit) if self._credit >= batch else 0

    def spend(self, count: int) -> None:
        """So many went."""
        self._credit -= count


class Mover:
    """Runs the move task of one queue, if nobody else does."""

    def __init__(self, core: Core, deliver: Deliver, source: Resource) -> None:
        self._core: Final = core
        self._deliver: Final = deliver
        self._source: Final = source
        self._owner: Final = random_token()
        self._hurry: Final = asyncio.Event()

    def hurry(self) -> None:
        """Something has changed: it looks at once."""
        self._hurry.set()

    async def run(self) -> Lead:
        """Returns when the task has ended (``none``) or somebody else runs it (``other``). Raises StoreError."""
        lead = await self._core.moves.lead(self._source, self._owner, lease_ms=LEAD_MS)
        try:
            while lead.state is not None:
                lead = await _Run(self._core, self._deliver, self._source, self._owner, self._hurry).run(lead)
        except BaseException:  # it is stopped, or failed, in the middle: others may go on at once
            await self._leave()
            raise
        return lead

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_GIVE_UP_S), contextlib.suppress(StoreError):
            await self._core.moves.lead(self._source, self._owner, lease_ms=0)


class _Run:
    """One task, for as long as this process leads it."""

    def __init__(self, core: Core, deliver: Deliver, source: Resource, owner: str, hurry: asyncio.Event) -> None:
        self._core: Final = core
        self._deliver: Final = deliver
        self._source: Final = source
        self._owner: Final = owner
        self._hurry: Final = hurry
        self._batch: Final = _BATCH_FIFO if source.fifo else _BATCH
        self._known: dict[Resource, bool] = {}
        self._parts: list[Resource] = [source]
        """The partitions that may hold something still, the next one first."""
        self._aside: Final[dict[Resource, dict[str, str]]] = {}
        self._extended_at = time.monotonic()
        self._reason = ""
        self._idle = 0

    async def run(self, lead: Lead) -> Lead:
        """Answers how it stands in the end: ``none`` or ``other``."""
        state = self._state = _leading(lead)
        details = msgspec.json.decode(state.details, type=Details)
        self._destination = Resource.from_arn(details.destination) if details.destination else None
        self._newest_ms = max(state.newest_ms, details.newest_elsewhere_ms)
        pace = Pace(details.max_per_s, now_ms=lead.now_ms)
        self._parts = await self._core.partitions.parts(self._source)
        self._all_parts = tuple(self._parts)
        for part in self._all_parts:
            await self._core.messages.release_claim(part, lease_token(state))  # what the one before held
        while True:
            self._known.clear()
            end = await self._end()
            if end is not None:
                return await self._ended(*end)
            claim = await self._claim(pace.room(lead.now_ms))
            if claim is None:
                await self._pause()
            # After the claim, before anything is ended: who does not lead now must not count, nor move, any more.
            lead = await self._core.moves.lead(self._source, self._owner, lease_ms=LEAD_MS)
            if lead.state is None or lead.state.id != state.id:
                await self._give_back(claim)
                return lead
            self._state = lead.state
            if claim is not None and self._state.status == "RUNNING":
                pace.spend(await self._move(claim))
            await self._keep_aside()

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _end(self) -> tuple[MoveStatus, str] | None:
        """How the task ends, if it does now."""
        if self._state.status == "CANCELLING":
            return "CANCELLED", ""
        if self._destination is not None and not await self._exists(self._destination):
            return "FAILED", NO_QUEUE
        if not self._parts and not await self._under_way():
            return ("FAILED", self._reason) if self._reason else ("COMPLETED", "")
        return None

    async def _ended(self, status: MoveStatus, reason: str) -> Lead:
        moved = await end_move(self._core, self._source, self._owner, self._state, status=status, reason=reason)
        if moved is not None and reason:
            log.warning("move_failed", queue=self._source.name, moved=moved, reason=reason)
        elif moved is not None:
            log.info("move_ended", queue=self._source.name, moved=moved, status=status)
        return await self._core.moves.lead(self._source, self._owner, lease_ms=LEAD_MS)  # the next may have begun

    async def _under_way(self) -> bool:
        """Whether something that this task sent on has not arrived yet."""
        suffix = _suffix(self._state)
        for part in self._all_parts:
            if await self._core.moves.under_way(part, suffix):
                await self._deliver(part)
                if await self._core.moves.under_way(part, suffix):
                    return True
        return False

    # -- a batch ------------------------------------------------------------------------------------------------------

    async def _claim(self, room: int | None) -> Claim | None:
        """The next messages; None where it is not time for them yet."""
        wanted = self._batch if room is None else min(self._batch, room)
        if not self._parts or wanted < 1:
            return None
        of_one_group = await self._most_of_one_group() if self._source.fifo else None
        if of_one_group == 0:
            return None
        self._idle = 0
        return await self._core.messages.claim(
            self._parts[0],
            token=lease_token(self._state),
            lease_ms=_LEASE_MS,
            room=wanted,
            mode="receive",
            max_bytes=_BATCH_BYTES,
            of_one_group=of_one_group,
        )

    async def _most_of_one_group(self) -> int:
        """How many of a group may be on their way together: none while earlier ones are, as relays know no order.

        What stands alone in an outbox is taken by one relay, and stored by one script, whole.
        """
        if not await self._core.outbox.entries(self._source, 1):
            return self._batch
        return 0 if await self._under_way() else 1

    async def _move(self, claim: Claim) -> int:
        """Sends on what can go; answers how many went."""
        part = self._parts.pop(0)
        if claim.status == "ok" and (claim.messages or claim.next_due_ms is not None):
            self._parts.append(part)
        aside = self._aside.setdefault(part, {})
        messages = [Message(self._core, part, claimed, claim=claim) for claimed in claim.messages]
        members: list[str] = []
        onward: list[Onward] = []
        for message in messages:
            target = await self._target_of(message)
            if target is None:
                aside[message.entry] = message.member
            else:
                record = msgspec.msgpack.encode(message.redriven(target))
                onward.append(Onward(len(members), _suffix(self._state), record))
                members.append(message.member)
        if len(aside) >= _MOST_ASIDE and part in self._parts:
            self._parts.remove(part)
        if not members:
            return 0
        done = await self._core.messages.finish(part, members, counter="moved", onward=onward)
        await self._deliver(part)
        return done.settled

    async def _target_of(self, message: Message) -> Queue | Function | None:
        """Where a message goes; None for one that stays."""
        # Late ones would be moved round and round where what is moved fails again at once.
        if int(message.entry.partition("-")[0]) > self._newest_ms:
            return None
        target = self._destination
        if target is None:
            target = self._source_of(message)
            if target is None:
                self._reason = NO_SOURCE
                return None
            if not await self._exists(target):
                self._reason = self._reason or NO_QUEUE
                return None
        return Function(target.name) if target.kind == "function" else Queue(target.name)

    def _source_of(self, message: Message) -> Resource | None:
        try:
            found = Resource.from_arn(message.source or "")
        except InvalidName:
            return None
        if found.kind == "stream" or (found.account, found.region) != (self._source.account, self._source.region):
            return None
        return found

    async def _exists(self, resource: Resource) -> bool:
        if resource not in self._known:
            self._known[resource] = await self._core.directory.describe(resource) is not None
        return self._known[resource]

    # -- between batches ----------------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        pause_s = _PAUSES_S[min(self._idle, len(_PAUSES_S) - 1)]
        self._idle += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._hurry.wait()
        self._hurry.clear()

    async def _keep_aside(self) -> None:
        """What stays is leased until the end, so that it does not stand before what can go."""
        if self._aside and time.monotonic() - self._extended_at >= _EXTEND_S:
            self._extended_at = time.monotonic()
            for part, aside in self._aside.items():
                members = list(aside.values())
                for start in range(0, len(members), _MOST_ASIDE):
                    some = members[start : start + _MOST_ASIDE]
                    await self._core.messages.extend(part, some, lease_ms=_LEASE_MS)

    async def _give_back(self, claim: Claim | None) -> None:
        """What was claimed after somebody else had taken the task over."""
        if claim is not None and claim.messages:
            held = [Deferral(member_of(claimed.entry, claim.token), 0) for claimed in claim.messages]
            await self._core.messages.defer(self._parts[0], held, counter="released")


def _leading(lead: Lead) -> MoveState:
    if lead.state is None:
        raise ValueError(lead.status)
    return lead.state


def _suffix(state: MoveState) -> str:
    """What the names of a task's messages in the outbox end with."""
    return f"r{state.id[:12]}"
