"""Registered functions as data: registration (the newest wins), invocation, counting, pausing, removal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from broker import spans
from broker.core import Core
from broker.declarations import Change, changed_by_api, declared_anew, held, overruled
from broker.errors import FunctionNotFound, InvalidOption, ResourceBusy, StoreFault
from broker.names import Function, Queue, Resource, Stream, Target, check_name
from broker.outgoing import event_message, event_messages
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
        with spans.sending(self.resource) as span:
            accepted = await self._sender.send(self.resource, event_message(self.name, event, id))
            if span is not None:
                span.set("messaging.message.id", id or accepted.id)
        return id or accepted.id

    async def invoke_many(self, events: Iterable[object]) -> list[str]:
        """Stores many events; answers their request ids. All are checked before the first is stored."""
        given = list(events)
        with spans.sending(self.resource, len(given)):
            return await self._sender.send_many(self.resource, event_messages(self.name, given))

    async def settings(self) -> FunctionSettings:
        """The settings in force: those of the newest registration."""
        described = await self._core.directory.describe(self.resource)
        if described is None:
            raise FunctionNotFound(self.name)
        return msgspec.json.decode(described.settings, type=FunctionSettings)

    async def counts(self) -> Counts:
        """Exact numbers of its queued, running and retrying events at this moment."""
        counts = await self._core.messages.counts(self.resource)
        if counts is None:
            raise FunctionNotFound(self.name)
        return counts

    async def pause(self) -> None:
        """Nothing more is claimed or called, and nothing expires; everything stays queued until :meth:`resume`."""
        if not await self._core.directory.hold(self.resource, held=True):
            raise FunctionNotFound(self.name)

    async def resume(self) -> None:
        """Ends a pause by :meth:`pause`; one that the code declares (``paused=True``) goes on."""
        if not await self._core.directory.hold(self.resource, held=False):
            raise FunctionNotFound(self.name)

    async def purge(self) -> int:
        """Throws all queued events away, running ones too; answers how many."""
        held = await self._core.messages.purge(self.resource)
        if not isinstance(held, int):
            raise FunctionNotFound(self.name)
        return held

    async def delete(self, *, force: bool = False) -> None:
        """Removes the function. With events in it: raises ResourceBusy, unless forced."""
        await self._relay.deliver(self.resource)
        status, held = await self._core.directory.delete(self.resource, force=force)
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
        "durability": settings.durability,
        "keep_ms": str(math.ceil(settings.keep_status_s * 1000)) if settings.keep_status_s else "",
    }


async def register_function(core: Core, name: str, settings: FunctionSettings) -> Registered:
    """Makes these the function's settings for all workers, and creates the queues and streams that it names."""
    resource = core.resource("function", check_name("function", name))
    await core.durable.check(settings.durability)
    targets = {option: getattr(settings, option) for option in ("on_success", "on_failure", "dead_letter")}
    for option, target in targets.items():
        if target == Function(name):
            raise InvalidOption(option, target, "a function cannot be a destination of itself")
    for target in targets.values():
        if target is not None:
            await ensure_target(core, target)
    while (described := await core.directory.describe(resource)) is None:
        encoded = msgspec.json.encode(settings)
        done = await core.directory.configure(resource, encoded, function_fields(settings), mode="create")
        if done.status == "created":
            core.directory.forget(resource)  # one of that name may have been there before
            await core.directory.note_nonce(resource)
            return Registered(created=True, changes=[])
    await core.directory.note_nonce(resource)
    before, after = await _change(core, resource, described, lambda stored: declared_anew(stored, settings))
    return Registered(created=False, changes=overruled(before, after), held=held(after))


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
        encoded, fields = msgspec.json.encode(after), function_fields(after)
        done = await core.directory.configure(resource, encoded, fields, mode="replace", instead_of=described.settings)
        if done.status != "kept":
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
