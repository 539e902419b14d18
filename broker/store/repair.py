"""Repair: finds messages that a broken-off script left in no set, and gives them a place again.

Redis does not roll a script back. The commands are ordered so that whatever one leaves behind is still in the stream
or in the hash of bodies, and what is there but in no set is found here; nothing else can touch such a message. Found
too is what was left over: copies, names and facts of messages that are elsewhere, or gone.

Everything is read in pages, so that Redis is never held for long, while others move messages from set to set. What was
there before and seen in no set is restored by a script that looks again: into all sets but the leases, whose members
nobody can name, and whether its facts are still those that were read before. That is enough. Who has been leased since
has other facts, as every lease but the first counts a receive in them. A first lease takes a message from `delayed` or
from `order`, perhaps from the one by way of the other; these are read in this order, and the leases last, so it was
seen on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

_LOCK_MS: Final = 60_000
_PAGE: Final = 200
_NAMES_PAGE: Final = 250
_VALUES_BYTES: Final = 256 * 1024
_FIRST_PAGE: Final = 16
_STREAM_PAGE: Final = 100


class _Findings(msgspec.Struct, frozen=True):
    stranded: list[tuple[bytes, bytes]]
    """With the facts that each had."""
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
                pairs = [value for pair in page for value in pair]
                restored += await self._runner.run("restore", keys, (len(page), *pairs))
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
        """What was there, then where everything is."""
        k = self._keys.of(resource)
        cursor = await self._runner.fetch("HGET", k.meta, "cursor") or b"0-0"
        facts = dict(await self._scan("HSCAN", k.facts))
        behind = await self._behind(k.ready, cursor)
        bodies, noted = await self._names(k.bodies), await self._names(k.notes)
        grouped = await self._names(k.groups)
        in_sets = await self._members(k.delayed)
        in_sets |= {member.rpartition(b" ")[2] for member in await self._members(k.order)}
        in_sets |= await self._members(k.waiting) | await self._members(k.suspects)
        leased = {member.partition(b"|")[0] for member in await self._members(k.leases)}
        stranded = (behind | bodies) - leased - in_sets
        passed = _position(cursor)
        left_over = {entry for entry in facts.keys() | noted if _position(entry) <= passed} - bodies - behind
        left_over |= (behind & bodies) | ((in_sets | grouped) - bodies)
        return _Findings([(entry, facts.get(entry, b"")) for entry in sorted(stranded)], sorted(left_over - stranded))

    # -- FIFO queues --------------------------------------------------------------------------------------------------

    async def _repair_groups(self, queue: Resource) -> int:
        """Bodies that have no place in their group, names without a body, groups that are in no set or in two."""
        k = self._keys.of(queue)
        keys = (*k.fifo(), k.delayed)
        group_of = dict(await self._scan("HSCAN", k.groups))
        bodies = await self._names(k.bodies)
        in_order = [member.split(b" ") for member in await self._members(k.order)]
        ordered = {entry: group for group, entry in in_order}
        opened, blocked, suspects = [await self._members(key) for key in (k.open, k.blocked, k.suspects)]
        waiting, delayed = [await self._members(key) for key in (k.waiting, k.delayed)]
        leased = {member.partition(b"|")[0] for member in await self._members(k.leases)}
        holders = await self._names(k.holders)
        counted = await self._names(k.facts) | await self._names(k.notes)
        named = {*group_of, *ordered, *holders, *waiting, *delayed, *leased, *counted}
        # The script looks at each again: what was on its way meanwhile is as it was.
        doubtful = (bodies - ordered.keys()) | (named - bodies) | (leased & waiting) | (holders - leased)
        restored = 0
        for page in _pages(sorted(doubtful)):
            pairs = [value for entry in page for value in (entry, group_of.get(entry) or ordered.get(entry) or b"")]
            restored += await self._runner.run("fifo_restore", keys, (k.wake, len(page), *pairs))
        for page in _pages(sorted({*ordered.values(), *opened, *blocked, *suspects})):
            await self._runner.run("fifo_restore", keys, (k.wake, 0, *page))
        return restored

    # -- reading in pages: what is there all the time is found, whatever else changes meanwhile ------------------------

    async def _scan(self, command: Literal["HSCAN", "ZSCAN"], key: str) -> Iterable[tuple[bytes, bytes]]:
        """Fields and values, or members and scores."""
        found: dict[bytes, bytes] = {}
        cursor: bytes | str = "0"
        while True:
            cursor, page = await self._runner.fetch(command, key, cursor, "COUNT", _NAMES_PAGE)
            found.update(zip(page[::2], page[1::2], strict=True))
            if cursor == b"0":
                return found.items()

    async def _members(self, key: str) -> set[bytes]:
        return {member for member, _ in await self._scan("ZSCAN", key)}

    async def _names(self, key: str) -> set[bytes]:
        """Of a hash whose values may be large: the larger they are, the smaller are the pages."""
        names = set[bytes]()
        cursor: bytes | str = "0"
        count = _FIRST_PAGE
        while True:
            cursor, size, *page = await self._runner.run("names", (key,), (cursor, count))
            names.update(page)
            if cursor == b"0":
                return names
            each = max(1, int(size) // max(1, len(page)))
            count = max(1, min(_NAMES_PAGE, count * 4, _VALUES_BYTES // each))

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
