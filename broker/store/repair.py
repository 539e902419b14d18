"""Repair: finds messages that a broken-off script left in no set, and gives them a place again.

Redis does not roll a script back. The commands are ordered so that whatever one leaves behind is still in the stream
or in the hash of bodies; a consistent snapshot shows what is in neither set, and nothing else can touch such a message.
"""

from __future__ import annotations

from typing import Any, Final

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

_LOCK_S: Final = 60
_PAGE: Final = 1_000


class RepairStore:
    """Finds and restores stranded messages of a resource. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def repair(self, resource: Resource) -> int:
        """How many messages were restored; 0 where nothing is wrong or another process is at it."""
        k = self._keys.of(resource)
        if not await self._runner.fetch("SET", k.repair_lock, "1", "NX", "EX", _LOCK_S):
            return 0
        try:
            stranded = await self._stranded(resource)
            restored = 0
            for start in range(0, len(stranded), _PAGE):
                keys = (k.ready, k.waiting, k.bodies, k.facts, k.meta)
                restored += await self._runner.run("restore", keys, stranded[start : start + _PAGE])
            return restored
        finally:
            await self._runner.fetch("DEL", k.repair_lock)

    async def _stranded(self, resource: Resource) -> list[str]:
        k = self._keys.of(resource)
        cursor = await self._runner.fetch("HGET", k.meta, "cursor")
        # What stands behind this older cursor is a subset of what stands behind the one at the time of the snapshot.
        behind: list[Any]
        behind, bodies, leases, waiting, delayed, suspects = await self._runner.snapshot(
            ("XRANGE", k.ready, "-", cursor or "0-0"),
            ("HKEYS", k.bodies),
            ("ZRANGE", k.leases, 0, -1),
            ("ZRANGE", k.waiting, 0, -1),
            ("ZRANGE", k.delayed, 0, -1),
            ("ZRANGE", k.suspects, 0, -1),
        )
        placed = {member.split(b"|")[0] for member in leases} | set(waiting) | set(delayed) | set(suspects)
        entries = {found[0] for found in behind} | set(bodies)
        return sorted(entry.decode() for entry in entries - placed)
