"""Settings of queues: read, made, changed by compare and set, so that two who change at once both get their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from broker.compare_and_set import compare_and_set
from broker.core import Core
from broker.errors import InvalidOption, QueueDeletedRecently, QueueExists, QueueNotFound
from broker.names import Resource, check_name
from broker.partitions import follow, growth_fields, replace_settings
from broker.records import QueueSettings
from broker.store.directory import Described


class DescribedQueue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as it is now."""

    resource: Resource
    settings: QueueSettings
    nonce: int
    """The queue's own random number: part of its message ids and receipts."""
    created_ms: int
    changed_ms: int
    """When its settings were last changed; its creation where they never were."""
    implied: bool
    """It exists only because something named it."""
    counters: dict[str, int] = {}
    """What has become of its messages since it was made, by kind."""


async def describe_queue(core: Core, resource: Resource) -> DescribedQueue:
    """The queue as it is now. Raises QueueNotFound."""
    described = await core.directory.describe(resource)
    if described is None:
        raise QueueNotFound(resource.name)
    return _read(resource, described)


def _read(resource: Resource, described: Described) -> DescribedQueue:
    return DescribedQueue(
        resource=resource,
        settings=msgspec.json.decode(described.settings, type=QueueSettings),
        nonce=described.nonce,
        created_ms=described.created_ms,
        changed_ms=described.changed_ms,
        implied=described.implied,
        counters=described.counters,
    )


async def create_queue(
    core: Core, resource: Resource, settings: QueueSettings, *, compared: Iterable[str], gone_ms: int = 0
) -> None:
    """Creates the queue; where it exists, checks that the ``compared`` fields of its settings are the same.

    A queue that exists only because something named it takes the settings given. Raises QueueExists, and
    QueueDeletedRecently within ``gone_ms`` of a deletion.
    """
    check_type(resource.name, settings)
    described = await core.directory.describe(resource)
    if described is not None and not described.implied:
        check_same(resource.name, described.settings, settings, compared)  # before anything is created because of it
    await core.durable.check(settings.durability, resource)
    await make_dead_letter(core, resource, settings)
    fields = queue_fields(settings) | await growth_fields(
        core, resource, described, before=1, after=settings.partitions
    )
    done = await core.directory.configure(
        resource, msgspec.json.encode(settings), fields, mode="create", gone_ms=gone_ms
    )
    if done.status == "gone":
        raise QueueDeletedRecently(resource.name)
    if done.status == "kept" and done.before is not None:
        check_same(resource.name, done.before, settings, compared)
    await follow(core, resource, settings.partitions)


def check_type(name: str, settings: QueueSettings) -> None:
    """Raises InvalidOption unless the name ends in .fifo where the queue is a FIFO queue, and only there."""
    if settings.fifo != name.endswith(".fifo"):
        raise InvalidOption("fifo", settings.fifo, f'the name "{name}" says otherwise: .fifo ends that of FIFO queues')


def check_same(name: str, stored: bytes, settings: QueueSettings, compared: Iterable[str]) -> None:
    """Raises QueueExists, naming the first of the compared fields in which stored settings differ."""
    before = msgspec.json.decode(stored, type=QueueSettings)
    for field in compared:
        if getattr(before, field) != getattr(settings, field):
            raise QueueExists(name, field.removesuffix("_s"))


async def change_queue(
    core: Core, resource: Resource, change: Callable[[QueueSettings], QueueSettings]
) -> QueueSettings:
    """Changes the settings by what ``change`` makes of those in force, whoever else changes them at the same time.

    ``change`` may be called more than once, and may raise. Raises QueueNotFound.
    """

    async def attempt() -> QueueSettings | None:
        described = await core.directory.describe(resource)
        if described is None:
            raise QueueNotFound(resource.name)
        before = msgspec.json.decode(described.settings, type=QueueSettings)
        settings = change(before)
        check_type(resource.name, settings)
        if settings.durability != before.durability:
            await core.durable.check(settings.durability, resource)
        if settings.dead_letter != before.dead_letter:  # else any change would make a deleted one again
            await make_dead_letter(core, resource, settings)
        fields = queue_fields(settings)
        stored = await replace_settings(core, resource, described, settings, fields, before=before.partitions)
        return settings if stored else None

    return await compare_and_set(f'the settings of queue "{resource.name}"', attempt)


async def make_dead_letter(core: Core, resource: Resource, settings: QueueSettings) -> None:
    """Creates the dead-letter queue that settings name, with defaults, where it is missing. Raises InvalidOption."""
    if settings.dead_letter is None:
        return
    if settings.dead_letter == resource.name:
        raise InvalidOption("dead_letter", resource.name, "a queue cannot be its own dead-letter queue")
    if settings.dead_letter.endswith(".fifo") != resource.fifo:
        rule = "the dead-letter queue of a FIFO queue is a FIFO queue, that of a standard queue a standard one"
        raise InvalidOption("dead_letter", settings.dead_letter, rule)
    await ensure_queue(core, settings.dead_letter)
    target = await queue_settings(core, core.resource("queue", settings.dead_letter))
    if not may_redrive_to(target, resource):
        raise InvalidOption(
            "dead_letter", settings.dead_letter, f'it does not allow "{resource.name}" to redrive to it'
        )


def may_redrive_to(target: QueueSettings, source: Resource) -> bool:
    """Whether a queue with these settings may be the dead-letter queue of that one (SQS's RedriveAllowPolicy)."""
    if target.redrive_permission == "byQueue":
        return source.arn in target.redrive_sources
    return target.redrive_permission != "denyAll"


def queue_fields(settings: QueueSettings) -> dict[str, str]:
    """The settings that the scripts read, in their units."""
    return {
        "visibility_ms": str(round(settings.visibility_timeout_s * 1000)),
        "wait_ms": str(round(settings.receive_wait_s * 1000)),
        "delay_ms": str(round(settings.delay_s * 1000)),
        "retention_ms": str(round(settings.retention_s * 1000)),
        "max_bytes": str(settings.max_message_bytes),
        "max_receives": "" if settings.max_receives is None else str(settings.max_receives),
        "content_ids": "1" if settings.content_deduplication else "",
        "id_scope": "group" if settings.deduplication_scope == "messageGroup" else "",
        "durability": settings.durability,
    }


async def ensure_queue(core: Core, name: str) -> None:
    """Creates a queue that something names, with defaults, where it is missing."""
    resource = core.resource("queue", check_name("queue", name))
    settings = QueueSettings(fifo=resource.fifo)
    encoded = msgspec.json.encode(settings)
    await core.directory.configure(resource, encoded, queue_fields(settings), mode="ensure", implied=True)


async def queue_settings(core: Core, resource: Resource) -> QueueSettings:
    """The settings of a queue in force; the defaults where it does not exist."""
    described = await core.directory.describe(resource)
    return QueueSettings() if described is None else msgspec.json.decode(described.settings, type=QueueSettings)
