"""Chores that one worker at a time does for all: events of functions that nobody serves still expire, mappings that
nobody declares are disabled, outboxes that nobody owns are delivered."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from broker.client import Broker
from broker.errors import StoreError
from broker.invocation_records import InvocationEnd, dead_letter_delivery, record_delivery
from broker.names import Kind
from broker.records import FunctionSettings, MappingSettings
from broker.store.messages import Onward, member_of
from broker.workers import LiveWorkers
from runtime.engine import Engine
from runtime.shaping import open_letter

EVERY_S: Final = 30.0
_EXPIRE_AT_ONCE: Final = 500
_OUTBOXES_A_ROUND: Final = 50
_TURN: Final = "housekeeping"

_log = structlog.get_logger("penstock")


class Housekeeping:
    """Does the chores, every half minute, when it is this process's turn."""

    def __init__(self, broker: Broker, engine: Engine, *, every_s: float = EVERY_S) -> None:
        self._broker: Final = broker
        self._engine: Final = engine
        self._every_s: Final = every_s
        self._workers: Final = LiveWorkers(broker.core)
        self._next_outbox = 0

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if await self._broker.core.directory.take_turn(_TURN, for_ms=int(self._every_s * 900)):
                    await self.round()
            except StoreError as error:
                _log.warning("housekeeping_failed", code=error.code, reason=str(error))

    async def round(self) -> None:
        """All chores once."""
        live = await self._workers.all(fresh=True)
        served = {name for worker in live if not worker.alone for name in worker.functions}
        declared = {name for worker in live if not worker.alone for name in worker.mappings}
        for name in await self._broker.functions():
            if name not in served:
                await self.expire(name)
        await self._mark_undeclared(declared)
        await self._deliver_some()

    async def expire(self, name: str) -> int:
        """Gives up what is too old in a function that nobody serves; answers how many events."""
        core = self._broker.core
        resource = core.resource("function", name)
        described = await core.directory.describe(resource)
        if described is None:
            return 0
        settings = msgspec.json.decode(described.settings, type=FunctionSettings)
        expired = 0
        while True:
            token = f"r{self._engine.tokens.next()}"  # not a worker's lease: its end is no crash
            too_old_ms = await core.messages.now_ms() - int(settings.max_event_age_s * 1000) - 1
            claim = await core.messages.claim(
                resource,
                token=token,
                lease_ms=core.settings.lease_ms,
                room=_EXPIRE_AT_ONCE,
                mode="aged",
                sent_before_ms=too_old_ms,
            )
            if not claim.messages:
                break
            members = [member_of(claimed.entry, token) for claimed in claim.messages]
            notes = await core.messages.notes(resource, [claimed.entry for claimed in claim.messages])
            onward: list[Onward] = []
            for index, (claimed, note) in enumerate(zip(claim.messages, notes, strict=True)):
                letter = open_letter(claimed, claim.nonce)
                end = InvocationEnd(
                    function=resource,
                    request_id=letter.id,
                    condition="EventAgeExceeded",
                    tries=letter.facts.tries,
                    event=letter.body,
                    response=note,
                    now_ms=claim.now_ms,
                )
                if settings.on_failure:
                    record = msgspec.msgpack.encode(record_delivery(end, settings.on_failure))
                    onward.append(Onward(index, "r", record))
                if settings.dead_letter:
                    record = msgspec.msgpack.encode(dead_letter_delivery(end, settings.dead_letter))
                    onward.append(Onward(index, "d", record))
            await core.messages.finish(resource, members, counter="failed", onward=onward)
            expired += len(members)
            if onward:
                self._engine.relays.kick(resource)
        if expired:
            _log.warning("events_expired", function=name, count=expired, reason="no live worker serves the function")
        return expired

    async def _mark_undeclared(self, declared: set[str]) -> None:
        """A mapping that no live worker declares rests; one that is declared again goes on."""
        directory = self._broker.core.directory
        for name, stored in (await directory.mappings()).items():
            mapping = msgspec.json.decode(stored, type=MappingSettings)
            undeclared = name not in declared
            if undeclared != mapping.undeclared:
                changed = msgspec.structs.replace(mapping, undeclared=undeclared)
                queue = self._broker.core.resource("queue", mapping.queue)
                await directory.put_mapping(name, msgspec.json.encode(changed), queue=queue)
                _log.warning("mapping_disabled" if undeclared else "mapping_enabled", mapping=name)

    async def _deliver_some(self) -> None:
        """Looks at some outboxes in turn: those of resources that no worker serves have no other relay."""
        kinds: tuple[Kind, Kind] = ("queue", "function")
        resources = [
            self._broker.core.resource(kind, name)
            for kind in kinds
            for name in await self._broker.core.directory.names(kind)
        ]
        for _ in range(min(_OUTBOXES_A_ROUND, len(resources))):
            self._next_outbox = (self._next_outbox + 1) % len(resources)
            resource = resources[self._next_outbox]
            if await self._broker.core.outbox.entries(resource, 1):
                self._engine.relays.kick(resource)
