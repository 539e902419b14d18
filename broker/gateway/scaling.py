"""How much there is to do, for autoscalers: the backlog of a queue, or of a function with the queues mapped to it."""

from __future__ import annotations

import msgspec

from broker import partitions
from broker.client import Broker
from broker.core import Core
from broker.errors import FunctionNotFound, QueueNotFound
from broker.mappings import list_mappings
from broker.names import LATEST, Resource, check_name, split_function
from broker.records import FunctionSettings, MappingSettings
from broker.store.values import Counts


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What waits and what runs, at one moment."""

    value: int
    """What workers are needed for now: what may be handed out, and what is in flight. For a function that rests, and a
    mapping that does, what is in flight alone."""
    backlog: int
    """What may be handed out now."""
    in_flight: int
    retrying: int
    delayed: int
    oldest_age_s: float
    """Of what was never handed out."""
    rests: bool = False
    queue: str = ""
    """Of a mapping: its queue."""
    own: Work | None = None
    """Of a function: its own events."""
    mappings: tuple[Work, ...] | None = None
    """Of a function: the queues that feed it."""


async def work_of_queue(broker: Broker, name: str) -> Work:
    """Raises QueueNotFound, InvalidName, StoreError."""
    counts = await partitions.counts(broker.core, broker.core.resource("queue", check_name("queue", name)))
    if counts is None:
        raise QueueNotFound(name)
    return _work(counts, await broker.core.messages.now_ms())


async def work_of_function(broker: Broker, name: str) -> Work:
    """The function's events and the messages in the queues that are mapped to it. Raises FunctionNotFound, InvalidName,
    StoreError."""
    core = broker.core
    function, qualifier = split_function(name)
    target = function if qualifier in {"", LATEST} else f"{function}:{qualifier}"
    described = await core.directory.describe(core.resource("function", target))
    if described is None:
        raise FunctionNotFound(name)
    now_ms = await core.messages.now_ms()
    settings = msgspec.json.decode(described.settings, type=FunctionSettings)
    rests = described.held or settings.paused
    own = _work(await broker.function(target).counts(), now_ms, rests=rests)
    mappings = [each for each in await list_mappings(core) if each.target == target]
    mapped = [await _work_of_mapping(core, each, now_ms, rests=rests) for each in mappings]
    every = [own, *(work for work in mapped if work is not None)]
    return Work(
        value=sum(work.value for work in every),
        backlog=sum(work.backlog for work in every),
        in_flight=sum(work.in_flight for work in every),
        retrying=sum(work.retrying for work in every),
        delayed=sum(work.delayed for work in every),
        oldest_age_s=max(work.oldest_age_s for work in every),
        rests=rests,
        own=own,
        mappings=tuple(every[1:]),
    )


async def _work_of_mapping(core: Core, mapping: MappingSettings, now_ms: int, *, rests: bool) -> Work | None:
    resource: Resource = core.resource("queue", mapping.queue)
    counts = await partitions.counts(core, resource)
    if counts is None:
        return None
    return _work(counts, now_ms, rests=rests or not mapping.enabled, queue=mapping.queue)


def _work(counts: Counts, now_ms: int, *, rests: bool = False, queue: str = "") -> Work:
    backlog = counts.visible + counts.set_apart
    age_s = 0.0 if counts.oldest_ms is None else max(0, now_ms - counts.oldest_ms) / 1000
    return Work(
        value=counts.in_flight + (0 if rests else backlog),
        backlog=backlog,
        in_flight=counts.in_flight,
        retrying=counts.retrying,
        delayed=counts.delayed,
        oldest_age_s=age_s,
        rests=rests,
        queue=queue,
    )
