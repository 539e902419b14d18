"""Streams as an append-only log: any Redis client can follow the key with XREAD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from broker import limits
from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.lanes import RunsScripts
from broker.store.scripts import Argument, ScriptRunner
from broker.store.values import DurabilityRequired


class NewRecord(msgspec.Struct, frozen=True):
    """A record to append, with the id it carries and, where a repeat must be recognised, the caller's own id."""

    id: str
    body: bytes
    own_id: str = ""


class LogEntry(msgspec.Struct, frozen=True):
    """One record of a log: its position and the fields ``id`` and ``record``."""

    position: str
    id: str
    body: bytes


class LogStore:
    """Appends to and reads logs. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def append(
        self,
        stream: Resource,
        records: Sequence[NewRecord],
        *,
        urgent: bool = False,
        made_sure_of: str = "",
        runs: RunsScripts | None = None,
    ) -> list[str] | None:
        """Positions of the appended records ('' for a repeat); None for an unknown stream. Raises
        DurabilityRequired, as :meth:`broker.store.messages.MessageStore.send` does."""
        k = self._keys.of(stream)
        arguments: list[Argument] = [limits.OWN_ID_MEMORY_MS, "urgent" if urgent else "", made_sure_of]
        for record in records:
            arguments += (record.own_id, record.id, record.body)
        reply = await (runs or self._runner).run("append", (k.log, k.meta, k.seen), arguments)
        if reply[0] == b"durability":
            raise DurabilityRequired(reply[1].decode())
        return None if reply[0] == b"unknown" else [position.decode() for position in reply[1:]]

    async def read(self, stream: Resource, *, after: str, count: int) -> list[LogEntry]:
        """Up to ``count`` records behind a position (``"0"`` is the beginning), oldest first."""
        found = await self._runner.fetch("XRANGE", self._keys.of(stream).log, f"({after}", "+", "COUNT", count)
        entries = []
        for position, flat in found or []:
            fields = {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
            entries.append(LogEntry(position.decode(), fields[b"id"].decode(), fields[b"record"]))
        return entries

    async def length(self, stream: Resource) -> int:
        """How many records the log holds."""
        return int(await self._runner.fetch("XLEN", self._keys.of(stream).log))
