"""What the message scripts take and answer, as values; and how the replies that two of them share are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker.errors import DeduplicationIdMissing, PayloadTooLarge, StoreFault
from broker.ids import message_id, message_ids, sequence_number
from broker.names import Resource
from broker.records import PACKING_BYTES, Facts

ClaimMode: TypeAlias = Literal["work", "alone", "receive", "aged"]
Refusal: TypeAlias = Literal["fenced", "unknown", "expired"]
"""``fenced``: the message is somebody else's; ``unknown``: it is gone; ``expired`` (FIFO): its time is over."""
_REFUSALS: Final[dict[bytes, Refusal]] = {b"fenced": "fenced", b"unknown": "unknown", b"expired": "expired"}
_WITH_TOKEN: Final = 12
_WITH_PARTITIONS: Final = 13


class NewMessage(msgspec.Struct, frozen=True):
    """A message on its way in. ``delay_ms`` None is the queue's own delay; ``size`` counts body and attributes."""

    blob: bytes
    size: int
    delay_ms: int | None = None
    own_id: str = ""
    facts: str = ""
    group: str = ""
    """Orders it in a FIFO queue, where it must be given; lets it take turns in a standard queue."""
    deduplication_id: str = ""
    """For FIFO queues: accepted once within five minutes, in the queue or in its group."""
    named: bool = False
    """Its own id is what its sender asks for its status by."""

    @property
    def plain(self) -> bool:
        """Whether the short form of the send script carries it."""
        return (
            self.delay_ms is None
            and not self.own_id
            and not self.facts
            and not self.group
            and len(self.blob) == self.size + PACKING_BYTES
        )


class Accepted(msgspec.Struct, frozen=True):
    """A message that was stored, or the one that it repeats."""

    id: str
    entry: str
    """In a FIFO queue, else '': nobody asks."""

    @property
    def sequence_number(self) -> str:
        """Its place in its group, if it is in a FIFO queue."""
        return sequence_number(self.entry)


class Stored(msgspec.Struct, frozen=True):
    """Where the messages of one send stand: message i is entry ``"<milliseconds>-<sequence + i>"``, unless it repeats
    another one."""

    milliseconds: str
    sequence: int
    nonce: int
    repeats: dict[int, str] = {}
    """In a FIFO queue: the entries of the messages that some of them repeat, by index."""

    def id(self, index: int) -> str:
        """The id of one message of the send, or of the one that it repeats."""
        return message_id(self.entry(index), self.nonce)

    def ids(self, count: int) -> list[str]:
        """The ids of the first ``count`` messages of the send."""
        ids = message_ids(self.milliseconds, self.sequence, count, self.nonce)
        for index in self.repeats:
            ids[index] = self.id(index)
        return ids

    def entry(self, index: int) -> str:
        """The entry of one message of the send, or of the one that it repeats."""
        return self.repeats.get(index) or f"{self.milliseconds}-{self.sequence + index}"


class Claimed(msgspec.Struct):
    """One leased message as the script handed it out."""

    entry: str
    blob: bytes
    facts_text: bytes

    @property
    def facts(self) -> Facts:
        """Its counters, this lease included."""
        return Facts.parse(self.facts_text)


class Claim(msgspec.Struct, frozen=True):
    """What a claim brought, and what the caller needs to know to wait well. Times are Redis's, in milliseconds."""

    status: Literal["ok", "paused", "full", "over", "unknown"]
    """``full``: no permit free; ``over``: too many in flight."""
    now_ms: int = 0
    next_due_ms: int | None = None
    revision: int = 0
    limit: int | None = None
    suspects: int = 0
    outbox: int = 0
    fence: int = 0
    nonce: int = 0
    messages: list[Claimed] = []
    wait_ms: int = 0
    """The queue's own receive wait."""
    token: str = ""
    """Under which the messages are leased: another than asked for where an attempt was repeated."""
    partitions: int = 1
    """Into how many the resource is split."""

    def filled(self, room: int, max_bytes: int) -> bool:
        """Whether it brought all that was asked for, by number or by bytes: then there may be more."""
        return len(self.messages) >= room or self.size >= max_bytes

    @property
    def size(self) -> int:
        """Bytes of all its messages, as they are stored."""
        return sum(len(claimed.blob) for claimed in self.messages)

    @property
    def due_in_s(self) -> float | None:
        """In how many seconds there is more to claim, if nothing comes meanwhile; None: not known of any."""
        return None if self.next_due_ms is None else max(0.0, (self.next_due_ms - self.now_ms) / 1000)


class Settlement(msgspec.Struct, frozen=True):
    """How many were settled, and which (by index) were refused because their lease is not theirs any more."""

    settled: int
    refused: dict[int, Refusal]
    known: bool = True
    """Whether the resource exists."""


class Deferral(msgspec.Struct, frozen=True):
    """One leased message that is to wait again."""

    member: str
    delay_ms: int
    adds_try: bool = False
    note: bytes = b""


class Onward(msgspec.Struct, frozen=True):
    """Something to send on when a message is finished: whose, under which suffix, what."""

    index: int
    suffix: str
    record: bytes


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Exact numbers at one moment. ``visible`` may be handed out now; ``retrying`` waits after a failure or a release;
    ``running`` counts permits, which only functions with a concurrency limit have.
    """

    visible: int
    in_flight: int
    retrying: int
    delayed: int
    set_apart: int
    outbox: int
    running: int
    oldest_ms: int | None

    @property
    def total(self) -> int:
        """All messages, wherever they are, without what is being sent on."""
        return self.visible + self.in_flight + self.retrying + self.delayed + self.set_apart


class Peeked(msgspec.Struct, frozen=True):
    """A message that was looked at, not leased."""

    place: Literal["ready", "waiting", "delayed", "suspect", "in_flight"]
    due_ms: int
    entry: str
    blob: bytes
    facts: Facts


def member_of(entry: str, token: str) -> str:
    """The name of a lease: which message, whose. Settling with another token finds nothing."""
    return f"{entry}|{token}"


def read_claim(reply: Sequence[Any], token: str) -> Claim:
    """What a claim script answered."""
    if reply[0] == b"unknown":
        return Claim("unknown")
    flat = reply[9]
    messages = [Claimed(flat[i].decode(), flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
    due = int(reply[2])
    return Claim(
        status=reply[0].decode(),
        now_ms=int(reply[1]),
        next_due_ms=None if due < 0 else due,
        revision=int(reply[3]),
        limit=None if reply[4] < 0 else reply[4],
        suspects=reply[5],
        outbox=reply[6],
        fence=int(reply[7]),
        nonce=int(reply[8]),
        messages=messages,
        wait_ms=int(reply[10]),
        token=token if len(reply) < _WITH_TOKEN else reply[11].decode() or token,
        partitions=1 if len(reply) < _WITH_PARTITIONS else int(reply[12]),
    )


class DurabilityRequired(Exception):
    """A script stored nothing, as its resource requires another durability than what the caller had made sure of."""

    def __init__(self, required: str) -> None:
        super().__init__(required)
        self.required = required


def not_sent(resource: Resource, reply: Sequence[Any]) -> Exception:
    """The error for a send that stored nothing."""
    if reply[0] == b"durability":
        return DurabilityRequired(reply[1].decode())
    if reply[0] == b"too_large":
        return PayloadTooLarge(f'message {reply[1]} for {resource.kind} "{resource.name}"', reply[2], reply[3])
    if reply[0] == b"no_id":
        return DeduplicationIdMissing(resource.name)
    return StoreFault(f"send answered {reply[0]!r}")


def read_settlement(reply: Sequence[Any]) -> Settlement:
    """What a script that settles answered."""
    if reply[0] == -1:
        return Settlement(0, {}, known=False)
    refused = {int(reply[i]) - 1: _REFUSALS[reply[i + 1]] for i in range(1, len(reply), 2)}
    return Settlement(int(reply[0]), refused)
