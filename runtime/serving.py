"""What one worker serves: its functions as long as its build is the newest one, and the versions and aliases that its
build is behind. Both change while it runs; each thing served has a source of its own, each partition of it one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

import anyio
import anyio.abc
import msgspec

from broker.builds import Catalogue
from broker.core import Core
from broker.log import log
from broker.names import LATEST, Resource
from broker.records import FunctionSettings
from broker.store.channels import Listener
from broker.versions import read_catalogues
from broker.workers import HEARTBEAT_S, live_workers
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.lookout import Lookout
from runtime.poller import Pollers
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource
from runtime.tally import Tally
from runtime.waiter import Waiter

_SLOW_S: Final = 60.0


class Duties:
    """Decides what is to be served. ``served`` is what is, by the name that it has in the store; others may keep it."""

    def __init__(self, core: Core, functions: dict[str, HandlerFunction], build: str) -> None:
        self._core: Final = core
        self._functions: Final = functions
        self.build: Final = build
        self.served: Final[dict[str, HandlerFunction]] = {}
        self.versioned = False
        """Whether any of the functions has versions."""

    def concerns(self, function: str) -> bool:
        """Whether it has anything to do with a function."""
        return function in self._functions

    def of_builds(self) -> tuple[str, ...]:
        """The functions whose newest build this worker may have been, where any has versions."""
        return tuple(self._functions) if self.build and self.versioned else ()

    async def look(self) -> dict[str, HandlerFunction]:
        """What is to be served from now on, by the name in the store."""
        found = await read_catalogues(self._core, self._functions)
        wanted: dict[str, HandlerFunction] = {}
        self.versioned = bool(found)
        for name, function in self._functions.items():
            catalogue, registered = found.get(name), None
            if catalogue is not None:
                registered = await self._registered(name)
            if catalogue is None or registered is None:
                wanted[name] = function
            else:
                wanted |= await self._of_versioned(function, catalogue, registered)
        return wanted

    async def _of_versioned(
        self, function: HandlerFunction, catalogue: Catalogue, registered: FunctionSettings
    ) -> dict[str, HandlerFunction]:
        function.shares_limit = True
        latest = await self._is_latest(function.name, catalogue, registered.build)
        wanted = {function.name: function} if latest else {}
        for qualifier in self._behind(catalogue, latest=latest):
            name = f"{function.name}:{qualifier}"
            wanted[name] = self.served.get(name) or function.serving(name, catalogue.settings_of(qualifier, registered))
        return wanted

    async def _registered(self, name: str) -> FunctionSettings | None:
        described = await self._core.directory.describe(self._core.resource("function", name))
        return None if described is None else msgspec.json.decode(described.settings, type=FunctionSettings)

    def _behind(self, catalogue: Catalogue, *, latest: bool) -> Iterator[str]:
        for qualifier, version in catalogue.served():
            found = catalogue.versions.get(version)
            mine = latest if version == LATEST else found is not None and found.build == self.build
            if mine:
                yield qualifier

    async def _is_latest(self, name: str, catalogue: Catalogue, registered: str) -> bool:
        """Whether calls without a qualifier are for this worker: not as long as a newer build has live workers, if this
        one is a version, which can be called as such."""
        mine = catalogue.newest_of(self.build) if self.build else 0
        if not mine or registered == self.build or 0 < catalogue.newest_of(registered) < mine:
            return True
        live = await live_workers(self._core)
        return not any(worker.build == registered and name in worker.functions and not worker.alone for worker in live)


class Serving:
    """Starts and ends the sources of what is served. ``sources`` is the worker's list, which it keeps up to date;
    ``register`` makes the settings of functions those of this worker's code, ``changed`` hears of every change."""

    def __init__(
        self,
        engine: Engine,
        pollers: Pollers,
        duties: Duties,
        sources: list[InvocationSource | QueueSource],
        group: anyio.abc.TaskGroup,
        *,
        register: Callable[[Iterable[str]], Awaitable[None]],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine: Final = engine
        self._pollers: Final = pollers
        self._duties: Final = duties
        self._sources: Final = sources
        self._group: Final = group
        self._register: Final = register
        self._tell: Final = changed
        self._polled: Final[dict[str, list[tuple[InvocationSource, Waiter]]]] = {}
        """By the name in the store: one a partition."""
        self._lookout: Final = Lookout(self._look, what="versions", every_s=self._every_s)
        self.run: Final = self._lookout.run

    def begin(self) -> Iterator[tuple[str, Listener]]:
        """Starts what is served; answers all that is to be listened to."""
        for name, function in self._duties.served.items():
            yield from self._listeners(self._start(name, function))
        yield self._engine.core.keys.versions_channel, self._on_notice

    def _every_s(self) -> float:
        return HEARTBEAT_S if self._duties.versioned else _SLOW_S

    def _on_notice(self, function: bytes | None) -> None:
        if function is None or self._duties.concerns(function.decode()):
            self._lookout.look_again()

    async def _look(self) -> None:
        served, wanted = self._duties.served, await self._duties.look()
        gone, new = served.keys() - wanted.keys(), wanted.keys() - served.keys()
        if self._pollers.stopping or not (gone or new):
            return
        await self._register(name for name in new if ":" not in name)
        for name in sorted(gone):
            del served[name]
            await self._end(name)
        for name in sorted(new):
            served[name] = wanted[name]
            await self._listen(self._start(name, wanted[name]))
        log.info("served_changed", build=self._duties.build, serves=sorted(new), leaves=sorted(gone))
        await self._tell()

    def split(self, whole: Resource, count: int) -> None:
        """Polls all partitions of a function, as long as it is served."""
        polled = self._polled.get(whole.name, [])
        if self._pollers.stopping or not polled:
            return
        tally = polled[0][0].tally
        for partition in range(len(polled), count):
            source = self._start(whole.name, self._duties.served[whole.name], partition=partition, tally=tally)
            self._group.start_soon(self._listen, source, name=f"listen {whole.name} {partition}")

    def _start(
        self, name: str, function: HandlerFunction, *, partition: int = 0, tally: Tally | None = None
    ) -> InvocationSource:
        waiter = self._pollers.waiter()
        source = InvocationSource(self._engine, function, waiter, partition=partition, tally=tally)
        self._sources.append(source)
        self._polled.setdefault(name, []).append((source, waiter))
        self._group.start_soon(self._pollers.poll_invocations, source, waiter, name=f"poll {name} {partition}")
        return source

    async def _listen(self, source: InvocationSource) -> None:
        await self._engine.core.channels.listen(dict(self._listeners(source)))
        if source.stopped and source not in self._sources:  # meanwhile
            await self._unlisten(source)
        source.changed(None)  # what has changed since it began to poll may have been missed

    async def _end(self, name: str) -> None:
        """Nothing more is claimed for it; what runs ends as usual."""
        for source, waiter in self._polled.pop(name):
            source.stop()
            self._pollers.forget(waiter)
            self._sources.remove(source)
            await self._unlisten(source)

    async def _unlisten(self, source: InvocationSource) -> None:
        for channel, listener in self._listeners(source):
            await self._engine.core.channels.unlisten(channel, listener)

    def _listeners(self, source: InvocationSource) -> Iterator[tuple[str, Listener]]:
        yield self._engine.core.keys.of(source.resource).wake, source.changed
        if source.resource.partition:
            yield self._engine.core.keys.of(source.resource.whole).wake, source.whole_changed
