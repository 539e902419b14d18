"""Receiving from queues under a visibility timeout: at once, or waiting for what is sent, due, or given back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from broker.core import Core
from broker.errors import QueueNotFound, StoreError, StoreUnavailable, TooManyInFlight
from broker.ids import TokenSource
from broker.message import Message
from broker.names import Resource
from broker.routing import Relay
from broker.store.channels import Listener
from broker.store.values import Claim

_LOOK_AGAIN_S: Final = 5.0  # wake-ups are hints: one that is lost costs this much time
_WAIT_RETRIES: Final = 5
_WAIT_RETRY_PAUSE_S: Final = 0.1
_GIVE_BACK_PAUSES_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


class Receive(msgspec.Struct, frozen=True, kw_only=True):
    """What one receive asks for. Times that are None are the queue's own."""

    count: int
    wait_s: float | None = None
    visibility_s: float | None = None
    attempt: str | None = None
    """FIFO: the same attempt within five minutes gives the same messages, unless one of them was changed."""
    max_in_flight: int | None = None
    """With more in flight a receive that does not wait raises TooManyInFlight; one that waits brings nothing."""

    @property
    def lease_ms(self) -> int | None:
        """For how long messages are hidden; None for the queue's own time."""
        return None if self.visibility_s is None else round(self.visibility_s * 1000)


class Receiver:
    """Receives from any queue. Errors: QueueNotFound, the StoreError family."""

    def __init__(self, core: Core, relay: Relay) -> None:
        self._core: Final = core
        self._relay: Final = relay
        self._tokens: Final = TokenSource()

    async def receive(self, queue: Resource, wanted: Receive) -> list[Message]:
        """Up to ``count`` messages, waiting until there is one; an empty list when the wait is over."""
        while True:
            messages, claims = await self._sweep(self._core.splits.parts(queue), wanted, wake=False)
            claim = _together(claims)
            if messages or claim.next_due_ms is None or claim.status != "ok":  # else: more behind what has just expired
                break
        wait_s = claim.wait_ms / 1000 if wanted.wait_s is None else wanted.wait_s
        if claim.status == "over" and not wait_s and not queue.fifo:
            raise TooManyInFlight(queue.name)
        if messages or not wait_s:
            return messages
        return await self._wait_and_take(queue, wanted, wait_s)

    async def _wait_and_take(self, queue: Resource, wanted: Receive, wait_s: float) -> list[Message]:
        listening = _Listening(self._core, queue)
        deadline, failures = time.monotonic() + wait_s, 0
        try:
            while True:
                left_s = max(0.0, deadline - time.monotonic())
                parts = await listening.to_look_at(everywhere=not left_s)
                try:
                    messages, claims = await self._sweep(parts, wanted, wake=True)
                except StoreUnavailable:  # a connection cut while waiting; an outage is the caller's to hear of
                    if failures == _WAIT_RETRIES or not left_s:
                        raise
                    failures += 1
                    listening.missed()
                    await asyncio.sleep(min(left_s, _WAIT_RETRY_PAUSE_S * failures))
                    continue
                failures = 0
                if messages or not left_s:
                    return messages
                await listening.wait(claims, left_s)
        finally:
            listening.end()

    async def _sweep(
        self, parts: Sequence[Resource], wanted: Receive, *, wake: bool
    ) -> tuple[list[Message], dict[Resource, Claim]]:
        """What there is now in these partitions, until it is enough; begins with any of them. Where the queue proves
        to be split, in the others, too."""
        messages: list[Message] = []
        claims: dict[Resource, Claim] = {}
        start = random.randrange(len(parts)) if len(parts) > 1 else 0
        left = [*parts[start:], *parts[:start]]
        try:
            while left and len(messages) < wanted.count:
                part = left.pop(0)
                split = self._core.splits.count(part.whole) > 1
                found, claims[part] = await self.take(part, self._share(part, wanted, len(messages)), wake=wake)
                messages += found
                if not split:
                    left = self._core.splits.parts(part.whole)[1:]
        except (StoreError, asyncio.CancelledError) as error:
            if not messages:
                raise
            if isinstance(error, asyncio.CancelledError):
                for part, claim in claims.items():
                    if claim.messages:
                        self._core.in_background(self._give_back(part, claim.token), name="release_claim")
                raise
        return messages, claims

    def _share(self, part: Resource, wanted: Receive, have: int) -> Receive:
        """What one partition is asked for."""
        count = self._core.splits.count(part.whole) if self._core.splits.known else 1
        if count == 1:
            return wanted
        in_flight = None if wanted.max_in_flight is None else -(-wanted.max_in_flight // count)
        return msgspec.structs.replace(wanted, count=wanted.count - have, max_in_flight=in_flight)

    async def take(self, queue: Resource, wanted: Receive, *, wake: bool) -> tuple[list[Message], Claim]:
        """What there is now in one partition, and the claim it came with."""
        token = f"r{self._tokens.next()}"
        try:
            claim = await self._core.messages.claim(
                queue,
                token=token,
                lease_ms=wanted.lease_ms,
                room=wanted.count,
                mode="receive",
                wake=wake,
                max_in_flight=wanted.max_in_flight,
                attempt=wanted.attempt,
            )
        except (StoreError, asyncio.CancelledError):
            # Whether it leased anything is unknown: give it back when Redis is there again. What an attempt leased is
            # kept for whoever asks under its id, until its time is over.
            if wanted.attempt is None:
                self._core.in_background(self._give_back(queue, token), name="release_claim")
            raise
        if claim.status == "unknown" and not queue.partition:  # else: it has yet to be made
            self._core.splits.heard(queue, None)
            raise QueueNotFound(queue.name)
        if claim.outbox:
            self._core.in_background(self._relay.deliver(queue), name="relay")
        return [Message(self._core, queue, claimed, claim=claim) for claimed in claim.messages], claim

    async def _give_back(self, queue: Resource, token: str) -> None:
        for pause_s in _GIVE_BACK_PAUSES_S:
            try:
                await self._core.messages.release_claim(queue, token)
            except StoreUnavailable:
                await asyncio.sleep(pause_s)
            else:
                return
        await self._core.messages.release_claim(queue, token)


class _Listening:
    """Where and when one long poll looks next: at what was woken, what is due, and now and then everywhere."""

    def __init__(self, core: Core, queue: Resource) -> None:
        self._core: Final = core
        self._queue: Final = queue
        self._listeners: Final[dict[Resource, Listener]] = {}
        self._due: Final[dict[Resource, float]] = {}
        self._told: Final[set[Resource]] = set()
        self._woken: Final = asyncio.Event()

    async def to_look_at(self, *, everywhere: bool) -> list[Resource]:
        """The partitions to look at now. Listens to those that are new."""
        parts = self._core.splits.parts(self._queue)
        new = [part for part in parts if part not in self._listeners]
        if new:
            channels: dict[str, Listener] = {}
            for part in new:
                self._listeners[part] = channels[self._core.keys.of(part).wake] = partial(self._wake, part)
            await self._core.channels.listen(channels)
        now = time.monotonic()
        self._woken.clear()
        self._told.clear()
        return [part for part in parts if everywhere or self._due.get(part, 0.0) <= now]

    def _wake(self, part: Resource, notice: bytes | None) -> None:
        # Else something may have been missed, or there are more partitions.
        self._look_at([part] if notice == b"" else self._listeners)
        self._woken.set()

    def missed(self) -> None:
        """Everything is to be looked at."""
        self._look_at(self._listeners)

    def _look_at(self, parts: Iterable[Resource]) -> None:
        for part in parts:
            self._told.add(part)
            self._due.pop(part, None)

    async def wait(self, claims: Mapping[Resource, Claim], left_s: float) -> None:
        """Until something is woken or due, at most so long. ``claims`` are those of the last look."""
        if claims.keys() - self._listeners.keys():
            return  # there are more partitions than before
        now = time.monotonic()
        for part, claim in claims.items():
            pause_s = _LOOK_AGAIN_S
            if claim.due_in_s is not None:
                pause_s = min(pause_s, max(0.001, claim.due_in_s))
            if part not in self._told:
                self._due[part] = now + pause_s
        pause_s = min(left_s, min(self._due.values(), default=0.0) - now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause_s)):
                await self._woken.wait()

    def end(self) -> None:
        """Listens no more; in the background, as a cancellation here would lose what has just been leased."""
        for part, listener in self._listeners.items():
            channel = self._core.keys.of(part).wake
            self._core.in_background(self._core.channels.unlisten(channel, listener), name="unlisten")


def _together(claims: Mapping[Resource, Claim]) -> Claim:
    """What the claims of several partitions say as one."""
    if len(claims) == 1:
        return next(iter(claims.values()))
    known = [claim for claim in claims.values() if claim.status != "unknown"]
    usable = [claim for claim in known if claim.status != "over"]
    dues = [claim.next_due_ms for claim in usable if claim.next_due_ms is not None]
    return msgspec.structs.replace((usable or known)[0], next_due_ms=min(dues, default=None))
