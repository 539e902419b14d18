"""The whole look: asks the server, then every account's queues, functions, streams and mappings, a few at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

import msgspec

from broker.core import Core
from broker.doctor.findings import Finding
from broker.doctor.resource_checks import (
    Seen,
    durability_finding,
    mapping_finding,
    resource_findings,
    see,
)
from broker.doctor.server_checks import Rights, ServerFacts, server_findings
from broker.errors import StoreDenied, StoreFault
from broker.names import Kind, Resource
from broker.records import MappingSettings
from broker.store.connection import Execute
from broker.store.durable import ServerState
from broker.store.rights import lacking, may, too_much
from broker.store.server import read_info
from broker.workers import live_workers

T = TypeVar("T")
Progress: TypeAlias = Callable[[str], None]
_LOOKS: Final = 20
_AT_ONCE: Final = 16
_WHOAMI: Final = ("ACL", "WHOAMI")


class Checkup:
    """One look at everything. ``watch_s`` lies between two looks at each queue, to see whether it grows."""

    def __init__(self, core: Core, *, watch_s: float, progress: Progress, repair: bool = False) -> None:
        self._core: Final = core
        self._watch_s: Final = watch_s
        self._progress: Final = progress
        self._repair: Final = repair

    async def run(self) -> AsyncIterator[Finding]:
        """The findings as they are found. Raises the StoreError family where the server cannot be asked at all."""
        self._progress("asking the server")
        hopeless = False
        for place, fetch in self._core.runner.servers():
            facts = await self._facts(place, fetch)
            for finding in server_findings(facts):
                yield finding
            hopeless = hopeless or facts.info.get("role") == "slave" or bool(facts.rights.lacking)
        if hopeless:
            return  # what would be asked now fails for the same reason
        state = await self._core.durable.look()
        for account, region in await self._core.directory.scopes():
            async for finding in _Scope(self._core.within(account, region), self).run(state):
                yield finding

    async def _facts(self, place: str, fetch: Execute) -> ServerFacts:
        core = self._core
        info = read_info(await fetch("INFO"))
        answers_ms, clock_off_s = await _timed(fetch)
        rights = await self._rights()
        optional = {"config|get", "wait", "pubsub|numsub"}  # only for what not everybody uses
        needed = tuple(name for name in rights.lacking if name not in optional)
        return ServerFacts(
            place=place,
            info=info,
            in_force=(await core.durable.look()).in_force,
            rights=msgspec.structs.replace(rights, lacking=needed),
            clock_off_s=clock_off_s,
            answers_ms=answers_ms,
            scripts_loaded=await self._loaded(fetch),
            scripts=len(core.scripts),
            full_at_percent=core.settings.full_at_percent,
        )

    async def _rights(self) -> Rights:
        runner = self._core.runner
        user = (await runner.fetch(*_WHOAMI)).decode() if await may(runner, _WHOAMI) else None
        lacks = await lacking(runner, self._core.keys.prefix)
        return Rights(user, tuple(lacks), tuple(await too_much(runner)))

    async def _loaded(self, fetch: Execute) -> int | None:
        shas = [script.sha for script in self._core.scripts.values()]
        try:
            loaded: list[int] = await fetch("SCRIPT", "EXISTS", *shas)
        except (StoreDenied, StoreFault):
            return None
        return sum(loaded)

    @property
    def watch_s(self) -> float:
        """Between two looks."""
        return self._watch_s

    @property
    def progress(self) -> Progress:
        """Told what is being looked at."""
        return self._progress

    @property
    def repair(self) -> bool:
        """Whether what is stranded is given a place again."""
        return self._repair


async def _timed(fetch: Execute) -> tuple[tuple[float, ...], float]:
    """How long answers take, and how far the server's clock is ahead, by the quickest of them.

    They are of TIME: PING is refused by a server that cannot write to its disk.
    """
    answers_ms, looks = [], []
    for _ in range(_LOOKS):
        before, started = time.time(), time.perf_counter()
        seconds, microseconds = await fetch("TIME")
        took_s = time.perf_counter() - started
        answers_ms.append(took_s * 1000)
        looks.append((took_s, int(seconds) + int(microseconds) / 1e6 - (before + took_s / 2)))
    return tuple(answers_ms), min(looks)[1]


class _Scope:
    """One account and region."""

    def __init__(self, core: Core, checkup: Checkup) -> None:
        self._core: Final = core
        self._checkup: Final = checkup

    async def run(self, state: ServerState) -> AsyncIterator[Finding]:
        core, scope = self._core, f"{self._core.settings.account} {self._core.settings.region}"
        kinds: tuple[Kind, Kind, Kind] = ("queue", "function", "stream")
        names = {kind: await core.directory.names(kind) for kind in kinds}
        live = await live_workers(core)
        resources = [core.resource(kind, name) for kind in ("queue", "function") for name in names[kind]]
        self._checkup.progress(f"{scope}: looking at {len(resources)} queues and functions")
        first = await self._see_all(resources)
        started = time.monotonic()
        if first:
            self._checkup.progress(f"{scope}: looking whether they grow ({self._checkup.watch_s:g} s)")
            await asyncio.sleep(self._checkup.watch_s)
        last, after_s = await self._see_all(resources), time.monotonic() - started
        for resource in resources:
            if resource not in first or resource not in last:
                continue
            serving = None
            if resource.kind == "function":
                serving = sum(resource.name in worker.functions and not worker.alone for worker in live)
            for finding in resource_findings(first[resource], last[resource], after_s=after_s, serving=serving):
                yield finding
            if required := durability_finding(resource.kind, resource.name, last[resource].settings, state):
                yield required
            if self._checkup.repair:
                yield await self._repaired(resource)
        async for finding in self._streams(names["stream"], state):
            yield finding
        for text in (await core.directory.mappings()).values():
            mapping = msgspec.json.decode(text, type=MappingSettings)
            queue = last.get(core.resource("queue", mapping.queue))
            yield mapping_finding(
                mapping,
                queues=set(names["queue"]),
                functions=set(names["function"]),
                live=live,
                waiting=queue.waiting if queue else 0,
            )

    async def _see_all(self, resources: list[Resource]) -> dict[Resource, Seen]:
        found = await _few_at_a_time([lambda each=each: see(self._core, each) for each in resources])  # type: ignore[misc]
        return {seen.resource: seen for seen in found if seen is not None}

    async def _repaired(self, resource: Resource) -> Finding:
        parts = await self._core.partitions.parts(resource)
        restored = sum([await self._core.repairs.repair(part) for part in parts])
        subject = f'{resource.kind} "{resource.name}"'
        return Finding("ok", "repair", subject, f"{restored} messages were given a place again")

    async def _streams(self, names: list[str], state: ServerState) -> AsyncIterator[Finding]:
        for name in names:
            described = await self._core.directory.describe(self._core.resource("stream", name))
            if described and (required := durability_finding("stream", name, described.settings, state)):
                yield required


async def _few_at_a_time(work: list[Callable[[], Awaitable[T]]]) -> list[T]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(look: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await look()

    return await asyncio.gather(*(one(look) for look in work))
