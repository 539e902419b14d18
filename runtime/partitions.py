"""The partitions of one worker's functions and mapped queues: each has a source of its own, started when it is seen."""

from __future__ import annotations

from typing import Final

import anyio.abc

from broker.names import Resource
from runtime.engine import Engine
from runtime.mappings import Mappings
from runtime.mending import mend
from runtime.serving import Serving


class Partitions:
    """Has what is split polled as a whole, and mended once."""

    def __init__(self, engine: Engine, mappings: Mappings, serving: Serving, group: anyio.abc.TaskGroup) -> None:
        self._engine: Final = engine
        self._mappings: Final = mappings
        self._serving: Final = serving
        self._group: Final = group
        self._seen: Final[dict[Resource, int]] = {}

    def split(self, whole: Resource, count: int) -> None:
        """There are so many partitions of a function or a queue."""
        (self._mappings if whole.kind == "queue" else self._serving).split(whole, count)
        before = self._seen.get(whole, 1)
        for part in whole.parts(count)[before:] if not self._engine.alone else ():
            self._group.start_soon(mend, self._engine.core, part, name=f"mend {part.name}")
        self._seen[whole] = max(before, count)
