"""The mappings that one worker polls for: those that its code declares, and those that the API makes, changes and
deletes for its functions while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import anyio
import anyio.abc

from broker.log import log
from broker.mappings import read_mapping
from broker.names import Resource
from broker.records import MAPPING_ARROW, MappingSettings
from broker.store.channels import Listener
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.lookout import Lookout
from runtime.poller import Pollers
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource
from runtime.tally import BatchTally
from runtime.waiter import Waiter

_SLOW_S: Final = 60.0


class Mappings:
    """Starts and ends the sources of mapped queues, for the ``functions`` of the app as far as they, or their versions
    and aliases, are ``served``. ``sources`` is the worker's list, which it keeps up to date."""

    def __init__(
        self,
        engine: Engine,
        pollers: Pollers,
        functions: Mapping[str, HandlerFunction],
        served: Mapping[str, HandlerFunction],
        sources: list[InvocationSource | QueueSource],
        group: anyio.abc.TaskGroup,
    ) -> None:
        self._engine: Final = engine
        self._pollers: Final = pollers
        self._served: Final = served
        self._sources: Final = sources
        self._group: Final = group
        self._names: Final = frozenset(functions)
        self._declared: Final = {each.mapping.name: each.mapping for each in functions.values() if each.mapping}
        self._polled: Final[dict[str, list[tuple[QueueSource, Waiter]]]] = {}
        """By name of the mapping: one a partition of its queue."""
        self._lookout: Final = Lookout(self._look, what="mappings", every_s=lambda: _SLOW_S)
        self.look_again: Final = self._lookout.look_again
        """What is served has changed."""
        self.run: Final = self._lookout.run

    async def begin(self) -> list[tuple[str, Listener]]:
        """Starts what the code declares; answers all that is to be listened to."""
        stored = await self._engine.core.directory.mappings()
        listeners: list[tuple[str, Listener]] = [(self._engine.core.keys.mappings_channel, self._on_notice)]
        for name, declared in self._declared.items():
            mapping = read_mapping(stored[name]) if name in stored else declared
            if mapping.target in self._served:
                listeners += self._listeners(self._start(mapping))
        return listeners

    def _on_notice(self, name: bytes | None) -> None:
        if name is None or name.decode().rpartition(MAPPING_ARROW)[2] in self._names:
            self.look_again()

    async def _look(self) -> None:
        stored = await self._engine.core.directory.mappings()
        wanted = {name: mapping for name, text in stored.items() if (mapping := self._wanted(name, text))}
        for name, polled in tuple(self._polled.items()):
            if name not in wanted or wanted[name].target != polled[0][0].target:
                await self._end(name)
        for name in wanted.keys() - self._polled.keys():
            if self._pollers.stopping:
                return
            await self._listen(self._start(wanted[name]))
            log.info("mapping_polled", mapping=name)

    async def _listen(self, source: QueueSource) -> None:
        for channel, listener in self._listeners(source):
            await self._engine.core.channels.listen({channel: listener})
        source.changed(None)  # what has changed since it began to poll may have been missed

    def split(self, queue: Resource, count: int) -> None:
        """Polls all partitions of a queue, for each mapping of it."""
        if self._pollers.stopping:
            return
        for polled in self._polled.values():
            first = polled[0][0]
            for partition in range(len(polled), count if first.resource == queue else 0):
                source = self._start(first.mapping, partition=partition, tally=first.tally)
                self._group.start_soon(self._listen, source, name=f"listen {first.mapping.name}")

    def _wanted(self, name: str, text: bytes) -> MappingSettings | None:
        if name.rpartition(MAPPING_ARROW)[2] not in self._names:
            return None
        mapping = read_mapping(text)
        if mapping.target not in self._served:
            return None
        return mapping if mapping.origin == "api" or name in self._declared else None

    def _start(self, mapping: MappingSettings, *, partition: int = 0, tally: BatchTally | None = None) -> QueueSource:
        waiter = self._pollers.waiter()
        function = self._served[mapping.target]
        source = QueueSource(self._engine, function, mapping, waiter, partition=partition, tally=tally)
        self._sources.append(source)
        self._polled.setdefault(mapping.name, []).append((source, waiter))
        self._group.start_soon(self._pollers.poll_queue, source, waiter, name=f"poll {mapping.name}")
        return source

    async def _end(self, name: str) -> None:
        """Nothing more is claimed for it; what runs ends as usual."""
        for source, waiter in self._polled.pop(name):
            source.stop()
            self._pollers.forget(waiter)
            self._sources.remove(source)
            for channel, listener in self._listeners(source):
                await self._engine.core.channels.unlisten(channel, listener)
        log.info("mapping_left", mapping=name)

    def _listeners(self, source: QueueSource) -> Iterator[tuple[str, Listener]]:
        yield self._engine.core.keys.of(source.resource).wake, source.changed
        if source.resource.partition:
            yield self._engine.core.keys.of(source.resource.whole).wake, source.whole_changed
        for channel in source.permit_channels:
            yield channel, source.permit_given_back
