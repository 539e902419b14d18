"""Settling: verdicts gather while a settle is under way and go to Redis together, as often as Redis can take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from broker.core import Core
from broker.endings import End
from broker.errors import StoreError, StoreFault
from broker.figures import Figures
from broker.log import log
from broker.names import Resource
from broker.sending import chunks
from broker.store.values import Deferral, Onward, Settlement
from runtime.keeper import LeaseKeeper
from runtime.metrics import count_lost

MOST_FAULTS: Final = 5
"""After more answers that no rule explains, what is being ended is given up: a defect, not an outage."""
_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_Ending: TypeAlias = tuple[str, tuple[tuple[str, bytes], ...], End | None]
"""A member, what to send on because it ended, and how it ended where that is kept and not the usual."""


class Settler:
    """Settles the messages of one resource. Nothing is lost when Redis is away: it tries until it is back."""

    def __init__(
        self,
        core: Core,
        resource: Resource,
        keeper: LeaseKeeper,
        *,
        on_onward: Callable[[Resource], None],
        figures: Figures | None = None,
    ) -> None:
        self._core: Final = core
        self._resource: Final = resource
        self._keeper: Final = keeper
        self._on_onward: Final = on_onward
        self._figures: Final = figures
        self._finished: dict[tuple[str, bool], list[_Ending]] = {}
        self._deferred: dict[tuple[str, bool], list[Deferral]] = {}
        self._waiting: Final = asyncio.Event()
        self._idle: Final = asyncio.Event()
        self._idle.set()
        self.settled = 0
        """Messages that it has ended or given back so far."""

    def finish(
        self,
        member: str,
        *,
        counter: str,
        onward: tuple[tuple[str, bytes], ...] = (),
        keep_permit: bool = False,
        end: End | None = None,
    ) -> None:
        """Ends a message for good; ``onward`` is what to send on: suffix and record each."""
        self._finished.setdefault((counter, keep_permit), []).append((member, onward, end))
        self._waiting.set()
        self._idle.clear()

    def finish_all(self, members: Iterable[str], *, counter: str) -> None:
        """Ends messages for good of which nothing is to be sent on, and how they ended is not kept."""
        self._finished.setdefault((counter, False), []).extend([(member, (), None) for member in members])
        self._waiting.set()
        self._idle.clear()

    def defer(self, deferral: Deferral, *, counter: str, keep_permit: bool = False) -> None:
        """Gives a message back, to be handed out again after its delay."""
        self._deferred.setdefault((counter, keep_permit), []).append(deferral)
        self._waiting.set()
        self._idle.clear()

    async def run(self) -> None:
        """Settles for ever."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            finished, self._finished = self._finished, {}
            deferred, self._deferred = self._deferred, {}
            for (counter, keep_permit), items in finished.items():
                for endings in chunks(items, bytes_of=_bytes_onward):
                    await self._finish(counter, endings, keep_permit=keep_permit)
            for (counter, keep_permit), deferrals in deferred.items():
                for page in chunks(deferrals, bytes_of=_bytes_noted):
                    await self._defer(counter, page, keep_permit=keep_permit)
            if not self._waiting.is_set():
                self._idle.set()

    async def drained(self) -> None:
        """Returns when everything handed in is settled."""
        await self._idle.wait()

    async def _finish(self, counter: str, items: Sequence[_Ending], *, keep_permit: bool) -> None:
        members = [member for member, _, _ in items]
        onward = [
            Onward(index, suffix, record) for index, (_, records, _) in enumerate(items) for suffix, record in records
        ]
        ends = {index: end for index, (_, _, end) in enumerate(items) if end is not None}

        async def settle() -> Settlement:
            return await self._core.messages.finish(
                self._resource, members, counter=counter, onward=onward, keep_permits=keep_permit, ends=ends
            )

        await self._until_done(settle, members)
        if onward:
            self._on_onward(self._resource)

    async def _defer(self, counter: str, deferrals: Sequence[Deferral], *, keep_permit: bool) -> None:
        async def settle() -> Settlement:
            return await self._core.messages.defer(self._resource, deferrals, counter=counter, keep_permits=keep_permit)

        await self._until_done(settle, [deferral.member for deferral in deferrals])

    async def _until_done(self, settle: Callable[[], Awaitable[Settlement]], members: list[str]) -> None:
        failures = faults = 0
        settlement: Settlement | None = None
        while settlement is None:
            try:
                settlement = await settle()
            except StoreError as error:
                if not failures:
                    log.warning("settle_failed", resource=self._resource.arn, code=error.code, reason=str(error))
                failures += 1
                faults += isinstance(error, StoreFault)
                if faults > MOST_FAULTS:
                    # Trying for ever would hold up all others. Its leases run out.
                    log.exception("settle_given_up", resource=self._resource.arn, messages=len(members))
                    self._keeper.drop(self._resource, members)
                    return
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1])
        self._keeper.drop(self._resource, members)
        self.settled += len(members)
        # After a lost reply the first attempt may have settled them: then the repeat does not know them.
        refused = [why for why in settlement.refused.values() if why == "fenced" or not failures]
        if refused:
            fenced = refused.count("fenced")
            count_lost(self._figures, self._resource, len(refused))
            log.warning("lease_lost", resource=self._resource.arn, refused=len(refused), fenced=fenced)


def _bytes_onward(ending: _Ending) -> int:
    _, onward, end = ending
    size = 0 if end is None else len(end.rest)
    for _, record in onward:
        size += len(record)
    return size


def _bytes_noted(deferral: Deferral) -> int:
    return len(deferral.note)
