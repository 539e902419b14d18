"""What holds for one mapping: its settings, those of its function and of its queue, as they were read last."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.log import log
from broker.names import Resource
from broker.queue_settings import queue_settings
from broker.records import FunctionSettings, MappingSettings
from runtime.batch_claims import BatchClaims
from runtime.batch_ends import BatchEnds
from runtime.batches import Held
from runtime.engine import Engine
from runtime.handlers import HandlerFunction


class MappingRules:
    """Reads them again where there may be newer ones. Errors: the StoreError family."""

    def __init__(
        self, engine: Engine, function: HandlerFunction, queue: Resource, claims: BatchClaims, ends: BatchEnds
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._function_resource: Final = engine.core.resource("function", function.resource_name)
        self._queue: Final = queue
        self._claims: Final = claims
        self._ends: Final = ends
        self._held = self._deleted = False
        self._max_receives: int | None = None
        self._limits: tuple[MappingSettings, int | None] | None = None
        self.stale = True
        """Whether there may be newer ones."""

    @property
    def resting(self) -> bool:
        """Whether nothing is to be claimed, nor started."""
        if self._deleted or self._ends.mapping.asleep or self._claims.filter.unreadable:
            return True
        settings = self._function.settings
        return self._held or settings.paused or self._engine.is_foreign(settings)

    def may_go(self, held: list[Held]) -> bool:
        """Whether messages may be given back only because they wait: not where that makes dead letters of some that
        have never run, as each claim is a receive."""
        most = self._max_receives
        return most is None or all(item.letter.facts.receives < most for item in held)

    async def freshen(self) -> bool:
        """Takes over newer settings where there may be some; answers whether what was claimed under those before, and
        has not started, must go back."""
        if not self.stale:
            return False
        self.stale = False  # before the look: what changes during it is announced again
        try:
            await self._read()
        except BaseException:
            self.stale = True
            raise
        limits, self._limits = self._limits, (self._ends.mapping, self._function.settings.concurrency)
        return self.resting or limits != self._limits

    async def _read(self) -> None:
        core = self._engine.core
        found = await core.directory.mapping(self._ends.mapping.name)
        self._deleted = found is None
        if found is not None:
            self._ends.mapping = msgspec.json.decode(found, type=MappingSettings)
            self._claims.filter.change(self._ends.mapping.filters)
        described = await core.directory.describe(self._function_resource)
        if described is not None:
            self._function.settings = msgspec.json.decode(described.settings, type=FunctionSettings)
            self._held = described.held
        settings = await queue_settings(core, self._queue)
        if settings.partitions > 1:
            self._engine.on_split(self._queue, settings.partitions)
        self._ends.visibility_s, self._max_receives = settings.visibility_timeout_s, settings.max_receives
        self._warn_of_window()

    def _warn_of_window(self) -> None:
        """Lambda's rule that surprises: what does not fit is hidden for window + timeout + 30 s."""
        hidden_s = self._ends.hidden_s(0)
        if hidden_s > self._ends.visibility_s:
            queue, function = self._ends.mapping.queue, self._function.name
            log.warning("window_exceeds_visibility", queue=queue, function=function, hidden_s=hidden_s)
