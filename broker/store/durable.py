"""Required durability: what the server gives is known before a write is accepted, replicas confirm it afterwards.

The script that stores knows what its resource requires, and refuses whoever has not made sure of exactly that. So a
resource that requires nothing costs nothing, and a requirement that changes is noticed by every sender's next write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from broker.durability import Durability, gives, parse_durability, strength
from broker.errors import DurabilityNotMet, InvalidOption, StoreDenied, StoreFault, StoreUnavailable
from broker.names import Resource
from broker.store.addresses import Place
from broker.store.connection import translated
from broker.store.keys import Keyspace
from broker.store.lanes import Lane, RunsScripts
from broker.store.scripts import Command, Script, ScriptRunner
from broker.store.server import (
    PERSISTENCE_SETTINGS,
    InForce,
    has_waitaof,
    level_in_force,
    online_replicas,
    read_config,
    read_info,
)
from broker.store.values import DurabilityRequired

T = TypeVar("T")
Attempt: TypeAlias = Callable[[str, RunsScripts], Awaitable[T]]
"""Stores something: given what was made sure of, for the script to compare, and what the script runs through."""
_FRESH_S: Final = 1.0


class ServerState(msgspec.Struct, frozen=True):
    """What a server gives at the moment."""

    in_force: InForce
    replicas: int
    """Replicas in step."""
    waitaof: bool

    def why_not(self, required: Durability) -> str | None:
        """None where it gives what is required; else what is missing."""
        if self.in_force.level is None or not gives(self.in_force.level, required.server):
            return self.in_force.why
        if self.replicas < required.replicas:
            return f"{self.replicas} of {required.replicas} replicas are in step with the primary"
        if required.replicas_on_disk and not self.waitaof:
            return "the server has no WAITAOF, which is new in 7.2"
        return None


class DurableWrites:
    """Sees to it that what is answered is as safe as its resource requires. Errors: the StoreError family."""

    def __init__(
        self, runner: ScriptRunner, scripts: dict[Command, Script], keyspace: Keyspace, *, confirm_ms: int
    ) -> None:
        self._runner: Final = runner
        self._scripts: Final = scripts
        self._keys: Final = keyspace
        self._confirm_ms: Final = confirm_ms
        self._required: Final[dict[Resource, str]] = {}
        self._lanes: Final[dict[tuple[int, bool, Place | None], Lane]] = {}
        self._everywhere: Final = _View(runner.fetch_everywhere)
        self._views: Final[dict[Place, _View]] = {}

    async def store(self, resource: Resource, attempt: Attempt[T]) -> T:
        """What the attempt stores. Raises DurabilityNotMet where nothing was stored, WriteNotConfirmed where it was."""
        while True:
            required = self._required.get(resource, "")
            runs: RunsScripts = await self._made_sure(required, resource) if required else self._runner
            try:
                return await attempt(required, runs)
            except DurabilityRequired as found:
                if found.required:
                    self._required[resource] = found.required
                else:
                    self._required.pop(resource, None)

    async def make_sure(self, resources: Iterable[Resource]) -> None:
        """Before the first of several resources is written to: raises DurabilityNotMet where one of them, as far as is
        known, requires what is not given now."""
        for resource in resources:
            if required := self._required.get(resource):
                await self._made_sure(required, resource)

    async def check(self, text: str, resource: Resource) -> None:
        """Raises DurabilityNotMet unless a level is given now where a resource is, or will be; '' is none."""
        if text:
            required = parse_durability(text)
            if why_not := (await self.look()).why_not(required):
                raise DurabilityNotMet(text, why_not)
            if required.replicas_on_disk:
                keys = self._keys.of(resource)
                await self._lane_for(keys.meta, required).probe(keys.probe)

    async def state(self) -> ServerState:
        """What all servers give, as known for at most a second."""
        return await self._everywhere.state()

    async def look(self) -> ServerState:
        """What all servers give now."""
        for view in self._views.values():
            view.forget()
        return await self._everywhere.look()

    async def close(self) -> None:
        """Ends the connections."""
        for view in (self._everywhere, *self._views.values()):
            await view.close()
        for lane in self._lanes.values():
            await lane.close()

    async def _made_sure(self, text: str, resource: Resource) -> RunsScripts:
        try:
            required = parse_durability(text)
        except InvalidOption as error:  # set by a newer release
            self._required.pop(resource, None)
            raise DurabilityNotMet(text, f"this release knows no such level ({error.rule})") from error
        meta = self._keys.of(resource).meta
        place = self._runner.link.place_of(meta)
        if why_not := (await self._view_of(place).state()).why_not(required):
            self._required.pop(resource, None)  # it may be required no more: the next write asks
            raise DurabilityNotMet(text, why_not)
        if not required.replicas:
            return self._runner
        return self._lane_for(meta, required).of(meta)

    def _lane_for(self, meta: str, required: Durability) -> Lane:
        """The one to the server that stores a key at this moment."""
        with translated(self._runner.url, self._runner.chosen_by):
            client = self._runner.link.client_for(meta)
        key = required.replicas, required.replicas_on_disk, self._runner.link.place_of(meta)
        lane = self._lanes.get(key)
        if lane is None or lane.client is not client:  # a node that left and came back is a new one
            lane = Lane(self._runner, client, self._scripts, required, confirm_ms=self._confirm_ms)
            self._lanes[key] = lane
        return lane

    def _view_of(self, place: Place | None) -> _View:
        """What is known of the one server that stores a resource: what the others give does not matter to it."""
        if place is None:
            return self._everywhere
        return self._views.get(place) or self._views.setdefault(place, _View(partial(self._runner.fetch_at, place)))


class _View:
    """What one server gives, or all of them do, as it was seen last; ``fetch`` brings their replies."""

    def __init__(self, fetch: Callable[..., Awaitable[Sequence[Any]]]) -> None:
        self._fetch: Final = fetch
        self._state: ServerState | None = None
        self._looked_at_s = float("-inf")
        self._looking: asyncio.Task[ServerState] | None = None

    async def state(self) -> ServerState:
        """As known for at most a second."""
        if self._state is not None and time.monotonic() - self._looked_at_s <= _FRESH_S:
            return self._state
        return await self.look()

    def forget(self) -> None:
        """The next one looks."""
        self._state = None

    async def look(self) -> ServerState:
        """As it is now. Whoever asks meanwhile shares the answer."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="penstock-durability")
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody waits
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Ends a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> ServerState:
        began_s = time.monotonic()
        try:
            self._state = None
            infos = [read_info(info) for info in await self._fetch("INFO")]
            configs = await self._configs(len(infos))
            self._state = _weakest(
                [
                    ServerState(_in_force(info, config), online_replicas(info), has_waitaof(info))
                    for info, config in zip(infos, configs, strict=True)
                ]
            )
            self._looked_at_s = began_s
            return self._state
        finally:
            self._looking = None

    async def _configs(self, nodes: int) -> Sequence[dict[str, str] | None]:
        """What each server shows of its settings; None where not all do: a provider's may not know the command."""
        try:
            found = await self._fetch("CONFIG", "GET", PERSISTENCE_SETTINGS)
        except (StoreDenied, StoreFault):
            found = []
        return [read_config(reply) for reply in found] if len(found) == nodes else [None] * nodes


def _in_force(info: dict[str, str], config: dict[str, str] | None) -> InForce:
    if config is not None:
        return level_in_force(info, config)
    without = level_in_force(info, {})
    if without.level is not None:
        return without
    return InForce(None, "the server does not let us read appendfsync: its ACL must allow +config|get")


def _weakest(states: Sequence[ServerState]) -> ServerState:
    """What all nodes give."""
    if not states:
        raise StoreUnavailable("no node says what it gives")
    weakest = min(states, key=lambda state: -1 if state.in_force.level is None else strength(state.in_force.level))
    return ServerState(
        weakest.in_force, min(state.replicas for state in states), all(state.waitaof for state in states)
    )
