"""The relay: moves what an outbox holds to its targets, each at least once and, within five minutes, at most once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from broker import errors, limits
from broker.core import Core
from broker.ids import message_id
from broker.invocation_records import truncated_record
from broker.log import log
from broker.names import Function, Kind, Queue, Resource, Stream, Target
from broker.records import Delivery, Facts, FunctionSettings, QueueSettings, pack, unpack
from broker.sending import Sender, chunks
from broker.store.logs import NewRecord
from broker.store.outbox import OutboxEntry, OutboxSettlement
from broker.store.values import NewMessage
from broker.streams import append

_ROOM: Final = 500
_HOLD_MS: Final = 10_000
_BACKOFF_FIRST_MS: Final = 1_000
_BACKOFF_LAST_MS: Final = 300_000
_NOT_NOW: Final = (
    errors.NotFound,
    errors.StoreFull,
    errors.StoreReadOnly,
    errors.DurabilityNotMet,
    errors.WriteNotConfirmed,
)
"""What may be over by the next attempt."""
_MOVE_MARK: Final = b"M"
"""First byte of what claim.lua writes for a message whose receives are used up."""


class Parcel(msgspec.Struct, frozen=True):
    """One entry of an outbox, read."""

    name: str
    delivery: Delivery


def _beside(source: Resource, kind: Kind, name: str) -> Resource:
    """A target stands in the account and region of its source."""
    return Resource(kind, source.account, source.region, name)


def _forwarded(delivery: Delivery, own_id: str, target: Resource) -> NewMessage:
    """The message as its target takes it; what has no group goes to a FIFO queue in one of its own."""
    blob = delivery.blob
    header, body = unpack(blob)
    group = "" if target.kind == "function" else header.group
    if target.fifo and not group:
        group = own_id
        blob = pack(body, msgspec.structs.replace(header, group=group))
    size = len(body) if delivery.is_record else 0  # dead letters and moved messages always get through
    return NewMessage(blob, size, None, own_id, delivery.facts, group)


class Relay:
    """Delivers outboxes. Any process may run one; what it dies over is tried again by another."""

    def __init__(self, core: Core, sender: Sender) -> None:
        self._core: Final = core
        self._sender: Final = sender

    async def deliver(self, source: Resource) -> int:
        """Sends on all that is due in the outbox of one resource; answers how many arrived."""
        delivered = 0
        while entries := await self._core.outbox.take(source, room=_ROOM, hold_ms=_HOLD_MS):
            parcels = [await self._read(source, entry) for entry in entries]
            targets = dict.fromkeys(parcel.delivery.target for parcel in parcels)
            for target in targets:
                group = [parcel for parcel in parcels if parcel.delivery.target == target]
                for chunk in chunks(group, bytes_of=lambda parcel: len(parcel.delivery.blob)):
                    settlements = await self._attempt(source, target, chunk)
                    await self._core.outbox.settle(source, settlements)
                    delivered += sum(settlement.retry_in_ms is None for settlement in settlements)
            if len(entries) < _ROOM and sum(len(entry.record) for entry in entries) < limits.CLAIM_BYTES:
                break
        return delivered

    async def _attempt(self, source: Resource, target: Target, group: Sequence[Parcel]) -> list[OutboxSettlement]:
        try:
            await self._send(source, target, group)
        except errors.InvalidInput as error:
            if len(group) == 1:
                return [await self._without_payload(source, target, group[0], error)]
            # One of them is refused; the others must not wait for it.
            return [settlement for parcel in group for settlement in await self._attempt(source, target, [parcel])]
        except _NOT_NOW as error:
            log.warning("delivery_failed", source=source.arn, target=target.name, count=len(group), reason=str(error))
            return [await self._put_off(source, parcel, str(error)) for parcel in group]
        dead = sum(parcel.delivery.kind == "dead_letter" for parcel in group)
        if dead and source.kind == "queue":
            log.warning("messages_dead_lettered", source=source.arn, target=target.name, count=dead)
        return [OutboxSettlement(parcel.name) for parcel in group]

    async def _without_payload(
        self, source: Resource, target: Target, parcel: Parcel, error: errors.InvalidInput
    ) -> OutboxSettlement:
        """An invocation record over the limit of its target goes without its payloads; anything else must wait."""
        if isinstance(error, errors.PayloadTooLarge) and parcel.delivery.is_record:
            header, body = unpack(parcel.delivery.blob)
            smaller = truncated_record(body, limit_bytes=error.limit_bytes)
            if len(smaller) <= error.limit_bytes:
                delivery = msgspec.structs.replace(parcel.delivery, blob=pack(smaller, header))
                return (await self._attempt(source, target, [Parcel(parcel.name, delivery)]))[0]
        log.warning("delivery_failed", source=source.arn, target=target.name, count=1, reason=str(error))
        return await self._put_off(source, parcel, str(error))

    async def _send(self, source: Resource, target: Target, group: Sequence[Parcel]) -> None:
        own_ids = [f"{source.tag}/{parcel.name}" for parcel in group]
        match target:
            case Queue() | Function():
                kind: Kind = "queue" if isinstance(target, Queue) else "function"
                messages = [
                    _forwarded(parcel.delivery, own_id, _beside(source, kind, target.name))
                    for parcel, own_id in zip(group, own_ids, strict=True)
                ]
                await self._sender.send_many(_beside(source, kind, target.name), messages, urgent=True)
            case Stream():
                records = [
                    NewRecord(own_id, unpack(parcel.delivery.blob)[1], own_id)
                    for parcel, own_id in zip(group, own_ids, strict=True)
                ]
                stream = _beside(source, "stream", target.name)
                if await append(self._core, stream, records, urgent=True) is None:
                    raise errors.StreamNotFound(target.name)
            case _:
                assert_never(target)

    async def _read(self, source: Resource, entry: OutboxEntry) -> Parcel:
        if entry.record[:1] == _MOVE_MARK:
            return Parcel(entry.name, await self._moved(source, entry.record))
        return Parcel(entry.name, msgspec.msgpack.decode(entry.record, type=Delivery))

    async def _moved(self, source: Resource, record: bytes) -> Delivery:
        """A message whose receives are used up, as its dead-letter queue shall have it (SQS: id, attributes and the
        time of sending stay, the receive count goes on).
        """
        facts_text, entry_text, blob = record[1:].split(b"\n", 2)
        facts, entry = Facts.parse(facts_text), entry_text.decode()
        described = await self._core.directory.describe(source)
        if described is None:
            raise errors.QueueNotFound(source.name)
        settings = msgspec.json.decode(described.settings, type=QueueSettings)
        header, body = unpack(blob)
        identity = header.id or message_id(entry, described.nonce)
        moved = msgspec.structs.replace(header, id=identity, source=source.arn)
        kept = Facts(
            receives=facts.receives,
            first_receive_ms=facts.first_receive_ms,
            sent_ms=facts.sent_ms or int(entry.partition("-")[0]),
        )
        target = Queue(settings.dead_letter or source.name)
        return Delivery(kind="dead_letter", target=target, blob=pack(body, moved), facts=kept.stored())

    async def _put_off(self, source: Resource, parcel: Parcel, reason: str) -> OutboxSettlement:
        old = parcel.delivery
        now_ms = await self._core.messages.now_ms()
        changed = msgspec.structs.replace(
            old, attempts=old.attempts + 1, last_error=reason, first_attempt_ms=old.first_attempt_ms or now_ms
        )
        if not old.detour and now_ms - changed.first_attempt_ms >= limits.OUTBOX_KEEP_MS:
            detour = await self._dead_letter_of(source)
            if detour is not None and detour != old.target:
                changed = msgspec.structs.replace(changed, target=detour, detour=True, attempts=0)
        delay_ms = 0
        if changed.attempts:
            delay_ms = min(_BACKOFF_LAST_MS, _BACKOFF_FIRST_MS * 2 ** min(changed.attempts - 1, 20))
        return OutboxSettlement(parcel.name, delay_ms, msgspec.msgpack.encode(changed))

    async def _dead_letter_of(self, source: Resource) -> Target | None:
        described = await self._core.directory.describe(source)
        if described is None:
            return None
        if source.kind == "function":
            return msgspec.json.decode(described.settings, type=FunctionSettings).dead_letter
        dead_letter = msgspec.json.decode(described.settings, type=QueueSettings).dead_letter
        return Queue(dead_letter) if dead_letter else None
