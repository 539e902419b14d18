"""Registered functions as data: registration (the newest wins), invocation, counting, pausing, removal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from broker.core import Core
from broker.declarations import Change, changed_by_api, declared_anew, held, overruled
from broker.errors import FunctionNotFound, InvalidOption, ResourceBusy, StoreFault
from broker.names import Function, Queue, Resource, Stream, Target, check_name
from broker.outgoing import event_message, event_messages
from broker.partitions import counts, delete, follow, growth_fields, purge
from broker.queue_settings import ensure_queue
from broker.records import FunctionSettings
from broker.routing import Relay
from broker.sending import Sender
from broker.store.directory import Described
from broker.store.values import Counts
from broker.streams import ensure_stream

_CHANGE_ATTEMPTS: Final = 50


class FunctionClient:
    """One function, as an open :class:`broker.Broker` gives it. Errors: FunctionNotFound, InvalidInput, StoreError."""

    def __init__(self, core: Core, sender: Sender, relay: Relay, name: str) -> None:
        self.name: Final = check_name("function", name)
        self.resource: Final[Resource] = core.resource("function", name)
        self._core: Final = core
        self._sender: Final = sender
        self._relay: Final = relay

    async def invoke(self, event: object, *, id: str | None = None) -> str:  # noqa: A002 - the word users know
        """Stores an event for asynchronous invocation; answers the request id. Returning means stored."""
        accepted = await self._sender.send(self.resource, event_message(self.name, event, id))
        return id or accepted.id

    async def invoke_many(self, events: Iterable[object]) -> list[str]:
        """Stores many events; answers their request ids. All are checked before the first is stored."""
        return await self._sender.send_many(self.resource, event_messages(self.name, events))

    async def settings(self) -> FunctionSettings:
        """The settings in force: those of the newest registration."""
        described = await self._core.directory.describe(self.resource)
        if described is None:
            raise FunctionNotFound(self.name)
        return msgspec.json.decode(described.settings, type=FunctionSettings)

    async def counts(self) -> Counts:
        """Exact numbers of its queued, running and retrying events at this moment."""
        found = await counts(self._core, self.resource)
        if found is None:
            raise FunctionNotFound(self.name)
        return found

    async def pause(self) -> None:
        """Nothing more is claimed or called, and nothing expires; everything stays queued until :meth:`resume`."""
        await self._hold(held=True)

    async def resume(self) -> None:
        """Ends a pause by :meth:`pause`; one that the code declares (``paused=True``) goes on."""
        await self._hold(held=False)

    async def _hold(self, *, held: bool) -> None:
        if not await self._core.directory.hold(self.resource, held=held):
            raise FunctionNotFound(self.name)
        await follow(self._core, self.resource, len(await self._core.partitions.parts(self.resource)))

    async def purge(self) -> int:
        """Throws all queued events away, running ones too; answers how many."""
        held = await purge(self._core, self.resource)
        if not isinstance(held, int):
            raise FunctionNotFound(self.name)
        return held

    async def delete(self, *, force: bool = False) -> None:
        """Removes the function. With events in it: raises ResourceBusy, unless forced."""
        for part in await self._core.partitions.parts(self.resource):
            await self._relay.deliver(part)
        status, held = await delete(self._core, self.resource, force=force)
        if status == "unknown":
            raise FunctionNotFound(self.name)
        if status == "busy":
            raise ResourceBusy("function", self.name, held)


class Registered(msgspec.Struct, frozen=True):
    """What a registration did."""

    created: bool
    changes: list[Change]
    held: list[Change] = []
    """Where the API's word still holds: what the code declares before, what is in force after."""


def function_fields(settings: FunctionSettings) -> dict[str, str]:
    """The settings that the scripts read."""
    return {
        "limit": "" if settings.concurrency is None else str(settings.concurrency),
        "paused": "1" if settings.paused else "",
        "max_crashes": str(settings.max_crashes),
        "keep_ms": str(math.ceil(settings.keep_status_s * 1000)) if settings.keep_status_s else "",
    }


async def register_function(core: Core, name: str, settings: FunctionSettings) -> Registered:
    """Makes these the function's settings for all workers, and creates the queues and streams that it names."""
    resource = core.resource("function", check_name("function", name))
    targets = {option: getattr(settings, option) for option in ("on_success", "on_failure", "dead_letter")}
    for option, target in targets.items():
        if target == Function(name):
            raise InvalidOption(option, target, "a function cannot be a destination of itself")
    for target in targets.values():
        if target is not None:
            await ensure_target(core, target)
    while (described := await core.directory.describe(resource)) is None:
        encoded = msgspec.json.encode(settings)
        fields = function_fields(settings) | await growth_fields(
            core, resource, None, before=1, after=settings.partitions
        )
        done = await core.directory.configure(resource, encoded, fields, mode="create")
        if done.status == "created":
            await follow(core, resource, settings.partitions)
            core.directory.forget(resource)  # one of that name may have been there before
            await core.directory.note_nonce(resource)
            return Registered(created=True, changes=[])
    await core.directory.note_nonce(resource)
    before, after = await _change(
        core, resource, described, lambda stored: declared_anew(stored, never_fewer(stored, settings))
    )
    return Registered(created=False, changes=overruled(before, after), held=held(after))


def never_fewer(stored: FunctionSettings, declaration: FunctionSettings) -> FunctionSettings:
    """What code declares, with no fewer partitions than there are: an older release of it must not stop at that."""
    return msgspec.structs.replace(declaration, partitions=max(stored.partitions, declaration.partitions))


async def change_function(
    core: Core, resource: Resource, change: Callable[[FunctionSettings], FunctionSettings]
) -> FunctionSettings:
    """Changes settings through the API; the change holds until the code declares something else for that setting.

    ``change`` may be called more than once, and may raise. Raises FunctionNotFound.
    """
    described = await core.directory.describe(resource)
    if described is None:
        raise FunctionNotFound(resource.name)
    _, after = await _change(core, resource, described, lambda stored: changed_by_api(stored, change(stored)))
    return after


async def _change(
    core: Core, resource: Resource, described: Described, change: Callable[[FunctionSettings], FunctionSettings]
) -> tuple[FunctionSettings, FunctionSettings]:
    """Compare and set, so that two who change at once both get their way; the settings before and after."""
    for _ in range(_CHANGE_ATTEMPTS):
        before = msgspec.json.decode(described.settings, type=FunctionSettings)
        after = change(before)
        fields = function_fields(after) | await growth_fields(
            core, resource, described, before=before.partitions, after=after.partitions
        )
        encoded = msgspec.json.encode(after)
        done = await core.directory.configure(resource, encoded, fields, mode="replace", instead_of=described.settings)
        if done.status != "kept":
            await follow(core, resource, after.partitions)
            return before, after
        found = await core.directory.describe(resource)
        if found is None:
            raise FunctionNotFound(resource.name)
        described = found
    changed = f'the settings of function "{resource.name}" were changed {_CHANGE_ATTEMPTS} times during one change'
    raise StoreFault(changed)


async def ensure_target(core: Core, target: Target) -> None:
    """Creates a queue or stream that something names. A function as a target must be registered by its own worker."""
    match target:
        case Queue():
            await ensure_queue(core, target.name)
        case Stream():
            await ensure_stream(core, target.name)
        case Function():
            pass
