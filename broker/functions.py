"""Registered functions as data: registration (the newest wins), invocation, counting, pausing, removal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from broker import spans
from broker.builds import Alias, Catalogue, Version, check_alias, function_fields
from broker.compare_and_set import compare_and_set
from broker.core import Core
from broker.declarations import Change, changed_by_api, declared_anew, held, overruled
from broker.errors import FunctionNotFound, InvalidOption, PenstockError, ResourceBusy, VersionNotFound
from broker.names import LATEST, SPARE, Function, Queue, Resource, Stream, Target, check_name, split_function
from broker.outgoing import event_message, event_messages
from broker.partitions import counts, delete, follow, growth_fields, purge, replace_settings, together
from broker.queue_settings import ensure_queue
from broker.records import FunctionSettings
from broker.routing import Relay
from broker.sending import Sender
from broker.store.directory import Described
from broker.store.values import Counts, NewMessage
from broker.streams import ensure_stream
from broker.versions import (
    align,
    create_alias,
    delete_alias,
    delete_version,
    forget_versions,
    publish_version,
    read_catalogue,
    route_events,
    update_alias,
)


class FunctionClient:
    """One function, as an open :class:`broker.Broker` gives it. Errors: FunctionNotFound, InvalidInput, StoreError."""

    def __init__(self, core: Core, sender: Sender, relay: Relay, name: str) -> None:
        self.name: Final = name
        function, self._qualifier = split_function(name)
        if self._qualifier == LATEST:
            self._qualifier = ""
        self.function: Final = function
        """Its name without a qualifier."""
        self.resource: Final[Resource] = core.resource("function", name if self._qualifier else function)
        self._core: Final = core
        self._sender: Final = sender
        self._relay: Final = relay

    async def invoke(self, event: object, *, id: str | None = None) -> str:  # noqa: A002 - the word users know
        """Stores an event for asynchronous invocation; answers the request id. Returning means stored."""
        resource = (await route_events(self._core, self.name))(id) if self._qualifier else self.resource
        with spans.sending(resource) as span:  # the message carries the span
            accepted = await self._sender.send(resource, event_message(self.name, event, id))
            if span is not None:
                span.set("messaging.message.id", id or accepted.id)
        return id or accepted.id

    async def invoke_many(self, events: Iterable[object]) -> list[str]:
        """Stores many events; answers their request ids. All are checked before the first is stored."""
        given = list(events)
        with spans.sending(self.resource, len(given)):
            return await self._send_many(event_messages(self.name, given))

    async def _send_many(self, messages: Sequence[NewMessage]) -> list[str]:
        if not self._qualifier:
            return await self._sender.send_many(self.resource, messages)
        route = await route_events(self._core, self.name)
        places = [route(None) for _ in messages]
        ids: dict[Resource, Iterator[str]] = {}
        for place in dict.fromkeys(places):
            group = [message for message, each in zip(messages, places, strict=True) if each == place]
            try:
                ids[place] = iter(await self._sender.send_many(place, group))
            except PenstockError as error:
                ids[place] = iter(error.stored)
                error.stored = tuple(next(ids.get(each, iter(())), "") for each in places)
                raise
        return [next(ids[place]) for place in places]

    async def settings(self) -> FunctionSettings:
        """The settings in force: those of the newest registration."""
        described = await self._core.directory.describe(self.resource)
        if described is None:
            raise FunctionNotFound(self.name)
        return msgspec.json.decode(described.settings, type=FunctionSettings)

    async def counts(self) -> Counts:
        """Exact numbers of its queued, running and retrying events at this moment."""
        found = [each for place in self._places() if (each := await counts(self._core, place)) is not None]
        if not found:
            raise FunctionNotFound(self.name)
        return together(found)

    def _places(self) -> list[Resource]:
        """What holds its events: of an alias two, one for each of its versions."""
        if not self._qualifier or self._qualifier.isdecimal():
            return [self.resource]
        return [self.resource, self._core.resource("function", f"{self.name}{SPARE}")]

    async def pause(self) -> None:
        """Nothing more is claimed or called, of its versions neither, and nothing expires; everything stays queued
        until :meth:`resume`."""
        await self._hold(held=True)

    async def resume(self) -> None:
        """Ends a pause by :meth:`pause`; one that the code declares (``paused=True``) goes on."""
        await self._hold(held=False)

    async def _hold(self, *, held: bool) -> None:
        function = self._core.resource("function", self.function)
        if not await self._core.directory.hold(function, held=held):
            raise FunctionNotFound(self.function)
        await follow(self._core, function, len(await self._core.partitions.parts(function)))
        await align(self._core, self.function)

    async def purge(self) -> int:
        """Throws all queued events away, running ones too; answers how many."""
        held = [await purge(self._core, place) for place in self._places()]
        if not isinstance(held[0], int):
            raise FunctionNotFound(self.name)
        return sum(each for each in held if isinstance(each, int))

    async def delete(self, *, force: bool = False) -> None:
        """Removes the function with its versions and aliases, or the one that the name says. With events in it: raises
        ResourceBusy, unless forced."""
        if self._qualifier:
            await self._delete_qualified(force=force)
            return
        await forget_versions(self._core, self.name, force=force)
        for part in await self._core.partitions.parts(self.resource):
            await self._relay.deliver(part)
        status, held = await delete(self._core, self.resource, force=force)
        if status == "unknown":
            raise FunctionNotFound(self.name)
        if status == "busy":
            raise ResourceBusy("function", self.name, held)

    async def _delete_qualified(self, *, force: bool) -> None:
        if self._qualifier.isdecimal():
            await delete_version(self._core, self.function, self._qualifier, force=force)
        else:
            await delete_alias(self._core, self.function, self._qualifier, force=force)

    # -- versions and aliases -----------------------------------------------------------------------------------------

    async def publish(self, *, description: str | None = None) -> Version:
        """Makes a numbered version of what is registered now; the newest one where nothing has changed since.

        Raises BuildNotNamed where its workers do not say what their build is called.
        """
        return await publish_version(self._core, self.function, description=description)

    async def versions(self) -> list[Version]:
        """Its versions, in the order of their numbers."""
        found = (await self._catalogue()).versions.values()
        return sorted(found, key=lambda version: version.number)

    async def aliases(self) -> list[Alias]:
        """Its aliases, sorted by name."""
        found = (await self._catalogue()).aliases
        return [found[name] for name in sorted(found)]

    async def set_alias(
        self,
        name: str,
        version: int | str,
        *,
        weights: Mapping[str, float] | None = None,
        description: str | None = None,
    ) -> Alias:
        """Lets an alias name a version, whether it is there already or not. ``weights`` gives one more version a share
        of the calls, as ``{"3": 0.1}``; without, there is none any more. Raises VersionNotFound, InvalidInput."""
        number, shares = str(version), weights or {}
        check_alias(name)
        try:
            return await update_alias(
                self._core, self.function, name, version=number, weights=shares, description=description
            )
        except VersionNotFound:
            if name in (await self._catalogue()).aliases:
                raise
        return await create_alias(
            self._core, self.function, name, number, weights=shares, description=description or ""
        )

    async def _catalogue(self) -> Catalogue:
        if await self._core.directory.describe(self._core.resource("function", self.function)) is None:
            raise FunctionNotFound(self.function)
        return await read_catalogue(self._core, self.function)


class Registered(msgspec.Struct, frozen=True):
    """What a registration did."""

    created: bool
    changes: list[Change]
    held: list[Change] = []
    """Where the API's word still holds: what the code declares before, what is in force after."""


async def register_function(core: Core, name: str, settings: FunctionSettings) -> Registered:
    """Makes these the function's settings for all workers, and creates the queues and streams that it names."""
    resource = core.resource("function", check_name("function", name))
    await core.durable.check(settings.durability, resource)
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
    if before != after:
        await align(core, name)
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
    await align(core, resource.name)
    return after


async def _change(
    core: Core, resource: Resource, described: Described, change: Callable[[FunctionSettings], FunctionSettings]
) -> tuple[FunctionSettings, FunctionSettings]:
    """The settings before and after; ``described`` is how the function was just now."""
    found: Described | None = described

    async def attempt() -> tuple[FunctionSettings, FunctionSettings] | None:
        nonlocal found
        if found is None:
            raise FunctionNotFound(resource.name)
        before = msgspec.json.decode(found.settings, type=FunctionSettings)
        after = change(before)
        fields = function_fields(after)
        if await replace_settings(core, resource, found, after, fields, before=before.partitions):
            return before, after
        found = await core.directory.describe(resource)
        return None

    return await compare_and_set(f'the settings of function "{resource.name}"', attempt)


async def ensure_target(core: Core, target: Target) -> None:
    """Creates a queue or stream that something names. A function as a target must be registered by its own worker."""
    match target:
        case Queue():
            await ensure_queue(core, target.name)
        case Stream():
            await ensure_stream(core, target.name)
        case Function():
            pass
