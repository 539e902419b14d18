"""Queues: create, send, receive under a visibility timeout, settle, look, count, purge, redrive, delete."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from broker import limits
from broker.core import Core
from broker.errors import (
    FunctionNotFound,
    InvalidOption,
    QueueExists,
    QueueNotFound,
    ResourceBusy,
    StoreError,
    StoreUnavailable,
)
from broker.ids import TokenSource
from broker.message import Message
from broker.names import Function, Kind, Queue, Resource, check_name
from broker.outgoing import queue_message
from broker.records import FIRST_FACTS, AttributeValue, Facts, QueueSettings, check_range, check_whole
from broker.routing import Relay
from broker.sending import Sender
from broker.store.messages import Claim, Claimed, Counts, Deferral, Onward, Peeked

_REDRIVE_BATCH: Final = 100
_REDRIVE_LEASE_MS: Final = 60_000
_KINDS: Final[dict[type[Queue | Function], Kind]] = {Queue: "queue", Function: "function"}
_LOOK_AGAIN_S: Final = 5.0  # wake-ups are hints: one that is lost costs this much time
_WAIT_RETRIES: Final = 5
_WAIT_RETRY_PAUSE_S: Final = 0.1
_GIVE_BACK_PAUSES_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


class QueueClient:
    """One queue, as an opened :class:`broker.Broker` gives it. Errors: QueueNotFound, InvalidInput, StoreError."""

    def __init__(self, core: Core, sender: Sender, relay: Relay, name: str) -> None:
        self.name: Final = check_name("queue", name)
        self.core: Final = core
        self.resource: Final[Resource] = core.resource("queue", name)
        self._sender: Final = sender
        self._relay: Final = relay
        self._tokens: Final = TokenSource()

    # -- settings -----------------------------------------------------------------------------------------------------

    async def create(
        self,
        *,
        visibility_timeout: float = limits.DEFAULT_VISIBILITY_TIMEOUT_S,
        delay: float = 0,
        retention: float = limits.DEFAULT_RETENTION_S,
        max_message_bytes: int = limits.MAX_MESSAGE_BYTES,
        receive_wait: float = 0,
        dead_letter: Queue | None = None,
        max_receives: int | None = None,
    ) -> None:
        """Creates the queue, and the dead-letter queue with defaults where missing. Seconds; SQS's defaults and bounds.

        A second time with the same settings changes nothing; with others it raises QueueExists. A queue that exists
        only because something named it takes the settings given here.
        """
        settings = _settings(
            visibility_timeout, delay, retention, max_message_bytes, receive_wait, dead_letter, max_receives
        )
        described = await self.core.directory.describe(self.resource)
        if described is not None and not described.implied:
            self._check_same(described.settings, settings)  # before anything is created because of it
        await self._create_dead_letter(settings)
        encoded = msgspec.json.encode(settings)
        done = await self.core.directory.configure(self.resource, encoded, queue_fields(settings), mode="create")
        if done.status == "kept" and done.before is not None:
            self._check_same(done.before, settings)

    def _check_same(self, stored: bytes, settings: QueueSettings) -> None:
        before = msgspec.json.decode(stored, type=QueueSettings)
        for field in QueueSettings.__struct_fields__:
            if getattr(before, field) != getattr(settings, field):
                raise QueueExists(self.name, field.removesuffix("_s"))

    async def configure(
        self,
        *,
        visibility_timeout: float | None = None,
        delay: float | None = None,
        retention: float | None = None,
        max_message_bytes: int | None = None,
        receive_wait: float | None = None,
        dead_letter: Queue | None = None,
        max_receives: int | None = None,
        remove_dead_letter: bool = False,
    ) -> None:
        """Changes the settings given and leaves the others; ``remove_dead_letter`` ends the moving of messages that
        were received too often. Raises QueueNotFound."""
        now = await self.settings()
        changes: dict[str, object] = {
            "visibility_timeout_s": visibility_timeout,
            "delay_s": delay,
            "retention_s": retention,
            "max_message_bytes": max_message_bytes,
            "receive_wait_s": receive_wait,
            "dead_letter": dead_letter.name if dead_letter else None,
            "max_receives": max_receives,
        }
        settings = msgspec.structs.replace(now, **{name: value for name, value in changes.items() if value is not None})
        if remove_dead_letter:
            settings = msgspec.structs.replace(settings, dead_letter=None, max_receives=None)
        await self._create_dead_letter(settings)
        encoded = msgspec.json.encode(settings)
        await self.core.directory.configure(self.resource, encoded, queue_fields(settings), mode="replace")

    async def settings(self) -> QueueSettings:
        """The settings in force. Raises QueueNotFound."""
        described = await self.core.directory.describe(self.resource)
        if described is None:
            raise QueueNotFound(self.name)
        return msgspec.json.decode(described.settings, type=QueueSettings)

    async def _create_dead_letter(self, settings: QueueSettings) -> None:
        if settings.dead_letter == self.name:
            raise InvalidOption("dead_letter", self.name, "a queue cannot be its own dead-letter queue")
        if settings.dead_letter:
            await ensure_queue(self.core, settings.dead_letter)

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send(
        self,
        body: object,
        *,
        delay: float | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        id: str | None = None,  # noqa: A002 - the word users know
    ) -> str:
        """Stores a message and answers its id: text as it is, anything else as JSON; ``delay`` in seconds.

        With an own ``id``, a repetition within five minutes is accepted once. Raises QueueNotFound, InvalidInput.
        """
        message = queue_message(self.name, body, delay_s=delay, attributes=attributes, own_id=id)
        stored_id = await self._sender.send(self.resource, message)
        return id or stored_id

    async def send_many(self, bodies: Iterable[object], *, delay: float | None = None) -> list[str]:
        """Stores messages in order and answers their ids. All are checked before the first is stored."""
        messages = [queue_message(self.name, body, delay_s=delay, attributes=None, own_id=None) for body in bodies]
        return await self._sender.send_many(self.resource, messages)

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def receive(
        self, count: int = 1, *, wait: float | None = None, visibility_timeout: float | None = None
    ) -> list[Message]:
        """Up to ``count`` messages, hidden from others for ``visibility_timeout`` seconds (the queue's own by default).

        Waits up to ``wait`` seconds (the queue's own by default) until there is one; an empty list otherwise.
        """
        check_whole("count", count, 1, limits.MAX_RECEIVE_COUNT)
        if visibility_timeout is None or wait is None:
            settings = await self.settings()
            visibility_timeout = settings.visibility_timeout_s if visibility_timeout is None else visibility_timeout
            wait = settings.receive_wait_s if wait is None else wait
        check_range("visibility_timeout", visibility_timeout, 0, limits.MAX_VISIBILITY_TIMEOUT_S)
        check_range("wait", wait, 0, 86_400)
        lease_ms = round(visibility_timeout * 1000)
        while True:
            messages, claim = await self._take(count, lease_ms, wake=False)
            if messages or claim.next_due_ms is None:  # there is more behind what has just expired
                break
        if messages or not wait:
            return messages
        return await self._wait_and_take(count, lease_ms, wait)

    async def _wait_and_take(self, count: int, lease_ms: int, wait_s: float) -> list[Message]:
        woken = asyncio.Event()
        channel = self.core.keys.of(self.resource).wake

        def wake(_: bytes | None) -> None:
            woken.set()

        deadline, failures = time.monotonic() + wait_s, 0
        try:
            await self.core.channels.listen({channel: wake})
            while True:
                woken.clear()
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    messages, claim = await self._take(count, lease_ms, wake=True)
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
            await self.core.channels.unlisten(channel, wake)

    async def _take(self, count: int, lease_ms: int, *, wake: bool) -> tuple[list[Message], Claim]:
        token = f"r{self._tokens.next()}"
        try:
            claim = await self.core.messages.claim(
                self.resource, token=token, lease_ms=lease_ms, room=count, mode="receive", wake=wake
            )
        except (StoreError, asyncio.CancelledError):
            # Whether it leased anything is unknown: give it back when Redis is there again.
            self.core.in_background(self._give_back(token), name="release_claim")
            raise
        if claim.status == "unknown":
            raise QueueNotFound(self.name)
        if claim.outbox:
            self.core.in_background(self._relay.deliver(self.resource), name="relay")
        return [
            Message(self.core, self.resource, claimed, nonce=claim.nonce, token=token) for claimed in claim.messages
        ], claim

    async def _give_back(self, token: str) -> None:
        for pause_s in _GIVE_BACK_PAUSES_S:
            try:
                await self.core.messages.release_claim(self.resource, token)
            except StoreUnavailable:
                await asyncio.sleep(pause_s)
            else:
                return
        await self.core.messages.release_claim(self.resource, token)

    # -- looking, counting, clearing ----------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """Exact numbers of visible, in flight, retrying and delayed messages at this moment."""
        await self.core.messages.expire(self.resource)
        counts = await self.core.messages.counts(self.resource)
        if counts is None:
            raise QueueNotFound(self.name)
        return counts

    async def peek(self, count: int = 10) -> list[Message]:
        """A look at up to ``count`` messages, wherever they are, without receiving them; they cannot be settled."""
        described = await self.core.directory.describe(self.resource)
        if described is None:
            raise QueueNotFound(self.name)
        check_whole("count", count, 1, limits.MAX_RECEIVE_COUNT)
        await self.core.messages.expire(self.resource)
        found = await self.core.messages.peek(self.resource, count)
        return [self._looked_at(item, described.nonce) for item in found]

    def _looked_at(self, item: Peeked, nonce: int) -> Message:
        facts = item.facts
        if facts == FIRST_FACTS and item.place != "in_flight":
            facts = Facts(receives=0)
        return Message(
            self.core, self.resource, Claimed(item.entry, item.blob, facts.stored().encode()), nonce=nonce, token=""
        )

    async def purge(self) -> int:
        """Throws all messages away, those in flight too; answers how many."""
        held = await self.core.messages.purge(self.resource)
        if held is None:
            raise QueueNotFound(self.name)
        return held

    async def delete(self, *, force: bool = False) -> None:
        """Removes the queue. With messages in it: raises ResourceBusy, unless forced."""
        await self._relay.deliver(self.resource)
        await self.core.messages.expire(self.resource)
        status, held = await self.core.directory.delete(self.resource, force=force)
        if status == "unknown":
            raise QueueNotFound(self.name)
        if status == "busy":
            raise ResourceBusy("queue", self.name, held)

    # -- redrive ------------------------------------------------------------------------------------------------------

    async def redrive(self, *, to: Queue | Function | None = None, count: int | None = None) -> int:
        """Sends dead letters back to where each came from (or to ``to``) with fresh counters; answers how many.

        A dead letter of a function goes to it as the bare event. One whose source is not known, or is gone, stays.
        Raises InvalidOption for a target that is this queue itself, NotFound for one that does not exist.
        """
        if to == Queue(self.name):
            raise InvalidOption("to", self.name, "a queue cannot be redriven to itself")
        known: dict[str, bool] = {}
        if to is not None and not await self._exists(self.core.resource(_KINDS[type(to)], to.name), known):
            raise QueueNotFound(to.name) if isinstance(to, Queue) else FunctionNotFound(to.name)
        moved, staying = 0, dict[str, Message]()
        try:
            while count is None or moved < count:
                room = _REDRIVE_BATCH if count is None else min(_REDRIVE_BATCH, count - moved)
                messages, _ = await self._take(room, _REDRIVE_LEASE_MS, wake=False)
                going = [message for message in messages if to is not None or await self._has_source(message, known)]
                # What stays is kept leased until the end, so that it does not stand before what can go.
                fresh = [message for message in messages if message not in going and message.entry not in staying]
                staying |= {message.entry: message for message in messages if message not in going}
                moved += await self._send_back(going, to)
                if not going and not fresh:
                    break
        finally:
            await self._release_all(list(staying.values()))
        await self._relay.deliver(self.resource)
        return moved

    async def _exists(self, resource: Resource, known: dict[str, bool]) -> bool:
        if resource.arn not in known:
            known[resource.arn] = await self.core.directory.describe(resource) is not None
        return known[resource.arn]

    async def _has_source(self, message: Message, known: dict[str, bool]) -> bool:
        return bool(message.source) and await self._exists(Resource.from_arn(message.source or ""), known)

    async def _send_back(self, messages: list[Message], to: Queue | Function | None) -> int:
        if not messages:
            return 0
        onward = [
            Onward(index, "r", msgspec.msgpack.encode(message.redriven(to))) for index, message in enumerate(messages)
        ]
        members = [message.member for message in messages]
        done = await self.core.messages.finish(self.resource, members, counter="deleted", onward=onward)
        return done.settled

    async def _release_all(self, messages: list[Message]) -> None:
        for start in range(0, len(messages), _REDRIVE_BATCH):
            deferrals = [Deferral(message.member, 0) for message in messages[start : start + _REDRIVE_BATCH]]
            await self.core.messages.defer(self.resource, deferrals, counter="released")


def _settings(
    visibility_timeout: float,
    delay: float,
    retention: float,
    max_message_bytes: int,
    receive_wait: float,
    dead_letter: Queue | None,
    max_receives: int | None,
) -> QueueSettings:
    return QueueSettings(
        visibility_timeout_s=visibility_timeout,
        delay_s=delay,
        retention_s=retention,
        max_message_bytes=max_message_bytes,
        receive_wait_s=receive_wait,
        dead_letter=dead_letter.name if dead_letter else None,
        max_receives=max_receives,
    )


def queue_fields(settings: QueueSettings) -> dict[str, str]:
    """The settings that the scripts read, in their units."""
    return {
        "delay_ms": str(round(settings.delay_s * 1000)),
        "retention_ms": str(round(settings.retention_s * 1000)),
        "max_bytes": str(settings.max_message_bytes),
        "max_receives": "" if settings.max_receives is None else str(settings.max_receives),
    }


async def ensure_queue(core: Core, name: str) -> None:
    """Creates a queue that something names, with defaults, where it is missing."""
    settings = QueueSettings()
    encoded = msgspec.json.encode(settings)
    resource = core.resource("queue", check_name("queue", name))
    await core.directory.configure(resource, encoded, queue_fields(settings), mode="ensure", implied=True)


async def queue_settings(core: Core, resource: Resource) -> QueueSettings:
    """The settings of a queue in force; the defaults where it does not exist."""
    described = await core.directory.describe(resource)
    return QueueSettings() if described is None else msgspec.json.decode(described.settings, type=QueueSettings)
