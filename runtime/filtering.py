"""Which messages of a mapped queue its handler is to see: the mapping's filters, compiled once for every change."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any, Final

from broker.event_patterns import InvalidPattern
from broker.filter_criteria import SQS_BODY, FilterCriteria, RecordFilter
from broker.log import log
from broker.names import Resource
from runtime.batches import Held
from runtime.engine import Engine
from runtime.shaping import sqs_record


class MessageFilter:
    """The filters of one mapping."""

    def __init__(self, engine: Engine, function: str, queue: Resource) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._queue: Final = queue
        self.patterns: tuple[str, ...] = ()
        """Those in force; none let everything through."""
        self.unreadable = False
        """Whether a stored pattern is one that this release does not know. Then nothing may be claimed: it would be
        deleted, or handled, without anybody knowing whether it is wanted."""
        self._compiled: RecordFilter | None = None

    def change(self, patterns: tuple[str, ...]) -> None:
        """Matches by these from now on."""
        if patterns == self.patterns:
            return
        self.patterns, self._compiled, self.unreadable = patterns, None, False
        if not patterns:
            return
        try:
            self._compiled = RecordFilter(FilterCriteria.of(*patterns), SQS_BODY)
        except InvalidPattern as error:
            self.unreadable = True
            log.error("filters_unreadable", queue=self._queue.name, function=self._function, reason=str(error))

    async def sort(self, held: list[Held]) -> tuple[list[Held], list[Held]]:
        """Those that are wanted and those that are not, each in their order. The loop goes round in between."""
        compiled = self._compiled
        if compiled is None:
            return held, []
        wanted: list[Held] = []
        unwanted: list[Held] = []
        for item in held:
            (wanted if compiled.matches(_HeldRecord(item, self._queue)) else unwanted).append(item)
            if self._engine.holds_loop_too_long():
                await asyncio.sleep(0)
        return wanted, unwanted


class _HeldRecord:
    """A message as filters look at it: the record for a handler is only made where a pattern asks for its fields."""

    def __init__(self, item: Held, queue: Resource) -> None:
        self._item: Final = item
        self._queue: Final = queue
        self.data: Final = item.letter.body

    @cached_property
    def metadata(self) -> dict[str, Any]:
        item = self._item
        return sqs_record(item.letter, self._queue, receipt_handle=item.receipt, claimed_ms=item.claimed_ms)
