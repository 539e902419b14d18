"""Repair: finds messages that a broken-off script left in no set, and gives them a place again.

Redis does not roll a script back. The commands are ordered so that whatever one leaves behind is still in the stream
or in the hash of bodies, and what is there but in no set is found here; nothing else can touch such a message. Found
too is what was left over: copies, names and facts of messages that are elsewhere, or gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

_LOCK_MS: Final = 60_000
_PAGE: Final = 1_000
_STREAM_PAGE: Final = 100


class _Findings(msgspec.Struct, frozen=True):
    stranded: list[bytes]
    left_over: list[bytes]


class RepairStore:
    """Finds and restores stranded messages of a resource. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def repair(self, resource: Resource) -> int:
        """How many messages were restored; 0 where nothing is wrong or another process is at it."""
        k = self._keys.of(resource)
        if not await self._runner.run("take_turn", (k.repair_lock,), (_LOCK_MS,)):
            return 0
        try:
            if resource.fifo:
                return await self._repair_groups(resource)
            found = await self._look(resource)
            keys = (
                *(k.ready, k.waiting, k.bodies, k.facts, k.meta, k.delayed, k.suspects, k.notes),
                *(k.groups, k.order),
            )
            restored = 0
            for start in range(0, len(found.stranded), _PAGE):
                page = found.stranded[start : start + _PAGE]
                restored += await self._runner.run("restore", keys, (len(page), *page))
            for start in range(0, len(found.left_over), _PAGE):
                await self._runner.run("restore", keys, (0, *found.left_over[start : start + _PAGE]))
            return restored
        finally:
            await self._runner.fetch("DEL", k.repair_lock)

    async def stranded_at_least(self, resource: Resource) -> int:
        """How many messages are in no set, at least: by numbers alone, without looking at any of them.

        What is leased may be in the stream or in the hash, so with leases some may hide.
        """
        k = self._keys.of(resource)
        fetch = self._runner.fetch
        bodies = int(await fetch("HLEN", k.bodies))
        if not bodies:
            return 0
        places = (k.order,) if resource.fifo else (k.leases, k.waiting, k.delayed, k.suspects, k.order)
        return max(0, bodies - sum([int(await fetch("ZCARD", key)) for key in places]))

    async def _look(self, resource: Resource) -> _Findings:
        """What was there, then where everything is.

        A message that was there before, is in no set, and still exists when the script looks again is stranded: ids
        are never used twice, and nothing moves a message that has no place.
        """
        k = self._keys.of(resource)
        cursor = await self._runner.fetch("HGET", k.meta, "cursor") or b"0-0"
        behind = await self._behind(k.ready, cursor)
        bodies = set(await self._runner.fetch("HKEYS", k.bodies))
        counted = {entry for key in (k.facts, k.notes) for entry in await self._runner.fetch("HKEYS", key)}
        grouped = set(await self._runner.fetch("HKEYS", k.groups))
        places = (k.leases, k.waiting, k.delayed, k.suspects, k.order)
        leases, *sets, in_turn = await self._runner.run("places", places, ())
        leased, in_sets = {member.partition(b"|")[0] for member in leases}, {entry for found in sets for entry in found}
        in_sets |= {member.rpartition(b" ")[2] for member in in_turn}
        stranded = (behind | bodies) - leased - in_sets
        passed = _position(cursor)
        left_over = {entry for entry in counted if _position(entry) <= passed} - bodies - behind
        left_over |= (behind & bodies) | ((in_sets | grouped) - bodies)
        return _Findings(sorted(stranded), sorted(left_over - stranded))

    # -- FIFO queues --------------------------------------------------------------------------------------------------

    async def _repair_groups(self, queue: Resource) -> int:
        """Bodies that have no place in their group, names without a body, groups that are in no set or in two."""
        k = self._keys.of(queue)
        keys = (*k.fifo(), k.delayed)
        group_of = await self._hash(k.groups)
        bodies = set(await self._runner.fetch("HKEYS", k.bodies))
        places = (k.order, k.open, k.blocked, k.suspects, k.waiting, k.delayed, k.leases)
        order, opened, blocked, suspects, waiting, delayed, leases = await self._runner.run("places", places, ())
        in_order = [member.split(b" ") for member in order]
        ordered = {entry: group for group, entry in in_order}
        holders = await self._hash(k.holders)
        leased = {member.partition(b"|")[0] for member in leases}
        counted = [entry for key in (k.facts, k.notes) for entry in await self._runner.fetch("HKEYS", key)]
        named = {*group_of, *ordered, *holders, *waiting, *delayed, *leased, *counted}
        doubtful = (bodies - ordered.keys()) | (named - bodies) | (leased & set(waiting)) | (holders.keys() - leased)
        restored = 0
        for page in _pages(sorted(doubtful)):
            pairs = [value for entry in page for value in (entry, group_of.get(entry) or ordered.get(entry) or b"")]
            restored += await self._runner.run("fifo_restore", keys, (k.wake, len(page), *pairs))
        for page in _pages(sorted({*ordered.values(), *opened, *blocked, *suspects})):
            await self._runner.run("fifo_restore", keys, (k.wake, 0, *page))
        return restored

    async def _hash(self, key: str) -> dict[bytes, bytes]:
        flat = await self._runner.fetch("HGETALL", key)
        return {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}

    async def _behind(self, ready: str, cursor: bytes) -> set[bytes]:
        """What the stream holds up to the cursor; in small pages, as the bodies come along."""
        entries, after = set[bytes](), "-"
        while page := await self._runner.fetch("XRANGE", ready, after, cursor, "COUNT", _STREAM_PAGE):
            entries.update(entry for entry, _ in page)
            after = f"({page[-1][0].decode()}"
        return entries


def _pages(names: list[bytes]) -> Iterator[list[bytes]]:
    return (names[start : start + _PAGE] for start in range(0, len(names), _PAGE))


def _position(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
