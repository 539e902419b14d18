"""What exists: resources and their settings, mappings, live workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from broker.ids import new_nonce
from broker.names import Kind, Resource
from broker.store.keys import Keyspace
from broker.store.scripts import Argument, ScriptRunner
from broker.store.splits import Splits

ConfigureMode: TypeAlias = Literal["ensure", "create", "replace"]
_DIRECTORY_OF: Final[dict[Kind, str]] = {"queue": "queues", "function": "functions", "stream": "streams"}


class Configured(msgspec.Struct, frozen=True):
    """What a configuration did, and the settings from before (None where there were none)."""

    status: Literal["created", "same", "kept", "changed", "gone"]
    """``kept``: it is there, and was left as it is; ``gone``: one of that name was deleted too recently."""
    before: bytes | None


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as the scripts see it: its settings, random number, times and counters."""

    settings: bytes
    nonce: int
    created_ms: int
    changed_ms: int
    """When its settings were last changed; its creation where they never were."""
    revision: int
    implied: bool
    held: bool
    counters: dict[str, int]
    partitions: int = 1
    past: str = ""
    """How many partitions there were before, as it is stored."""


_GONE_REMEMBERED_MS: Final = 600_000
_PART_GONE_MS: Final = 60_000  # longer than it takes to read settings and write them to a partition
COUNTERS: Final = (
    "sent",
    "done",
    "failed",
    "retried",
    "released",
    "expired",
    "dead",
    "deleted",
    "purged",
    "restored",
    "moved",
    "filtered",
    "cancelled",
    "throttled",
)
"""What scripts count of a resource, and keep with it."""


class DirectoryStore:
    """Creates, lists, describes and deletes. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace, splits: Splits | None = None) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace
        self._splits: Final = Splits() if splits is None else splits
        self._nonces: Final[dict[Resource, int]] = {}
        self._scopes: Final[set[tuple[str, str]]] = set()

    async def configure(
        self,
        resource: Resource,
        settings: bytes,
        fields: Mapping[str, str],
        *,
        mode: ConfigureMode,
        implied: bool = False,
        instead_of: bytes = b"",
        gone_ms: int = 0,
    ) -> Configured:
        """Creates the resource or changes its settings; ``fields`` are those that scripts read ('' removes one).

        With ``instead_of`` only where those are (still) the settings. For ``gone_ms`` after its deletion a name is not
        free.
        """
        k = self._keys.of(resource)
        # Listed first: a listed resource without settings is harmless, one with settings that nobody lists is not. Only
        # where the name may not be free yet, that is found out before.
        listed = not gone_ms or not await self._runner.fetch("EXISTS", k.gone)
        if listed:
            await self._list(resource)
        arguments: list[Argument] = [
            *(mode, resource.kind, settings, new_nonce(), "1" if implied else "0", k.wake, instead_of, gone_ms),
        ]
        for field, value in fields.items():
            arguments += (field, value)
        status, before = await self._runner.run("configure", (k.meta, k.gone), arguments)
        if not listed and status != b"gone":
            await self._list(resource)
        return Configured(status.decode(), before or None)

    async def _list(self, resource: Resource) -> None:
        key = self._keys.directory(_DIRECTORY_OF[resource.kind])
        scope = resource.account, resource.region
        if scope not in self._scopes:
            await self._runner.run("enlist", (self._keys.upkeep("scopes"),), (":".join(scope), "1", "new"))
            self._scopes.add(scope)
        await self._runner.run("enlist", (key,), (resource.name, "1", "new"))

    async def scopes(self) -> list[tuple[str, str]]:
        """Every account and region in which something was ever made, sorted."""
        found = await self._runner.fetch("HKEYS", self._keys.upkeep("scopes"))
        return sorted((account, region) for account, _, region in (name.decode().partition(":") for name in found))

    async def names(self, kind: Kind) -> list[str]:
        """The names of all resources of a kind, sorted."""
        found = await self._runner.fetch("HKEYS", self._keys.directory(_DIRECTORY_OF[kind]))
        return sorted(name.decode() for name in found)

    async def describe(self, resource: Resource) -> Described | None:
        """Settings and counters of one resource; None where it does not exist."""
        flat = await self._runner.fetch("HGETALL", self._keys.of(resource).meta)
        found = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
        if "kind" not in found:
            return None
        nonce = int(found["nonce"])
        self._nonces[resource] = nonce
        self._splits.heard(resource, found.get("partitions"))
        return Described(
            settings=found["settings"],
            nonce=nonce,
            created_ms=int(found["created_ms"]),
            changed_ms=int(found.get("changed_ms", found["created_ms"])),
            revision=int(found.get("revision", 0)),
            implied=found.get("implied") == b"1",
            held=found.get("held") == b"1",
            counters={name: int(found.get(name, 0)) for name in COUNTERS},
            partitions=int(found.get("partitions", 1)),
            past=found.get("past", b"").decode(),
        )

    async def nonce(self, resource: Resource) -> int | None:
        """The resource's random number, which is part of its message ids; None where it does not exist."""
        known = self._nonces.get(resource)
        if known is not None:
            return known
        described = await self.describe(resource)
        return described.nonce if described else None

    async def note_nonce(self, function: Resource) -> None:
        """Lists a function by its random number, so that an id of one of its events finds it."""
        nonce = await self.nonce(function)
        if nonce is not None:
            await self._runner.run("enlist", (self._keys.directory("nonces"),), (str(nonce), function.name))

    async def function_of(self, nonce: int) -> str | None:
        """The name of the function whose ids hold this random number; None where there is none."""
        name: bytes | None = await self._runner.fetch("HGET", self._keys.directory("nonces"), str(nonce))
        return name.decode() if name else None

    def forget(self, resource: Resource) -> None:
        """Drops what was remembered of a resource that may have been deleted and made again."""
        self._nonces.pop(resource, None)

    async def delete(self, resource: Resource, *, force: bool) -> tuple[Literal["deleted", "unknown", "busy"], int]:
        """Removes a resource (its first partition: the others go before, by :meth:`delete_part`); without ``force``
        only an empty one. Answers how many messages it held.
        """
        k = self._keys.of(resource)
        arguments = ("force" if force else "", k.wake, _GONE_REMEMBERED_MS, "")
        nonce = await self.nonce(resource) if resource.kind == "function" else None
        status, held = await self._runner.run("delete", (*k.every(), k.gone), arguments)
        word: Literal["deleted", "unknown", "busy"] = status.decode()
        if word != "busy" and nonce is not None:
            await self._runner.run("delist", (self._keys.directory("nonces"),), (str(nonce), resource.name))
        if word != "busy":
            await self._runner.fetch("HDEL", self._keys.directory(_DIRECTORY_OF[resource.kind]), resource.name)
            self.forget(resource)
        return word, held

    async def delete_part(self, part: Resource, nonce: int, *, force: bool) -> tuple[bool, int]:
        """Removes a partition that is not the first, so that for a minute nobody makes it anew who has not heard;
        without ``force`` only an empty one. Answers whether it is gone, and how many messages it held.
        """
        k = self._keys.of(part)
        arguments = ("force" if force else "", k.wake, _PART_GONE_MS, nonce)
        status, held = await self._runner.run("delete", (*k.every(), k.gone), arguments)
        return status != b"busy", held

    async def hold(self, function: Resource, *, held: bool) -> bool:
        """Pauses a function, or ends that pause; False where it does not exist."""
        k = self._keys.of(function)
        return bool(await self._runner.run("hold", (k.meta,), ("1" if held else "", k.wake)))

    # -- mappings -----------------------------------------------------------------------------------------------------

    async def put_mapping(
        self, name: str, settings: bytes, *, queue: Resource, instead_of: bytes = b"", new: bool = False
    ) -> bytes | None:
        """Stores a mapping of a queue and tells its pollers; answers what was there before. With ``instead_of`` only
        where that is (still) what is stored, ``new`` only where nothing is."""
        key = self._keys.directory("mappings")
        arguments = (name, settings, "new" if new else "", instead_of)
        before: bytes | None = await self._runner.run("enlist", (key,), arguments)
        if before != settings:
            await self._tell_of_mapping(name, queue)
        return before

    async def rename_mapping(
        self, name: str, new_name: str, settings: bytes, *, queue: Resource, instead_of: bytes
    ) -> bool:
        """Stores a mapping under another name in one step, where ``instead_of`` is what is stored and the new name is
        free; whether it was."""
        key = self._keys.directory("mappings")
        moved = bool(await self._runner.run("rename", (key,), (name, instead_of, new_name, settings)))
        if moved:
            await self._tell_of_mapping(name, queue)
            await self._tell_of_mapping(new_name, queue)
        return moved

    async def mappings(self) -> dict[str, bytes]:
        """All mappings, by name."""
        flat = await self._runner.fetch("HGETALL", self._keys.directory("mappings"))
        return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    async def mapping(self, name: str) -> bytes | None:
        """One mapping; None where there is none of that name."""
        found: bytes | None = await self._runner.fetch("HGET", self._keys.directory("mappings"), name)
        return found

    async def delete_mapping(self, name: str, *, queue: Resource) -> bool:
        """Removes a mapping and tells its pollers; False where there was none."""
        deleted = bool(await self._runner.fetch("HDEL", self._keys.directory("mappings"), name))
        await self._tell_of_mapping(name, queue)
        return deleted

    async def _tell_of_mapping(self, name: str, queue: Resource) -> None:
        await self._runner.fetch("PUBLISH", self._keys.of(queue).wake, "settings")
        await self._runner.fetch("PUBLISH", self._keys.mappings_channel, name)

    # -- versions and aliases -----------------------------------------------------------------------------------------

    async def catalogue(self, function: str) -> bytes | None:
        """The versions and aliases of a function; None where it never had any."""
        found: bytes | None = await self._runner.fetch("HGET", self._keys.directory("versions"), function)
        return found

    async def catalogues(self) -> dict[str, bytes]:
        """Those of all functions that have any, by name."""
        flat = await self._runner.fetch("HGETALL", self._keys.directory("versions"))
        return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    async def put_catalogue(self, function: str, catalogue: bytes, *, instead_of: bytes | None) -> bool:
        """Stores them where that is (still) what is stored, None for nothing; whether it was."""
        key = self._keys.directory("versions")
        arguments = (function, catalogue, "new" if instead_of is None else "", instead_of or b"")
        before: bytes | None = await self._runner.run("enlist", (key,), arguments)
        return before == instead_of

    async def drop_catalogue(self, function: str) -> None:
        """Forgets all versions and aliases of a function."""
        await self._runner.fetch("HDEL", self._keys.directory("versions"), function)

    async def tell_of_versions(self, function: str) -> None:
        """Lets workers look at the versions and aliases of a function again."""
        await self._runner.fetch("PUBLISH", self._keys.versions_channel, function)

    # -- live workers -------------------------------------------------------------------------------------------------

    async def heartbeat(self, process: str, serves: bytes, *, ttl_ms: int) -> list[str]:
        """Says that a worker lives; 0 says that it leaves. Answers processes found gone without a word."""
        keys = (self._keys.workers("live"), self._keys.workers("info"))
        gone = await self._runner.run("heartbeat", keys, (process, ttl_ms, serves))
        return [name.decode() for name in gone]

    async def live_workers(self) -> dict[str, bytes]:
        """What each worker serves whose last sign of life still counts."""
        flat = await self._runner.run("live_workers", (self._keys.workers("live"), self._keys.workers("info")), ())
        return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    async def known_workers(self) -> dict[str, bytes]:
        """What each worker serves that is known, also one that has been silent for too long and not been forgotten."""
        flat = await self._runner.fetch("HGETALL", self._keys.workers("info"))
        return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    async def record_end(self, process: str, cause: str) -> None:
        """Keeps for a day why a worker process ended, for events that it took with it."""
        key = f"{self._keys.workers('ends')}:{process}"
        await self._runner.fetch("SET", key, cause, "EX", 86_400)

    async def end_of(self, process: str) -> str | None:
        """Why a worker process ended, where somebody saw it."""
        cause: bytes | None = await self._runner.fetch("GET", f"{self._keys.workers('ends')}:{process}")
        return cause.decode() if cause else None

    # -- locks --------------------------------------------------------------------------------------------------------

    async def take_turn(self, what: str, *, for_ms: int, everywhere: bool = False) -> bool:
        """Whether this process may do a chore that one process at a time should do, for so long; in this account and
        region, or ``everywhere``."""
        key = f"{self._keys.upkeep('turn') if everywhere else self._keys.workers('turn')}:{what}"
        return bool(await self._runner.run("take_turn", (key,), (for_ms,)))
