"""The outbox of a resource: what its messages send on, kept in its own slot until the target has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from broker import limits
from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import Argument, ScriptRunner


class OutboxEntry(msgspec.Struct, frozen=True):
    """One thing to send on: its name, unique in its resource, and the stored record."""

    name: str
    record: bytes


class OutboxSettlement(msgspec.Struct, frozen=True):
    """What became of an attempt: delivered (no delay), or to be tried again, perhaps with another record."""

    name: str
    retry_in_ms: int | None = None
    record: bytes = b""


class OutboxStore:
    """Takes and settles outbox entries. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def take(self, resource: Resource, *, room: int, hold_ms: int) -> list[OutboxEntry]:
        """What is due, for one relay; others may try again after ``hold_ms``."""
        k = self._keys.of(resource)
        flat = await self._runner.run("take_outbox", (k.outbox, k.outgoing), (room, hold_ms, limits.CLAIM_BYTES))
        return [OutboxEntry(flat[i].decode(), flat[i + 1]) for i in range(0, len(flat), 2)]

    async def settle(self, resource: Resource, settlements: Sequence[OutboxSettlement]) -> None:
        """Removes what is delivered and puts off the rest."""
        k = self._keys.of(resource)
        arguments: list[Argument] = []
        for item in settlements:
            arguments += (item.name, "" if item.retry_in_ms is None else item.retry_in_ms, item.record)
        await self._runner.run("settle_outbox", (k.outbox, k.outgoing), arguments)

    async def late_ms(self, resource: Resource, now_ms: int) -> int:
        """For how long what is due first has been due; 0 where nothing is."""
        first = await self._runner.fetch("ZRANGE", self._keys.of(resource).outbox, 0, 0, "WITHSCORES")
        return max(0, now_ms - int(float(first[1]))) if first else 0

    async def entries(self, resource: Resource, count: int) -> list[OutboxEntry]:
        """A look at what is waiting to be sent on, soonest first."""
        k = self._keys.of(resource)
        names = await self._runner.fetch("ZRANGE", k.outbox, 0, count - 1)
        if not names:
            return []
        records = await self._runner.fetch("HMGET", k.outgoing, *names)
        return [OutboxEntry(name.decode(), record) for name, record in zip(names, records, strict=True) if record]
