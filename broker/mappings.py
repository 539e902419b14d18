"""Event source mappings as data: declared by code or made through the API, changed by compare and set."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import msgspec

from broker.compare_and_set import compare_and_set
from broker.core import Core
from broker.declarations import Change, changed_by_api, declared_anew, held, overruled
from broker.errors import MappingExists, MappingNotFound
from broker.functions import Registered
from broker.names import check_name
from broker.queue_settings import ensure_queue
from broker.records import MappingSettings


async def register_mapping(core: Core, settings: MappingSettings) -> Registered:
    """Makes what code declares the mapping's settings for all workers, and creates its queue where missing."""
    check_name("function", settings.function)
    await ensure_queue(core, settings.queue)
    try:
        await create_mapping(core, settings)
    except MappingExists:
        return await _register_again(core, settings)
    return Registered(created=True, changes=[])


async def _register_again(core: Core, declaration: MappingSettings) -> Registered:
    changes: list[Change] = []

    def declare(stored: MappingSettings) -> MappingSettings:
        after = declared_anew(stored, declaration)
        changes[:] = overruled(stored, after)
        return msgspec.structs.replace(after, uuid=stored.identity, modified_ms=stored.modified_ms)

    try:
        after = await _change(core, declaration.name, declare)
    except MappingNotFound:  # deleted meanwhile
        return await register_mapping(core, declaration)
    return Registered(created=False, changes=changes, held=held(after))


async def create_mapping(core: Core, settings: MappingSettings) -> MappingSettings:
    """Stores a new mapping and answers it with its UUID. Raises MappingExists, with the one that is there."""
    made = msgspec.structs.replace(settings, uuid=str(uuid4()), modified_ms=await core.messages.now_ms())
    queue = core.resource("queue", made.queue)
    before = await core.directory.put_mapping(made.name, msgspec.json.encode(made), queue=queue, new=True)
    if before is not None:
        raise MappingExists(made.name, read_mapping(before).identity)
    return made


async def change_mapping(
    core: Core, name: str, change: Callable[[MappingSettings], MappingSettings]
) -> MappingSettings:
    """Changes a mapping through the API; what code declares holds again when it declares something else.

    ``change`` may be called more than once, and may raise. Raises MappingNotFound.
    """

    def changed(stored: MappingSettings) -> MappingSettings:
        after = change(stored)
        return after if stored.origin == "api" else changed_by_api(stored, after)

    return await _change(core, name, changed)


async def _change(core: Core, name: str, change: Callable[[MappingSettings], MappingSettings]) -> MappingSettings:
    async def attempt() -> MappingSettings | None:
        stored = await core.directory.mapping(name)
        if stored is None:
            raise MappingNotFound(name)
        after = change(read_mapping(stored))
        if msgspec.json.encode(after) == stored:
            return after
        return after if await _put(core, name, stored, after) else None

    return await compare_and_set(f'the mapping "{name}"', attempt)


async def _put(core: Core, name: str, stored: bytes, after: MappingSettings) -> bool:
    """Stores it in place of what was read; False where somebody was faster. Raises MappingExists."""
    encoded = msgspec.json.encode(msgspec.structs.replace(after, modified_ms=await core.messages.now_ms()))
    queue = core.resource("queue", after.queue)
    if after.name == name:
        return await core.directory.put_mapping(name, encoded, queue=queue, instead_of=stored) == stored
    if await core.directory.rename_mapping(name, after.name, encoded, queue=queue, instead_of=stored):
        return True
    taken = await core.directory.mapping(after.name)
    if taken is not None:
        raise MappingExists(after.name, read_mapping(taken).identity)
    return False


async def find_mapping(core: Core, identity: str) -> MappingSettings:
    """The mapping with this UUID. Raises MappingNotFound."""
    for mapping in await list_mappings(core):
        if mapping.identity == identity:
            return mapping
    raise MappingNotFound(identity)


async def list_mappings(core: Core) -> list[MappingSettings]:
    """All mappings, sorted by queue and function."""
    stored = await core.directory.mappings()
    return [read_mapping(stored[name]) for name in sorted(stored)]


async def delete_mapping(core: Core, name: str) -> None:
    """Removes a mapping: running workers stop polling for it. One that code declares comes back when a worker that
    declares it starts. Raises MappingNotFound."""
    queue = core.resource("queue", name.partition("->")[0])
    if not await core.directory.delete_mapping(name, queue=queue):
        raise MappingNotFound(name)


def read_mapping(stored: bytes) -> MappingSettings:
    """A mapping as the directory keeps it."""
    return msgspec.json.decode(stored, type=MappingSettings)
