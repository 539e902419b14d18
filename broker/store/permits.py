"""Permits: one a running call of a function, or a running batch of a mapping, so that limits hold over all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.parcels import ParcelStore
from broker.store.scripts import ScriptRunner

PERMIT_NOTICE: Final = b"permit"
"""What is published for whoever went without a permit."""
CallStatus = Literal["unknown", "paused", "throttled", "absent", "sent"]


class Grant(msgspec.Struct, frozen=True):
    """How many of the names asked for now hold a permit (None: there is no limit), and when the next one runs out."""

    status: Literal["ok", "unknown", "paused"]
    granted: int | None = None
    next_expiry_ms: int | None = None


class PermitStore:
    """Takes, renews and gives back permits. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace
        self._parcels: Final = ParcelStore(runner, keyspace)

    async def take_of_function(self, function: Resource, names: Sequence[str], *, permit_ms: int) -> Grant:
        """Permits of a function, under its registered concurrency limit."""
        k = self._keys.of(function)
        return _grant(await self._runner.run("take_permits", (k.permits, k.meta), ("", permit_ms, "", *names)))

    async def take_of_mapping(
        self, queue: Resource, function: str, names: Sequence[str], *, permit_ms: int, limit: int
    ) -> Grant:
        """Permits of a mapping, under its own ``max_concurrency``."""
        k = self._keys.of(queue)
        keys = (k.mapping_permits(function), k.meta)
        return _grant(await self._runner.run("take_permits", keys, (limit, permit_ms, function, *names)))

    async def release_of_function(self, function: Resource, names: Sequence[str]) -> None:
        """Gives permits of a function back."""
        k = self._keys.of(function)
        await self._runner.run("release_permits", (k.permits, k.meta), (k.wake, "", *names))

    async def release_of_mapping(self, queue: Resource, function: str, names: Sequence[str]) -> None:
        """Gives permits of a mapping back."""
        k = self._keys.of(queue)
        channel = k.mapping_wake(function)
        await self._runner.run("release_permits", (k.mapping_permits(function), k.meta), (channel, function, *names))

    async def call(
        self, function: Resource, *, call_id: str, permit_ms: int, process: str, notice: bytes
    ) -> CallStatus:
        """Takes the permit of a synchronous call and tells the worker's inbox: in one step, where both are on one
        server."""
        k = self._keys.of(function)
        inbox = "" if self._runner.link.spread else self._keys.inbox(process)
        reply: bytes = await self._runner.run(
            "call", (k.permits, k.meta), (call_id, permit_ms, inbox, b"" if self._runner.link.spread else notice)
        )
        status: CallStatus = reply.decode()  # type: ignore[assignment]  # the script answers these words only
        if status == "sent" and not inbox and not await self._parcels.tell(process, notice):
            await self.release_of_function(function, [call_id])
            return "absent"
        return status


def _grant(reply: list[int | bytes]) -> Grant:
    granted, expiry = int(reply[0]), int(float(reply[1]))
    if granted == -2:  # noqa: PLR2004 - the words of take_permits.lua
        return Grant("unknown")
    if granted == -3:  # noqa: PLR2004
        return Grant("paused")
    return Grant("ok", None if granted < 0 else granted, None if expiry < 0 else expiry)
