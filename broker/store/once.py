"""What is to run once under a key: who runs it, and the result that it had."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

Begun: TypeAlias = Literal["begun", "running", "done", "other", "gone"]


class Beginning(msgspec.Struct, frozen=True):
    """What was found: it is ours to run, runs elsewhere, has a result, or was used with another payload."""

    status: Begun
    result: bytes = b""
    """JSON of the kept result; empty where it was too large."""
    size: int = 0
    """Bytes of the result, kept or not."""


class OnceStore:
    """Begins, renews and ends runs under keys of a function. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def begin(
        self, function: Resource, digest: str, *, owner: str, payload: str, lease_ms: int, renews: bool = False
    ) -> Beginning:
        """Takes the key for so long, unless somebody has it or its result is kept. With ``renews`` it only keeps what
        it has."""
        record = self._keys.of(function).once(digest)
        arguments = (owner, lease_ms, payload, "1" if renews else "")
        status, *found = await self._runner.run("begin_once", (record,), arguments)
        if status == b"done":
            return Beginning("done", found[0], int(found[1]))
        return Beginning(status.decode())

    async def keep(
        self, function: Resource, digest: str, *, owner: str, result: bytes, size: int, keep_ms: int
    ) -> bool:
        """Keeps the result for so long. False: somebody else has begun meanwhile, and nothing was kept."""
        record = self._keys.of(function).once(digest)
        return bool(await self._runner.run("end_once", (record,), (owner, keep_ms, result, size)))

    async def free(self, function: Resource, digest: str, *, owner: str) -> bool:
        """Gives the key back without a result."""
        record = self._keys.of(function).once(digest)
        return bool(await self._runner.run("end_once", (record,), (owner, "", "", "0")))
