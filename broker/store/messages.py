"""Messages of a queue or a function in Redis: packs the arguments of the message scripts and reads their replies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from broker import limits
from broker.errors import PayloadTooLarge, StoreFault
from broker.ids import message_id, message_ids
from broker.names import Resource
from broker.records import PACKING_BYTES, Facts
from broker.store.keys import Keyspace
from broker.store.scripts import Argument, ScriptRunner

ClaimMode: TypeAlias = Literal["work", "alone", "receive", "aged"]
Refusal: TypeAlias = Literal["fenced", "unknown"]
_MEMBERS_A_CALL: Final = 1_000
_LOOKED_AT_TO_EXPIRE: Final = 500


class NewMessage(msgspec.Struct, frozen=True):
    """A message on its way in. ``delay_ms`` None is the queue's own delay; ``size`` counts body and attributes."""

    blob: bytes
    size: int
    delay_ms: int | None = None
    own_id: str = ""
    facts: str = ""

    @property
    def plain(self) -> bool:
        """Whether the short form of the send script carries it."""
        return (
            self.delay_ms is None and not self.own_id and not self.facts and len(self.blob) == self.size + PACKING_BYTES
        )


class Stored(msgspec.Struct, frozen=True):
    """Where the messages of one send stand: message i is entry ``"<milliseconds>-<sequence + i>"``."""

    milliseconds: str
    sequence: int
    nonce: int

    def id(self, index: int) -> str:
        """The id of one message of the send."""
        return message_id(self.entry(index), self.nonce)

    def ids(self, count: int) -> list[str]:
        """The ids of the first ``count`` messages of the send."""
        return message_ids(self.milliseconds, self.sequence, count, self.nonce)

    def entry(self, index: int) -> str:
        """The entry of one message of the send."""
        return f"{self.milliseconds}-{self.sequence + index}"


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

    status: Literal["ok", "paused", "full", "unknown"]
    now_ms: int = 0
    next_due_ms: int | None = None
    revision: int = 0
    limit: int | None = None
    suspects: int = 0
    outbox: int = 0
    fence: int = 0
    nonce: int = 0
    messages: list[Claimed] = []

    def filled(self, room: int, max_bytes: int) -> bool:
        """Whether it brought all that was asked for, by number or by bytes: then there may be more."""
        return len(self.messages) >= room or sum(len(claimed.blob) for claimed in self.messages) >= max_bytes


class Settlement(msgspec.Struct, frozen=True):
    """How many were settled, and which (by index) were refused because their lease is not theirs any more."""

    settled: int
    refused: dict[int, Refusal]


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


class MessageStore:
    """The messages of every resource. Errors: the StoreError family; methods answer None for an unknown resource."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def send(
        self, resource: Resource, messages: Sequence[NewMessage], *, token: str, bucket: str, urgent: bool = False
    ) -> Stored | None:
        """Stores up to 1,000 messages in one step. The same token in the same bucket stores them once."""
        k = self._keys.of(resource)
        plain = all(message.plain for message in messages)
        arguments: list[Argument] = [
            *(token, k.wake, limits.SEND_TOKEN_MEMORY_S, limits.OWN_ID_MEMORY_MS),
            *("urgent" if urgent else "", "plain" if plain else "full"),
        ]
        if plain:
            arguments += [message.blob for message in messages]
        else:
            for message in messages:
                delay = "" if message.delay_ms is None else message.delay_ms
                arguments += (message.blob, delay, message.own_id, message.facts, message.size)
        keys = (k.ready, k.meta, k.tokens(bucket), k.delayed, k.bodies, k.facts, k.seen)
        reply = await self._runner.run("send", keys, arguments)
        match reply[0]:
            case b"stored":
                return Stored(reply[1].decode(), int(reply[2]), int(reply[3]))
            case b"unknown":
                return None
            case b"too_large":
                raise PayloadTooLarge(f'message {reply[1]} for {resource.kind} "{resource.name}"', reply[2], reply[3])
            case other:
                raise StoreFault(f"send answered {other!r}")

    async def claim(
        self,
        resource: Resource,
        *,
        token: str,
        lease_ms: int,
        room: int,
        mode: ClaimMode,
        max_bytes: int = limits.CLAIM_BYTES,
        sent_before_ms: int | None = None,
        wake: bool = False,
        max_crashes: int | None = None,
    ) -> Claim:
        """Leases up to ``room`` messages under the token. ``wake`` asks for a wake-up when there is more."""
        k = self._keys.of(resource)
        keys = (
            *(k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.meta),
            *(k.outbox, k.outgoing, k.permits),
        )
        arguments = (
            *(token, lease_ms, room, max_bytes, mode),
            *("" if sent_before_ms is None else sent_before_ms, "1" if wake else "0"),
            *(k.wake, "" if max_crashes is None else max_crashes),
        )
        reply = await self._runner.run("claim", keys, arguments)
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
        )

    async def release_claim(self, resource: Resource, token: str) -> int:
        """After a claim whose reply was lost: gives back whatever it leased. Answers how many."""
        k = self._keys.of(resource)
        keys = (k.ready, k.leases, k.waiting, k.bodies, k.facts, k.permits, k.meta)
        released = 0
        behind: tuple[Argument, Argument] = ("", "")
        while True:
            page = (token, _MEMBERS_A_CALL, k.wake, *behind)
            found, seen, *place = await self._runner.run("release_claim", keys, page)
            released += int(found)
            behind = (place[0], place[1])
            if int(seen) < _MEMBERS_A_CALL:
                return released

    async def finish(
        self,
        resource: Resource,
        members: Sequence[str],
        *,
        counter: str,
        onward: Iterable[Onward] = (),
        keep_permits: bool = False,
    ) -> Settlement:
        """Ends up to 1,000 leased messages for good, with what is to be sent on because of it.

        With ``keep_permits`` their permits stay taken: code that does not stop at its timeout still runs.
        """
        k = self._keys.of(resource)
        keys = (k.ready, k.leases, k.bodies, k.facts, k.notes, k.meta, k.outbox, k.outgoing, k.permits)
        entries = [member.partition("|")[0] for member in members]
        arguments: list[Argument] = [k.wake, _counted(counter, keep_permits), len(members), *members, *entries]
        for item in onward:
            arguments += (item.index + 1, item.suffix, item.record)
        return _settlement(await self._runner.run("finish", keys, arguments))

    async def defer(
        self, resource: Resource, deferrals: Sequence[Deferral], *, counter: str = "", keep_permits: bool = False
    ) -> Settlement:
        """Gives up to 1,000 leased messages back, each to be handed out when its delay is over."""
        k = self._keys.of(resource)
        keys = (k.ready, k.leases, k.waiting, k.bodies, k.facts, k.notes, k.meta, k.permits)
        arguments: list[Argument] = [k.wake, _counted(counter, keep_permits)]
        for item in deferrals:
            arguments += (item.member, item.delay_ms, 1 if item.adds_try else 0, item.note)
        return _settlement(await self._runner.run("defer", keys, arguments))

    async def extend(self, resource: Resource, members: Sequence[str], *, lease_ms: int) -> list[int]:
        """Moves the end of up to 1,000 leases to so long from now; answers the indexes of those that are lost."""
        k = self._keys.of(resource)
        lost = await self._runner.run("extend", (k.leases, k.permits, k.meta, k.wake), (lease_ms, *members))
        return [index - 1 for index in lost]

    async def notes(self, resource: Resource, entries: Sequence[str]) -> list[bytes | None]:
        """What the last try of each message answered, where it is kept."""
        k = self._keys.of(resource)
        return await self._runner.fetch("HMGET", k.notes, *entries)  # type: ignore[no-any-return]  # redis reply

    async def now_ms(self) -> int:
        """Redis's clock in milliseconds."""
        seconds, microseconds = await self._runner.fetch("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def counts(self, resource: Resource) -> Counts | None:
        """Exact numbers at this moment."""
        k = self._keys.of(resource)
        keys = (k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.outbox, k.permits, k.meta)
        reply = await self._runner.run("counts", keys, ())
        if reply[0] == b"unknown":
            return None
        fresh, due, in_flight, retrying, delayed, suspects, outbox, running, oldest = reply
        return Counts(
            visible=fresh + due,
            in_flight=in_flight,
            retrying=retrying,
            delayed=delayed,
            set_apart=suspects,
            outbox=outbox,
            running=running,
            oldest_ms=None if int(oldest) < 0 else int(oldest),
        )

    async def peek(self, resource: Resource, count: int, *, max_bytes: int = limits.CLAIM_BYTES) -> list[Peeked]:
        """Up to ``count`` (at most 1,000) messages, without leasing them."""
        k = self._keys.of(resource)
        keys = (k.ready, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.meta, k.leases)
        flat = await self._runner.run("peek", keys, (count, max_bytes))
        return [
            Peeked(
                flat[i].decode(), int(float(flat[i + 1])), flat[i + 2].decode(), flat[i + 3], Facts.parse(flat[i + 4])
            )
            for i in range(0, len(flat), 5)
        ]

    async def expire(self, resource: Resource, *, calls: int = 10) -> int:
        """Removes messages past the retention wherever they wait, not leased ones; answers how many.

        Each of at most ``calls`` script calls looks at the first 500 of each place: only a longer queue keeps some.
        """
        k = self._keys.of(resource)
        keys = (k.ready, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.notes, k.meta)
        removed = 0
        for _ in range(calls):
            page, status = await self._runner.run("expire", keys, (_LOOKED_AT_TO_EXPIRE, limits.MIB))
            removed += int(page)
            if status == b"through":
                break
        return removed

    async def purge(self, resource: Resource) -> int | None:
        """Throws all messages away, in flight too; answers how many."""
        k = self._keys.of(resource)
        keys = (k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.notes, k.meta)
        held = int(await self._runner.run("purge", keys, ()))
        return None if held < 0 else held


def _counted(counter: str, keep_permits: bool) -> str:  # noqa: FBT001 - spells one script argument
    return counter + ("+" if keep_permits else "")


def _settlement(reply: list[int | bytes]) -> Settlement:
    refused: dict[int, Refusal] = {}
    for i in range(1, len(reply), 2):
        index, why = reply[i], reply[i + 1]
        refused[int(index) - 1] = "fenced" if why == b"fenced" else "unknown"
    return Settlement(int(reply[0]), refused)
