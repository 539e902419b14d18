"""Chores that one worker at a time does for all: events of functions that nobody serves still expire, mappings that
nobody declares are disabled. What needs no code of yours is done by the broker's upkeep."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec

from broker import tracing
from broker.client import Broker
from broker.endings import End, how_it_ended
from broker.errors import PenstockError
from broker.invocation_records import InvocationEnd, onward_records
from broker.log import log
from broker.names import Resource
from broker.records import FunctionSettings, MappingSettings
from broker.store.values import Claim, Deferral, Onward, member_of
from broker.workers import live_workers
from runtime.engine import Engine
from runtime.outcomes import exit_error
from runtime.policy import GiveUp, before_run
from runtime.shaping import Letter, open_letter

EVERY_S: Final = 60.0
_EXPIRE_AT_ONCE: Final = 500
_TURN: Final = "housekeeping"


class Housekeeping:
    """Does the chores, every minute, when it is this process's turn."""

    def __init__(self, broker: Broker, engine: Engine, *, every_s: float = EVERY_S) -> None:
        self._broker: Final = broker
        self._engine: Final = engine
        self._every_s: Final = every_s

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if await self._broker.core.directory.take_turn(_TURN, for_ms=int(self._every_s * 900)):
                    await self.round()
            except (PenstockError, msgspec.MsgspecError) as error:  # also what a newer release has written
                log.warning("housekeeping_failed", error_type=type(error).__name__, reason=str(error))

    async def round(self) -> None:
        """All chores once."""
        live = await live_workers(self._broker.core)
        split = await self._broker.core.partitions.listed()
        served = {name for worker in live if not worker.alone for name in worker.functions}
        declared = {name for worker in live if not worker.alone for name in worker.mappings}
        for name in await self._broker.core.directory.names("function"):  # versions and aliases, too
            if name not in served:
                await self.expire(name)
            for part in self._broker.core.resource("function", name).parts(split.get(("function", name), 1)):
                await self._broker.core.statuses.forget(part)
        await self._mark_undeclared(declared)

    async def expire(self, name: str) -> int:
        """Gives up what is too old in a function that nobody serves; answers how many events."""
        resource = self._broker.core.resource("function", name)
        described = await self._broker.core.directory.describe(resource)
        if described is None:
            return 0
        settings = msgspec.json.decode(described.settings, type=FunctionSettings)
        given_up = 0
        for part in resource.parts(described.partitions):
            while claim := await self._claim_aged(part, settings):
                given_up += await self._give_up(part, settings, *claim)
        if given_up:
            log.warning("events_expired", function=name, count=given_up, reason="no live worker serves the function")
        return given_up

    async def _claim_aged(self, resource: Resource, settings: FunctionSettings) -> tuple[str, Claim] | None:
        """Events that are too old, under a token; None when there are none (any more)."""
        core = self._broker.core
        token = f"r{self._engine.tokens.next()}"  # not a worker's lease: its end is no crash
        claim_aged = partial(core.messages.claim, resource, token=token, lease_ms=core.settings.lease_ms, mode="aged")
        now_ms = (await claim_aged(room=0)).now_ms  # the scripts' clock
        sent_before_ms = now_ms - int(settings.max_event_age_s * 1000) - 1
        claim = await claim_aged(room=_EXPIRE_AT_ONCE, sent_before_ms=sent_before_ms)
        return (token, claim) if claim.messages else None

    async def _give_up(self, resource: Resource, settings: FunctionSettings, token: str, claim: Claim) -> int:
        core = self._broker.core
        notes = await core.messages.notes(resource, [claimed.entry for claimed in claim.messages])
        ended: list[str] = []
        released: list[Deferral] = []
        ends: dict[int, End] = {}
        onward: list[Onward] = []
        for claimed, note in zip(claim.messages, notes, strict=True):
            letter, member = open_letter(claimed, claim.nonce), member_of(claimed.entry, token)
            verdict = before_run(settings, letter.facts, age_s=(claim.now_ms - letter.sent_ms) / 1000, limit=None)
            if verdict is None:  # not old: an ended lease, which comes along whatever its age
                released.append(Deferral(member, 0))
                continue
            response = note if verdict.condition == "EventAgeExceeded" else await self._cause_of_death(letter)
            records = onward_records(_end(resource, letter, verdict, response, claim.now_ms), settings)
            onward += [Onward(len(ended), suffix, record) for suffix, record in records]
            if settings.keep_status_s:
                end = how_it_ended(
                    verdict.condition, verdict.tries, response, own_id=letter.header.id or "", keep_result_bytes=0
                )
                if end is not None:
                    ends[len(ended)] = end
            ended.append(member)
        if released:
            await core.messages.defer(resource, released, counter="released")
        await core.messages.finish(resource, ended, counter="failed", onward=onward, ends=ends)
        if onward:
            self._engine.relays.kick(resource)
        return len(ended)

    async def _cause_of_death(self, letter: Letter) -> bytes:
        return exit_error(await self._engine.end_of(letter.facts.culprit), letter.id)

    async def _mark_undeclared(self, declared: set[str]) -> None:
        """A mapping that no live worker declares rests; one that is declared again goes on."""
        directory = self._broker.core.directory
        for name, stored in (await directory.mappings()).items():
            mapping = msgspec.json.decode(stored, type=MappingSettings)
            undeclared = mapping.origin == "code" and name not in declared
            if undeclared != mapping.undeclared:
                changed = msgspec.structs.replace(mapping, undeclared=undeclared)
                queue = self._broker.core.resource("queue", mapping.queue)
                await directory.put_mapping(name, msgspec.json.encode(changed), queue=queue, instead_of=stored)
                log.warning("mapping_disabled" if undeclared else "mapping_enabled", mapping=name)


def _end(function: Resource, letter: Letter, verdict: GiveUp, response: bytes | None, now_ms: int) -> InvocationEnd:
    return InvocationEnd(
        function=function,
        request_id=letter.id,
        condition=verdict.condition,
        tries=verdict.tries,
        event=letter.body,
        response=response,
        now_ms=now_ms,
        trace=tracing.of_header(letter.header),
    )
