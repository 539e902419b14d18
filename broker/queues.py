"""Queues: create, send, receive under a visibility timeout, settle, look, count, purge, redrive, delete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from broker import limits, spans
from broker.core import Core
from broker.errors import InvalidOption, MoveNotFound, PenstockError, QueueNotFound, ResourceBusy
from broker.ids import mark_of
from broker.message import Message
from broker.message_attributes import AttributeValue
from broker.moves import MAX_LISTED, MoveTask, cancel_move, list_moves, start_move
from broker.names import Function, Queue, Resource, check_name
from broker.outgoing import GROUP, queue_message
from broker.partitions import counts, delete, purge
from broker.queue_settings import change_queue, create_queue, describe_queue
from broker.receiving import Receive, Receiver
from broker.records import (
    FIRST_FACTS,
    DeduplicationScope,
    Facts,
    QueueSettings,
    ThroughputLimit,
    check_range,
    check_whole,
)
from broker.redriving import Redrive, resource_of
from broker.routing import Relay
from broker.sending import Sender
from broker.store.values import Claim, Claimed, Counts, NewMessage, Peeked

_DELETE_BATCH: Final = 1_000

RedriveFrom: TypeAlias = Iterable[Queue] | Literal["all"]
"""Which queues may have a queue as their dead-letter queue; none of them where there are none."""


class Entry(TypedDict, total=False):
    """One message of :meth:`QueueClient.send_batch`: the arguments of :meth:`QueueClient.send`, ``body`` among them."""

    body: object
    delay: float | None
    attributes: Mapping[str, AttributeValue] | None
    id: str | None
    group: str | None
    deduplication_id: str | None


class QueueClient:
    """One queue, as an opened :class:`broker.Broker` gives it; a FIFO queue where the name ends in ``.fifo``.

    Errors: QueueNotFound, InvalidInput, StoreError.
    """

    def __init__(self, core: Core, sender: Sender, relay: Relay, receiver: Receiver, name: str) -> None:
        self.name: Final = check_name("queue", name)
        self.core: Final = core
        self.resource: Final[Resource] = core.resource("queue", name)
        self._sender: Final = sender
        self._relay: Final = relay
        self._receiver: Final = receiver

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
        content_deduplication: bool = False,
        deduplication_scope: DeduplicationScope = "queue",
        throughput_limit: ThroughputLimit = "perQueue",
        redrive_from: RedriveFrom | None = None,
        durability: str | None = None,
        tags: Mapping[str, str] | None = None,
        partitions: int = 1,
    ) -> None:
        """Creates the queue, and the dead-letter queue with defaults where missing. Seconds; SQS's defaults and bounds.

        ``redrive_from`` says which queues may have it as their dead-letter queue: "all" by default. ``durability`` is
        what a send must be before it is answered; raises DurabilityNotMet where Redis does not give that.
        ``partitions`` splits a standard queue that one node of a cluster cannot carry; it stays one queue. A second
        time with the same settings changes nothing; with others it raises QueueExists. A queue that exists only because
        something named it takes the settings given here.
        """
        settings = QueueSettings(
            visibility_timeout_s=visibility_timeout,
            delay_s=delay,
            retention_s=retention,
            max_message_bytes=max_message_bytes,
            receive_wait_s=receive_wait,
            dead_letter=dead_letter.name if dead_letter else None,
            max_receives=max_receives,
            fifo=self.resource.fifo,
            content_deduplication=content_deduplication,
            deduplication_scope=deduplication_scope,
            throughput_limit=throughput_limit,
            durability=durability or "",
            tags=dict(tags or {}),
            partitions=partitions,
        )
        settings = msgspec.structs.replace(settings, **self._redrive_allow(redrive_from))
        await create_queue(self.core, self.resource, settings, compared=QueueSettings.__struct_fields__)

    def _redrive_allow(self, redrive_from: RedriveFrom | None) -> dict[str, object]:
        if redrive_from is None:
            return {}
        if redrive_from == "all":
            return {"redrive_permission": None, "redrive_sources": ()}
        given: object = redrive_from
        if isinstance(given, str):
            raise InvalidOption("redrive_from", given, 'must be queues, or "all"')
        sources = tuple(self.core.resource("queue", queue.name).arn for queue in redrive_from)
        return {"redrive_permission": "byQueue" if sources else "denyAll", "redrive_sources": sources}

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
        content_deduplication: bool | None = None,
        deduplication_scope: DeduplicationScope | None = None,
        throughput_limit: ThroughputLimit | None = None,
        redrive_from: RedriveFrom | None = None,
        durability: str | None = None,
        tags: Mapping[str, str] | None = None,
        partitions: int | None = None,
    ) -> None:
        """Changes the settings given and leaves the others; ``remove_dead_letter`` ends the moving of messages that
        were received too often, ``redrive_from="all"`` lets every queue have it as its dead-letter queue again,
        ``durability=""`` requires nothing any more, and ``tags`` take the place of all that were there. There can be
        more ``partitions``, never fewer. Raises QueueNotFound, InvalidOption, DurabilityNotMet."""
        changes: dict[str, object] = {
            "visibility_timeout_s": visibility_timeout,
            "delay_s": delay,
            "retention_s": retention,
            "max_message_bytes": max_message_bytes,
            "receive_wait_s": receive_wait,
            "dead_letter": dead_letter.name if dead_letter else None,
            "max_receives": max_receives,
            "content_deduplication": content_deduplication,
            "deduplication_scope": deduplication_scope,
            "throughput_limit": throughput_limit,
            "durability": durability,
            "tags": None if tags is None else dict(tags),
            "partitions": partitions,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        given |= self._redrive_allow(redrive_from)
        if remove_dead_letter:
            given |= {"dead_letter": None, "max_receives": None}
        await change_queue(self.core, self.resource, lambda now: msgspec.structs.replace(now, **given))

    async def settings(self) -> QueueSettings:
        """The settings in force. Raises QueueNotFound."""
        return (await describe_queue(self.core, self.resource)).settings

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send(
        self,
        body: object,
        *,
        delay: float | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        id: str | None = None,  # noqa: A002 - the word users know
        group: str | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Stores a message and answers its id: text as it is, anything else as JSON; ``delay`` in seconds.

        With an own ``id``, a repetition within five minutes is accepted once; in a FIFO queue that is what the
        ``deduplication_id`` does, and a repetition answers the first one's id. Messages of a ``group`` keep their order
        in a FIFO queue, where there must be one; in a standard queue groups take turns. Raises QueueNotFound,
        InvalidInput.
        """
        with spans.sending(self.resource) as span:
            message = queue_message(
                self.name,
                body,
                delay_s=delay,
                attributes=attributes,
                own_id=id,
                group=group,
                deduplication_id=deduplication_id,
            )
            accepted = await self._sender.send(self.resource, message)
            if span is not None:
                span.set("messaging.message.id", id or accepted.id)
        return id or accepted.id

    async def send_many(
        self, bodies: Iterable[object], *, delay: float | None = None, group: str | None = None
    ) -> list[str]:
        """Stores messages in order and answers their ids. All are checked before the first is stored."""
        given = list(bodies)
        with spans.sending(self.resource, len(given)):
            messages = [queue_message(self.name, body, delay_s=delay, group=group) for body in given]
            return await self._sender.send_many(self.resource, messages)

    async def send_batch(self, entries: Iterable[Entry]) -> list[str]:
        """Stores messages that each have options of their own, in order, and answers their ids. All are checked before
        the first is stored."""
        given = [dict(entry) for entry in entries]
        unknown = {name for entry in given for name in entry} - Entry.__annotations__.keys()
        if unknown or not all("body" in entry for entry in given):
            raise InvalidOption(
                "entries", sorted(unknown), f"each has body, and may have {sorted(Entry.__annotations__)}"
            )
        with spans.sending(self.resource, len(given)):
            messages = [self._entry_message(entry) for entry in given]
            try:
                ids = await self._sender.send_many(self.resource, messages)
            except PenstockError as error:
                error.stored = tuple(
                    each and (m.own_id or each) for m, each in zip(messages, error.stored, strict=False)
                )
                raise
        return [message.own_id or stored_id for message, stored_id in zip(messages, ids, strict=True)]

    def _entry_message(self, entry: Mapping[str, Any]) -> NewMessage:
        return queue_message(
            self.name,
            entry["body"],
            delay_s=entry.get("delay"),
            attributes=entry.get("attributes"),
            own_id=entry.get("id"),
            group=entry.get("group"),
            deduplication_id=entry.get("deduplication_id"),
        )

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def receive(
        self,
        count: int = 1,
        *,
        wait: float | None = None,
        visibility_timeout: float | None = None,
        attempt: str | None = None,
    ) -> list[Message]:
        """Up to ``count`` messages, hidden from others for ``visibility_timeout`` seconds (the queue's own by default).

        Waits up to ``wait`` seconds (the queue's own by default) until there is one; an empty list otherwise. A FIFO
        queue gives the same messages again for the same ``attempt`` (1 to 128 characters, good for five minutes),
        unless one of them was changed meanwhile: for whoever did not hear the first answer.
        """
        check_whole("count", count, 1, limits.MAX_RECEIVE_COUNT)
        if visibility_timeout is not None:
            check_range("visibility_timeout", visibility_timeout, 0, limits.MAX_VISIBILITY_TIMEOUT_S)
        if wait is not None:
            check_range("wait", wait, 0, 86_400)
        if attempt is not None and not (self.resource.fifo and GROUP.fullmatch(attempt)):
            raise InvalidOption("attempt", attempt, "only for FIFO queues; 1 to 128 of letters, digits and punctuation")
        wanted = Receive(count=count, wait_s=wait, visibility_s=visibility_timeout, attempt=attempt)
        return await self._receiver.receive(self.resource, wanted)

    async def delete_many(self, messages: Iterable[Message]) -> list[Message]:
        """Deletes received messages; answers those that are somebody else's by now."""
        pending, lost = list(messages), list[Message]()
        for start in range(0, len(pending), _DELETE_BATCH):
            page = pending[start : start + _DELETE_BATCH]
            for queue in dict.fromkeys(message.queue for message in page):
                some = [message for message in page if message.queue == queue]
                members = [message.member for message in some]
                settled = await self.core.messages.finish(queue, members, counter="deleted")
                lost += [some[index] for index, why in settled.refused.items() if why != "unknown"]
        return lost

    # -- looking, counting, clearing ----------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """Exact numbers of visible, in flight, retrying and delayed messages at this moment."""
        found = await counts(self.core, self.resource, expire=True)
        if found is None:
            raise QueueNotFound(self.name)
        return found

    async def peek(self, count: int = 10) -> list[Message]:
        """A look at up to ``count`` messages, wherever they are, without receiving them; they cannot be settled."""
        described = await self.core.directory.describe(self.resource)
        if described is None:
            raise QueueNotFound(self.name)
        check_whole("count", count, 1, limits.MAX_RECEIVE_COUNT)
        found: list[Message] = []
        for part in self.resource.parts(described.partitions):
            await self.core.messages.expire(part)
            mark = mark_of(described.nonce, part.partition)
            looked_at = await self.core.messages.peek(part, count - len(found)) if len(found) < count else ()
            found += [self._looked_at(item, part, mark) for item in looked_at]
        return found

    def _looked_at(self, item: Peeked, part: Resource, mark: int) -> Message:
        facts = item.facts
        if facts == FIRST_FACTS and item.place != "in_flight":
            facts = Facts(receives=0)
        claimed = Claimed(item.entry, item.blob, facts.stored().encode())
        return Message(self.core, part, claimed, claim=Claim("ok", nonce=mark))

    async def purge(self) -> int:
        """Throws all messages away, those in flight too; answers how many."""
        held = await purge(self.core, self.resource)
        if not isinstance(held, int):
            raise QueueNotFound(self.name)
        return held

    async def delete(self, *, force: bool = False) -> None:
        """Removes the queue. With messages in it: raises ResourceBusy, unless forced."""
        for part in await self.core.partitions.parts(self.resource):
            await self._relay.deliver(part)
            await self.core.messages.expire(part)
        status, held = await delete(self.core, self.resource, force=force)
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
        return await Redrive(self.core, self._receiver, self._relay, self.resource, to).run(count)

    async def start_move(self, *, to: Queue | Function | None = None, rate: int | None = None) -> MoveTask:
        """Starts a move task: what is visible now goes back to where each came from, or to ``to``, with fresh counters.

        ``rate`` is the most a second, 1 to 500. A process with an upkeep (a worker, a gateway) does the moving; it goes
        on when that process dies. It fails where the source of a message is not known, or is gone; that message stays.
        Raises MoveInProgress where one runs, InvalidOption, NotFound.
        """
        destination = None if to is None else resource_of(self.core, to)
        return await start_move(self.core, self.resource, destination=destination, max_per_s=rate)

    async def moves(self, count: int = MAX_LISTED) -> list[MoveTask]:
        """The newest ``count`` move tasks (1 to 10), newest first: the one that runs, and those that ended last."""
        return await list_moves(self.core, self.resource, count=count)

    async def cancel_move(self, handle: str) -> MoveTask:
        """Ends a move task of this queue; what it has moved stays moved. Its status is CANCELLING until whoever runs it
        has stopped. Raises MoveNotFound for what is no handle of a task that runs on this queue."""
        if all(task.handle != handle for task in await self.moves()):
            raise MoveNotFound(handle)
        return await cancel_move(self.core, handle)
