"""Producers and a worker on several resources, and what became of each event: a history, read when all is over."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from broker import Broker
from broker.errors import StoreError
from broker.settings import Settings
from runtime import App, Context
from tests.runtime.scene import eventually, serving

FUNCTIONS: Final = 6
QUEUES: Final = 3
CONFIRMED: Final = frozenset({"f3", "f4", "f5", "q1"})
"""What requires ``replica:1`` where a load has both kinds: at each of three primaries there are both."""
LEASE_MS: Final = 1_500
OUTLASTING_MS: Final = 6_000
"""A lease that is a little longer than what a failover takes, as leases should be."""
SETTLED_S: Final = 60.0
_PAUSE_S: Final = 0.01
_HANDLER_S: Final = 0.005
_LONG_LEASES: Final = 1.5
_EACH_LONG: Final = 50
_IN_DOUBT_S: Final = 1.0
"""What was acknowledged so shortly before a primary died may not have reached its replica (the product's caveat)."""


@dataclass(frozen=True)
class Lost:
    """Events that were accepted and have never run: all of them, those that required some durability, and those that
    were not acknowledged while, or just before, a primary went away."""

    events: list[str]
    confirmed: list[str]
    without_reason: list[str]


class Load:
    """Sends to functions and mapped queues, one event a time and resource, and notes what is accepted and what runs.

    ``confirmed`` names the resources that require a ``level`` of durability. With ``long`` every fiftieth call of a
    function takes longer than its lease, which has to be renewed while others take over. ``side`` tells the events of
    several loads apart.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        confirmed: Collection[str] = (),
        level: str = "replica:1",
        long: bool = False,
        side: str = "",
    ) -> None:
        self.broker: Final = broker
        self.app: Final = App()
        self.accepted: Final[dict[str, float]] = {}
        self.begun: Final[dict[str, list[float]]] = {}
        self.overlaps: Final[dict[str, float]] = {}
        self.refused = 0
        self.confirmed: Final = frozenset(confirmed)
        self.level: Final = level
        self.doubtful: Final[list[tuple[float, float]]] = []
        """When what was acknowledged, or leased, may have been in the memory of one primary alone."""
        self._lease_s: Final = broker.core.settings.lease_ms / 1_000
        self._long = long
        self._side: Final = side
        self._running: Final[set[str]] = set()
        self._producing = True
        for number in range(FUNCTIONS):
            name = f"f{number}"
            durability = level if name in self.confirmed else None
            self.app.function(name=name, timeout=20, durability=durability)(self._handler(name))
        for number in range(QUEUES):
            self.app.queue(f"q{number}", batch_size=10)(self._batch_handler(f"m{number}"))

    def _handler(self, name: str) -> Any:
        async def handle(event: Any, context: Context) -> None:
            await self._run(event["id"])

        handle.__name__ = name
        return handle

    def _batch_handler(self, name: str) -> Any:
        async def handle(event: Any, context: Context) -> None:
            for record in event["Records"]:
                await self._run(record["body"])

        handle.__name__ = name
        return handle

    async def _run(self, identity: str) -> None:
        now = time.monotonic()
        if identity in self._running:
            self.overlaps[identity] = now
        self._running.add(identity)
        self.begun.setdefault(identity, []).append(now)
        try:
            is_long = self._long and identity.startswith("f") and int(identity.rpartition("-")[2]) % _EACH_LONG == 0
            await asyncio.sleep(_LONG_LEASES * self._lease_s if is_long else _HANDLER_S)
        finally:
            self._running.discard(identity)

    async def _produce(self, resource: str) -> None:
        number = 0
        while self._producing:
            number += 1
            await self._offer(resource, "-".join(filter(None, (resource, self._side, str(number)))))
            await asyncio.sleep(_PAUSE_S)

    async def _offer(self, resource: str, identity: str) -> None:
        """Sends until it is accepted, once: under an id of its own."""
        while True:
            try:
                if resource.startswith("f"):
                    await self.broker.function(resource).invoke({"id": identity}, id=identity)
                else:
                    await self.broker.queue(resource).send(identity, id=identity)
            except StoreError:
                self.refused += 1
                await asyncio.sleep(_PAUSE_S)
            else:
                self.accepted[identity] = time.monotonic()
                return

    @property
    def resources(self) -> list[str]:
        """The names of what is sent to."""
        return [*(f"f{number}" for number in range(FUNCTIONS)), *(f"q{number}" for number in range(QUEUES))]

    async def flowing(self, *, of: Iterable[str] = ()) -> None:
        """Returns when an event that was accepted from now on has run, for every resource, or for each of some."""
        since = time.monotonic()
        wanted = frozenset(of or self.resources)

        def each() -> bool:
            newest = itertools.takewhile(lambda each: each[1] > since, reversed(self.accepted.items()))
            return wanted <= {name.partition("-")[0] for name, _ in newest if name in self.begun}

        await eventually(each, what="events of every resource flow", timeout_s=SETTLED_S)

    async def ended(self, *, died_at: float | None = None) -> None:
        """Stops the producers and returns when everything accepted has run: everything but what was accepted within a
        second before a primary died."""
        self._producing = False
        await asyncio.sleep(_PAUSE_S)

        def missing() -> list[str]:
            return [
                name for name, when in self.accepted.items() if name not in self.begun and not _doubtful(when, died_at)
            ]

        await eventually(lambda: not missing(), what="every accepted event has run", timeout_s=SETTLED_S)

    async def emptied(self) -> None:
        """Stops the producers and returns when every resource is empty; what was set apart runs alone, as supervised
        workers would have it."""
        self._producing = self._long = (
            False  # alone, one after the other, long ones would take longer than anybody waits
        )
        await asyncio.sleep(2 * self._lease_s)

        left: dict[str, Any] = {}

        async def empty() -> bool:
            left.clear()
            left.update([(name, counts) for name in self.resources if (counts := await self._left_of(name))])
            return not left

        core = self.broker.core
        async with serving(self.app, core.address.url, core.settings, alone=True):
            try:
                await eventually(empty, what="every resource is empty", timeout_s=SETTLED_S)
            except AssertionError as error:
                raise AssertionError(f"not empty: {left}") from error

    async def _left_of(self, resource: str) -> Any:
        """None when it is empty."""
        is_function = resource.startswith("f")
        try:
            counts = await (self.broker.function(resource) if is_function else self.broker.queue(resource)).counts()
        except StoreError as error:
            return error
        return counts if counts.total else None

    def doubt(self, since: float, until: float | None = None) -> None:
        """A primary went away then; ``until`` another served, now if it is not said."""
        self.doubtful.append((since - _IN_DOUBT_S, time.monotonic() if until is None else until))

    def _is_doubtful(self, when: float) -> bool:
        return any(since <= when <= end for since, end in self.doubtful)

    def lost_of(self, accepted: Mapping[str, float]) -> Lost:
        """What was accepted, here or by another load, and has never run."""
        lost = [name for name in accepted if name not in self.begun]
        return Lost(
            lost,
            confirmed=[name for name in lost if name.partition("-")[0] in self.confirmed],
            without_reason=[name for name in lost if not self._is_doubtful(accepted[name])],
        )

    def twice_without_reason(self) -> list[str]:
        """Events that ran twice at a time, and whose first lease was not given just before a primary went away."""
        return [name for name in self.overlaps if not self._is_doubtful(self.begun[name][0])]

    def pauses_s(self, resources: Collection[str], since: float, until: float) -> tuple[float, float]:
        """The longest times in which one of the resources accepted nothing, and in which none of its events began."""
        accepted = _by_resource(self.accepted.items())
        begun = _by_resource((name, when) for name, times in self.begun.items() for when in times)
        return (
            max(longest_pause_s(accepted.get(name, []), since, until) for name in resources),
            max(longest_pause_s(begun.get(name, []), since, until) for name in resources),
        )

    def at_once(self, *, died_at: float | None = None) -> list[str]:
        """Events that ran twice at the same time: handed out again although their lease lived."""
        return [name for name, when in self.overlaps.items() if not _doubtful(when, died_at)]


def _doubtful(when: float, died_at: float | None) -> bool:
    return died_at is not None and died_at - _IN_DOUBT_S <= when


def _by_resource(events: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, when in events:
        found.setdefault(name.partition("-")[0], []).append(when)
    return found


def longest_pause_s(times: Iterable[float], since: float, until: float) -> float:
    """The longest part of a period in which nothing happened."""
    marks = [since, *sorted(when for when in times if since < when < until), until]
    return max(later - before for before, later in itertools.pairwise(marks))


@asynccontextmanager
async def under_load(
    url: str,
    prefix: str,
    *,
    confirmed: Collection[str] = (),
    level: str = "replica:1",
    long: bool = False,
    side: str = "",
    workers: int = 1,
    lease_ms: int = LEASE_MS,
) -> AsyncIterator[Load]:
    """Workers and producers on a Redis, until the end. Without workers somebody else has to have made the resources."""
    settings = Settings(prefix=prefix, lease_ms=lease_ms)
    async with Broker(url, settings=settings) as broker, AsyncExitStack() as running:
        load = Load(broker, confirmed=confirmed, level=level, long=long, side=side)
        for number in range(QUEUES if workers else 0):
            durability = level if f"q{number}" in load.confirmed else None
            await broker.queue(f"q{number}").create(durability=durability)
        for _ in range(workers):
            await running.enter_async_context(serving(load.app, url, settings))
        producing = [asyncio.create_task(load._produce(name)) for name in load.resources]
        try:
            if workers:
                await load.flowing()
            yield load
        finally:
            load._producing = False
            for task in producing:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*producing, return_exceptions=True)
