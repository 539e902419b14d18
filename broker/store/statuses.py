"""States of single events of functions: packs the arguments of the scripts that look, cancel and await."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from broker.names import Resource
from broker.records import Facts
from broker.store.keys import Keyspace
from broker.store.scripts import Argument, ScriptRunner

EventPlace: TypeAlias = Literal["ready", "waiting", "delayed", "suspect", "leased"]
CancelStatus: TypeAlias = Literal["cancelled", "gone", "moved", "unknown"]
_CANCELLED: Final[dict[int, CancelStatus]] = {1: "cancelled", 0: "gone", -1: "moved", -2: "unknown"}


class EventKey(msgspec.Struct, frozen=True):
    """How an event is found: by the entry in its id, or by the id that its caller gave."""

    entry: str = ""
    own_id: str = ""
    nonce: str = ""
    """The random number in its id, '' for a caller's own."""

    @property
    def name(self) -> str:
        """Under which its end is kept."""
        return self.entry or f"={self.own_id}"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event is that has not ended. Times are Redis's, in milliseconds."""

    place: EventPlace
    entry: str
    due_ms: int | None
    facts_text: bytes
    note: bytes
    now_ms: int
    blob: bytes

    @property
    def facts(self) -> Facts | None:
        """Its counters; None where they are still at their usual first value."""
        return Facts.parse(self.facts_text) if self.facts_text else None


class StatusStore:
    """Looks at single events, takes them out, and notes who waits for an end. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def look(
        self, function: Resource, key: EventKey, *, with_body: bool = False
    ) -> Standing | bytes | Literal["gone", "unknown"]:
        """Where an event is, or its end as it is kept; ``gone`` when neither is known, ``unknown`` without such a
        function."""
        k = self._keys.of(function)
        keys = (
            *(k.ready, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.notes, k.meta, k.named),
            *(k.ended_1, k.ended_2),
        )
        arguments = (key.nonce, key.entry, key.own_id, "1" if with_body else "")
        reply = await self._runner.run("status", keys, arguments)
        match reply[0]:
            case b"unknown":
                return "unknown"
            case b"gone":
                return "gone"
            case b"ended":
                return bytes(reply[1])
        place, entry, due, facts, note, now, blob = reply
        return Standing(
            place=place.decode(),
            entry=entry.decode(),
            due_ms=int(float(due)) if due else None,
            facts_text=facts,
            note=note,
            now_ms=int(now),
            blob=blob,
        )

    async def lease_of(self, function: Resource, entry: str) -> tuple[str, int] | None:
        """The lease that an event is under: its name, and when it ends. Looks through all leases of the function."""
        key, cursor = self._keys.of(function).leases, b"0"
        while True:
            cursor, found = await self._runner.fetch("ZSCAN", key, cursor, "MATCH", f"{entry}|*", "COUNT", 1_000)
            if found:
                return found[0].decode(), int(float(found[1]))
            if cursor == b"0":
                return None

    async def cancel(
        self,
        function: Resource,
        seen: Standing,
        *,
        member: str = "",
        own_id: str = "",
        rest: bytes,
        onward: Sequence[tuple[str, bytes]] = (),
    ) -> CancelStatus:
        """Takes an event out for good, if it still stands as it was seen; with what is to be sent on because of it."""
        k = self._keys.of(function)
        keys = (
            *(k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.notes, k.meta, k.outbox),
            *(k.outgoing, k.groups, k.order, k.ended_1, k.ended_2, k.named, k.awaited),
        )
        arguments: list[Argument] = [seen.entry, member, seen.facts_text, own_id, rest, k.ended]
        for suffix, record in onward:
            arguments += (suffix, record)
        return _CANCELLED[await self._runner.run("cancel", keys, arguments)]

    async def await_end(self, function: Resource, name: str, *, for_ms: int) -> None:
        """Asks to be told on the channel ``ended`` when this event ends."""
        await self._runner.run("await_end", (self._keys.of(function).awaited,), (name, for_ms))

    async def forget(self, function: Resource) -> bool:
        """Throws away ends whose time is over, where nothing ends any more that would do it."""
        k = self._keys.of(function)
        return bool(await self._runner.run("forget_ends", (k.meta, k.ended_1, k.ended_2, k.named), ()))
