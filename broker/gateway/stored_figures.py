"""What Redis knows of all queues and functions, as samples: read when somebody asks, at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from broker import partitions
from broker.client import Broker
from broker.core import Core
from broker.errors import PenstockError
from broker.figures import Key, Metric
from broker.names import SPARE, Kind, Resource
from broker.store.values import Counts

PER_PAGE: Final = 1_000
"""Queues and functions on one page of metrics."""
_WHOSE: Final = ("kind", "name", "account", "region")
_FRESH_S: Final = 1.0
_ANSWER_WITHIN_S: Final = 8.0
_AT_ONCE: Final = 64
_QUEUE: Final = ("queue",)
_FUNCTION: Final = ("function",)
_KINDS: Final[tuple[Kind, Kind]] = ("queue", "function")

MESSAGES: Final = Metric(
    "penstock_messages",
    "gauge",
    "Messages of a queue, or events of a function, by where they are now.",
    (*_WHOSE, "state"),
)
STATES: Final = ("visible", "in_flight", "retrying", "delayed", "set_apart", "outbox")
OLDEST: Final = Metric(
    "penstock_oldest_message_age_seconds",
    "gauge",
    "Age of the oldest message that was never handed out; 0 where there is none.",
    _WHOSE,
)
IN_USE: Final = Metric(
    "penstock_concurrency_in_use", "gauge", "Running calls of a function that has a concurrency limit.", _WHOSE
)


class _Counter(msgspec.Struct, frozen=True):
    """One of the counters that scripts keep with a resource."""

    field: str
    metric: Metric
    kinds: tuple[str, ...]


def _counter(field: str, says: str, kinds: tuple[str, ...] = _KINDS, *, name: str = "") -> _Counter:
    return _Counter(field, Metric(f"penstock_messages_{name or field}", "counter", says, _WHOSE), kinds)


COUNTERS: Final = (
    _counter("sent", "Messages and events that were accepted."),
    _counter("done", "Those that a function processed with success."),
    _counter("failed", "Events that ended without success: retries used up, too old, quarantined.", _FUNCTION),
    _counter("retried", "Times that one was put back after a failure."),
    _counter("released", "Times that one was put back without a failure: a stop, no room."),
    _counter("expired", "Those that got older than they may."),
    _counter("dead", "Messages received too often, which went to a dead-letter queue.", _QUEUE, name="dead_lettered"),
    _counter("deleted", "Messages that a consumer has deleted.", _QUEUE),
    _counter("purged", "Those that a purge threw away."),
    _counter("restored", "Those that got a place again after a script was broken off."),
    _counter("moved", "Dead letters that were moved back.", _QUEUE),
    _counter("filtered", "Messages that the filters of a mapping did not want.", _QUEUE),
    _counter("cancelled", "Events that were cancelled.", _FUNCTION),
    _counter("throttled", "Synchronous calls beyond the function's concurrency limit.", _FUNCTION),
)
STORED: Final = (MESSAGES, OLDEST, IN_USE, *(counter.metric for counter in COUNTERS))
"""What can be said of every queue and function."""


class Page(msgspec.Struct, frozen=True):
    """Samples of up to :data:`PER_PAGE` queues and functions, and how many there are in all."""

    samples: dict[str, list[tuple[Key, float]]]
    """By the name of the metric: values of its labels, and the number."""
    resources: int
    error: str = ""
    """The code of what went wrong: then there are no samples."""


class StoredFigures:
    """Reads pages of samples. Who asks while one is being read, or within a second, gets the same."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Final = broker
        self._reading: Final[dict[int, tuple[float, asyncio.Task[Page]]]] = {}

    async def page(self, number: int) -> Page:
        """One page, from 1. One behind the last has no samples."""
        now_s = time.monotonic()
        for old, (at_s, task) in tuple(self._reading.items()):
            if task.done() and now_s - at_s >= _FRESH_S:
                del self._reading[old]
        if number not in self._reading:
            self._reading[number] = now_s, asyncio.create_task(self._read(number), name="penstock-metrics")
        return await asyncio.shield(self._reading[number][1])

    async def _read(self, number: int) -> Page:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                found = await self._resources()
                first = (number - 1) * PER_PAGE
                samples = await self._samples(found[first : first + PER_PAGE])
        except TimeoutError:
            return Page({}, 0, "StoreUnavailable")
        except PenstockError as error:
            return Page({}, 0, error.code)
        return Page(samples, len(found))

    async def _resources(self) -> list[tuple[Core, Resource]]:
        """All of them, in an order that lasts."""
        found: list[tuple[Core, Resource]] = []
        for account, region in await self._broker.core.directory.scopes():
            core = self._broker.within(account, region).core
            for kind in _KINDS:
                found += [(core, core.resource(kind, name)) for name in await core.directory.names(kind)]
        return found

    async def _samples(self, resources: list[tuple[Core, Resource]]) -> dict[str, list[tuple[Key, float]]]:
        limit = asyncio.Semaphore(_AT_ONCE)
        gathered = _Samples(await self._broker.core.messages.now_ms())

        async def read(core: Core, resource: Resource) -> None:
            async with limit:
                counts = await partitions.counts(core, resource)
                described = await core.directory.describe(resource)
                if counts is None or described is None:  # deleted meanwhile
                    return
                counters = await partitions.counters(core, resource, described.counters)
            gathered.add(resource, counts, counters)

        await asyncio.gather(*(read(core, resource) for core, resource in resources))
        return gathered.sorted()


class _Samples:
    """Gathers samples; what waits for the second version of an alias is the alias's."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms: Final = now_ms
        self._found: Final[dict[str, dict[Key, float]]] = {metric.name: {} for metric in STORED}

    def add(self, resource: Resource, counts: Counts, counters: Mapping[str, int]) -> None:
        """Everything of one resource."""
        whose = (resource.kind, resource.name.removesuffix(SPARE), resource.account, resource.region)
        for state in STATES:
            self._add(MESSAGES, (*whose, state), getattr(counts, state))
        ages = self._found[OLDEST.name]
        age_s = 0.0 if counts.oldest_ms is None else max(0, self._now_ms - counts.oldest_ms) / 1000
        ages[whose] = max(ages.get(whose, 0.0), age_s)
        if resource.kind == "function" and not resource.qualifier:  # versions take from their function's
            self._add(IN_USE, whose, counts.running)
        for counter in COUNTERS:
            if resource.kind in counter.kinds:
                self._add(counter.metric, whose, counters[counter.field])

    def _add(self, metric: Metric, labels: Key, value: float) -> None:
        samples = self._found[metric.name]
        samples[labels] = samples.get(labels, 0) + value

    def sorted(self) -> dict[str, list[tuple[Key, float]]]:
        """By metric, in the order of the labels."""
        return {name: sorted(samples.items()) for name, samples in self._found.items()}
