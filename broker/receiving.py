"""Receiving from queues under a visibility timeout: at once, or waiting for what is sent, due, or given back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import msgspec

from broker.core import Core
from broker.errors import QueueNotFound, StoreError, StoreUnavailable, TooManyInFlight
from broker.ids import TokenSource
from broker.message import Message
from broker.names import Resource
from broker.routing import Relay
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
            messages, claim = await self.take(queue, wanted, wake=False)
            if messages or claim.next_due_ms is None or claim.status != "ok":  # else: more behind what has just expired
                break
        wait_s = claim.wait_ms / 1000 if wanted.wait_s is None else wanted.wait_s
        if claim.status == "over" and not wait_s and not queue.fifo:
            raise TooManyInFlight(queue.name)
        if messages or not wait_s:
            return messages
        return await self._wait_and_take(queue, wanted, wait_s)

    async def _wait_and_take(self, queue: Resource, wanted: Receive, wait_s: float) -> list[Message]:
        woken = asyncio.Event()
        channel = self._core.keys.of(queue).wake

        def wake(_: bytes | None) -> None:
            woken.set()

        deadline, failures = time.monotonic() + wait_s, 0
        try:
            await self._core.channels.listen({channel: wake})
            while True:
                woken.clear()
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    messages, claim = await self.take(queue, wanted, wake=True)
                except StoreUnavailable:  # a connection cut while waiting; an outage is the caller's to hear of
                    if failures == _WAIT_RETRIES or not left_s:
                        raise
                    failures += 1
                    await asyncio.sleep(min(left_s, _WAIT_RETRY_PAUSE_S * failures))
                    continue
                failures = 0
                if messages or not left_s:
                    return messages
                pause_s = min(left_s, _LOOK_AGAIN_S)
                if claim.next_due_ms is not None:
                    pause_s = min(pause_s, max(0.001, (claim.next_due_ms - claim.now_ms) / 1000))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await woken.wait()
        finally:
            # In the background: a cancellation here would lose what has just been leased.
            self._core.in_background(self._core.channels.unlisten(channel, wake), name="unlisten")

    async def take(self, queue: Resource, wanted: Receive, *, wake: bool) -> tuple[list[Message], Claim]:
        """What there is now, and the claim it came with."""
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
        if claim.status == "unknown":
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
