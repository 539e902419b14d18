"""Partitions: the settings of the first one are in force, the others have copies, which follow.

A copy that is behind, or missing, after a crash in between is brought up to date by whoever comes upon it, and by the
upkeep. Nothing relies on all having changed at once, but the ids of callers: see :meth:`PartitionStore.places`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias
from zlib import crc32

import msgspec

from broker import limits
from broker.ids import mark_of
from broker.names import Kind, Resource
from broker.store.keys import Keyspace
from broker.store.scripts import Argument, ScriptRunner
from broker.store.splits import Splits

Adopted: TypeAlias = Literal["adopted", "same", "gone"]
_ADOPTED: Final[dict[int, Adopted]] = {1: "adopted", 0: "same", -1: "gone"}
_LISTED: Final = "partitioned"
_PAST_MS: Final = limits.OWN_ID_MEMORY_MS + 120_000  # longer than ids are remembered, as growing takes a while
_OF_ONE: Final = frozenset(
    {
        *("adopted", "asleep", "cancelled", "cursor", "dead", "deleted", "done", "ended_turn", "expired", "failed"),
        *("fence", "filtered", "last_ms", "last_seq", "marked", "moved", "nonce", "purged", "purged_ms", "released"),
        *("restored", "retried", "revision", "sent", "starved", "turn"),
    }
)
"""The fields of a partition's meta that are its own; all others are settings."""


class _Past(msgspec.Struct, frozen=True):
    count: int
    """That was in force when this was read."""
    earlier: list[tuple[int, float]]
    """Numbers of partitions there were, each until when (monotonic) ids that were sent then may be remembered."""


class PartitionStore:
    """Makes and follows partitions. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace, splits: Splits) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace
        self._splits: Final = splits
        self._past: Final[dict[Resource, _Past]] = {}

    async def parts(self, whole: Resource) -> list[Resource]:
        """All partitions, by what Redis says now; the resource alone where it is not split, or does not exist."""
        told = await self._runner.fetch("HGET", self._keys.of(whole).meta, "partitions")
        self._splits.heard(whole, told)
        return self._splits.parts(whole)

    # -- settings -----------------------------------------------------------------------------------------------------

    async def adopt(self, whole: Resource) -> int:
        """Brings all partitions up to date with the first one; answers how many were not."""
        meta = await self._meta(whole)
        if "kind" not in meta:
            return 0
        parts = whole.parts(int(meta.get("partitions", 1)))[1:]
        done = await asyncio.gather(*(self._adopt(part, meta) for part in parts))
        return done.count("adopted")

    async def adopt_one(self, part: Resource) -> Adopted:
        """Brings one partition up to date; ``gone`` where there is no such partition (any more)."""
        meta = await self._meta(part.whole)
        if "kind" not in meta or part.partition >= int(meta.get("partitions", 1)):
            return "gone"
        return await self._adopt(part, meta)

    async def reopen(self, whole: Resource) -> None:
        """After a deletion that did not come to its end: what is gone of it comes back at once, empty."""
        for part in self._splits.parts(whole)[1:]:
            await self._runner.fetch("DEL", self._keys.of(part).gone)
        await self.adopt(whole)

    async def _meta(self, whole: Resource) -> dict[str, bytes]:
        flat = await self._runner.fetch("HGETALL", self._keys.of(whole).meta)
        meta = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
        self._splits.heard(whole, meta.get("partitions"))
        return meta

    async def _adopt(self, part: Resource, meta: dict[str, bytes]) -> Adopted:
        k, nonce = self._keys.of(part), int(meta["nonce"])
        keys = (k.meta, k.gone, *(key for key in k.every() if key != k.meta))
        arguments: list[Argument] = [nonce, mark_of(nonce, part.partition), meta.get("revision", b"0"), k.wake]
        for field in sorted(meta.keys() - _OF_ONE):
            arguments += (field, meta[field])
        return _ADOPTED[await self._runner.run("adopt", keys, arguments)]

    # -- callers' own ids ---------------------------------------------------------------------------------------------

    async def places(self, whole: Resource, own_ids: Sequence[str]) -> list[int]:
        """The partition of each id, so that its repetition meets it.

        After growing, an id that may be remembered elsewhere is looked for there first. Exact, because who looks makes
        sure before that nobody can be accepted there any more who does not know of the growing.
        """
        count = self._splits.count(whole)
        found = [partition_of_id(own_id, count) for own_id in own_ids]
        for earlier in await self._earlier(whole, count):
            elsewhere: dict[int, list[int]] = {}
            for index, own_id in enumerate(own_ids):
                partition = partition_of_id(own_id, earlier)
                if partition != partition_of_id(own_id, count):
                    elsewhere.setdefault(partition, []).append(index)
            for partition, indexes in elsewhere.items():
                remembered = await self._remembered(whole.part(partition), [own_ids[index] for index in indexes], count)
                for index, there in zip(indexes, remembered, strict=True):
                    found[index] = partition if there else found[index]
        return found

    async def _earlier(self, whole: Resource, count: int) -> list[int]:
        past = self._past.get(whole)
        if past is None or past.count != count:
            told, text = await self._runner.fetch("HMGET", self._keys.of(whole).meta, "partitions", "past")
            now_ms, now = int(await self._runner.run("now", (), ())), time.monotonic()
            earlier = [
                (one, now + (until_ms + _PAST_MS - now_ms) / 1000)
                for one, until_ms in _read_past((text or b"").decode())
            ]
            past = self._past[whole] = _Past(int(told or 1), earlier)
        now = time.monotonic()
        return [one for one, until in past.earlier if until > now]

    async def _remembered(self, part: Resource, own_ids: Sequence[str], count: int) -> list[bool]:
        k = self._keys.of(part)
        if int(await self._runner.fetch("HGET", k.meta, "partitions") or 1) != count:
            await self.adopt_one(part)
        now_ms = int(await self._runner.run("now", (), ()))
        scores = await self._runner.fetch("ZMSCORE", k.seen, *own_ids)
        return [score is not None and float(score) > now_ms for score in scores]

    # -- which are split ----------------------------------------------------------------------------------------------

    async def enlist(self, whole: Resource, count: int) -> None:
        """Lists a resource that is split, or about to be, for the upkeep."""
        key = self._keys.directory(_LISTED)
        await self._runner.run("enlist", (key,), (f"{whole.kind}:{whole.name}", str(count), "", ""))

    async def delist(self, whole: Resource) -> None:
        """Takes it from the list."""
        await self._runner.fetch("HDEL", self._keys.directory(_LISTED), f"{whole.kind}:{whole.name}")

    async def listed(self) -> dict[tuple[Kind, str], int]:
        """Kind and name of all that is split, or was about to be, in this account and region, and into how many."""
        flat = await self._runner.fetch("HGETALL", self._keys.directory(_LISTED))
        found: dict[tuple[Kind, str], int] = {}
        for at in range(0, len(flat), 2):
            kind, _, name = flat[at].decode().partition(":")
            found[kind, name] = int(flat[at + 1])
        return found


def grown(past: str, before: int, *, now_ms: int) -> str:
    """How many partitions there were, each until when, after one more growing."""
    kept = [f"{count}:{until_ms}" for count, until_ms in _read_past(past) if until_ms + _PAST_MS > now_ms]
    return ",".join((*kept, f"{before}:{now_ms}"))


def partition_of_id(own_id: str, count: int) -> int:
    """The partition that a caller's own id picks, of so many."""
    return crc32(own_id.encode()) % count


def _read_past(text: str) -> list[tuple[int, int]]:
    """Numbers of partitions, each with the milliseconds until when it was in force."""
    pairs = (one.split(":") for one in text.split(",") if one)
    return [(int(count), int(until_ms)) for count, until_ms in pairs]
