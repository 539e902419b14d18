"""Repair: finds messages that a broken-off script left in no set, and gives them a place again.

Redis does not roll a script back. The commands are ordered so that whatever one leaves behind is still in the stream
or in the hash of bodies; a consistent snapshot shows what is in neither set, and nothing else can touch such a message.
The same snapshot shows what was left over: copies, names and facts of messages that are elsewhere, or gone.
"""

from __future__ import annotations

from typing import Final

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

_LOCK_MS: Final = 60_000
_PAGE: Final = 1_000


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
            found = await self._look(resource)
            keys = (k.ready, k.waiting, k.bodies, k.facts, k.meta, k.delayed, k.suspects, k.notes)
            restored = 0
            for start in range(0, len(found.stranded), _PAGE):
                page = found.stranded[start : start + _PAGE]
                restored += await self._runner.run("restore", keys, (len(page), *page))
            for start in range(0, len(found.left_over), _PAGE):
                await self._runner.run("restore", keys, (0, *found.left_over[start : start + _PAGE]))
            return restored
        finally:
            await self._runner.fetch("DEL", k.repair_lock)

    async def _look(self, resource: Resource) -> _Findings:
        k = self._keys.of(resource)
        cursor = await self._runner.fetch("HGET", k.meta, "cursor") or b"0-0"
        # What stands behind this older cursor is a subset of what stands behind the one at the time of the snapshot.
        replies = await self._runner.snapshot(
            ("XRANGE", k.ready, "-", cursor),
            ("HKEYS", k.bodies),
            ("ZRANGE", k.leases, 0, -1),
            ("ZRANGE", k.waiting, 0, -1),
            ("ZRANGE", k.delayed, 0, -1),
            ("ZRANGE", k.suspects, 0, -1),
            ("HKEYS", k.facts),
            ("HKEYS", k.notes),
        )
        behind = {entry for entry, _ in replies[0]}
        bodies, in_sets = set(replies[1]), {*replies[3], *replies[4], *replies[5]}
        leased = {member.partition(b"|")[0] for member in replies[2]}
        passed = _position(cursor)
        left_over = {entry for entry in {*replies[6], *replies[7]} if _position(entry) <= passed} - bodies - behind
        left_over |= (behind & bodies) | (in_sets - bodies)
        stranded = (behind | bodies) - leased - in_sets
        return _Findings(sorted(stranded), sorted(left_over - stranded))


def _position(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
