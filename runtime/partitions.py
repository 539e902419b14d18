"""The partitions of one worker's functions and mapped queues: each has a source of its own, started when it is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import anyio.abc

from broker.errors import StoreError
from broker.log import log
from broker.names import Resource
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.mappings import Mappings
from runtime.poller import Pollers
from runtime.sources.invocation import InvocationSource
from runtime.sources.queue import QueueSource


class Partitions:
    """Starts the sources of all partitions but the first. ``sources`` is the worker's list, which it adds to."""

    def __init__(
        self,
        engine: Engine,
        pollers: Pollers,
        functions: Mapping[str, HandlerFunction],
        mappings: Mappings,
        sources: list[InvocationSource | QueueSource],
        group: anyio.abc.TaskGroup,
    ) -> None:
        self._engine: Final = engine
        self._pollers: Final = pollers
        self._functions: Final = functions
        self._mappings: Final = mappings
        self._sources: Final = sources
        self._group: Final = group
        self._seen: Final[dict[Resource, int]] = {}

    def split(self, whole: Resource, count: int) -> None:
        """There are so many partitions of a function or a queue."""
        before = self._seen.get(whole, 1)
        if whole.kind == "queue":
            self._mappings.split(whole, count)
        elif self._pollers.stopping or whole.name not in self._functions:
            return
        for part in whole.parts(count)[before:]:
            if whole.kind == "function":
                self._start(part)
            if not self._engine.alone:
                self._group.start_soon(self._repair, part, name=f"repair {part.name}")
        self._seen[whole] = max(before, count)

    def _start(self, part: Resource) -> None:
        first = next(
            source for source in self._sources if isinstance(source, InvocationSource) and source.resource == part.whole
        )
        waiter = self._pollers.waiter()
        function = self._functions[part.name]
        source = InvocationSource(self._engine, function, waiter, partition=part.partition, tally=first.tally)
        self._sources.append(source)
        name = f"{part.name} {part.partition}"
        self._group.start_soon(self._pollers.poll_invocations, source, waiter, name=f"poll {name}")
        self._group.start_soon(self._listen, source, name=f"listen {name}")

    async def _listen(self, source: InvocationSource) -> None:
        keys = self._engine.core.keys
        await self._engine.core.channels.listen(
            {
                keys.of(source.resource).wake: source.changed,
                keys.of(source.resource.whole).wake: source.whole_changed,
            }
        )
        source.changed(None)  # what has changed since it began to poll may have been missed

    async def _repair(self, part: Resource) -> None:
        """What a broken-off script has left behind gets a place again."""
        try:
            restored = await self._engine.core.repairs.repair(part)
        except StoreError as error:
            log.warning("repair_failed", resource=part.arn, reason=str(error))
            return
        if restored:
            log.error("messages_restored", resource=part.arn, count=restored)
