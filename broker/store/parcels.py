"""Parcels: payloads too large for a channel wait under a key of their own that expires by itself."""

from __future__ import annotations

from typing import Final

from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner


class ParcelStore:
    """Stores and fetches parcels, tells inboxes. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def put(self, name: str, payload: bytes, *, ttl_ms: int) -> None:
        """Keeps a payload for so long."""
        await self._runner.fetch("SET", self._keys.parcel(name), payload, "PX", ttl_ms)

    async def take(self, name: str) -> bytes | None:
        """The payload, which is then gone; None where it has expired."""
        payload: bytes | None = await self._runner.fetch("GETDEL", self._keys.parcel(name))
        return payload

    async def read(self, name: str) -> bytes | None:
        """The payload, which stays until :meth:`drop`; so it can be read again where a reply was lost."""
        payload: bytes | None = await self._runner.fetch("GET", self._keys.parcel(name))
        return payload

    async def drop(self, name: str) -> None:
        """Frees what has been read."""
        await self._runner.fetch("UNLINK", self._keys.parcel(name))

    def inbox(self, process: str) -> str:
        """The channel of a process's inbox."""
        return self._keys.inbox(process)

    async def tell(self, process: str, notice: bytes) -> int:
        """Publishes to an inbox; answers how many were listening. May be heard twice, where the inbox is just opened or
        moves."""
        heard = int(await self._runner.fetch("PUBLISH", self._keys.inbox(process), notice))
        if heard or not await self._listening_elsewhere(process):
            return heard
        # Or not elsewhere, but here, and only since: then it has missed what was published before.
        return int(await self._runner.fetch("PUBLISH", self._keys.inbox(process), notice)) or 1

    async def listening(self, process: str) -> bool:
        """Whether anybody listens at an inbox."""
        reply = await self._runner.fetch("PUBSUB", "NUMSUB", self._keys.inbox(process))
        return bool(reply[1]) or await self._listening_elsewhere(process)

    async def _listening_elsewhere(self, process: str) -> bool:
        """Whether a listener of an inbox whose slot has just moved is still at another node. There, too, it hears what
        is published."""
        if not self._runner.link.spread:
            return False
        replies = await self._runner.fetch_everywhere("PUBSUB", "NUMSUB", self._keys.inbox(process))
        return any(count for _, count in replies)
