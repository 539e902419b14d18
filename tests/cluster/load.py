"""Producers and a worker on several resources, and what became of each event: a history, read when all is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from broker import Broker
from broker.errors import StoreError
from broker.settings import Settings
from runtime import App, Context
from tests.runtime.scene import eventually, serving

FUNCTIONS: Final = 6
QUEUES: Final = 3
LEASE_MS: Final = 1_500
SETTLED_S: Final = 60.0
_PAUSE_S: Final = 0.01
_HANDLER_S: Final = 0.005
_IN_DOUBT_S: Final = 1.0
"""What was acknowledged so shortly before a primary died may not have reached its replica (the product's caveat)."""


class Load:
    """Sends to functions and mapped queues, one event a time and resource, and notes what is accepted and what runs."""

    def __init__(self, broker: Broker) -> None:
        self.broker: Final = broker
        self.app: Final = App()
        self.accepted: Final[dict[str, float]] = {}
        self.begun: Final[dict[str, list[float]]] = {}
        self.overlaps: Final[dict[str, float]] = {}
        self.refused = 0
        self._running: Final[set[str]] = set()
        self._producing = True
        for number in range(FUNCTIONS):
            self.app.function(name=f"f{number}", timeout=20)(self._handler(f"f{number}"))
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
            await asyncio.sleep(_HANDLER_S)
        finally:
            self._running.discard(identity)

    async def _produce(self, resource: str) -> None:
        number = 0
        while self._producing:
            number += 1
            await self._offer(resource, f"{resource}-{number}")
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

    async def flowing(self) -> None:
        """Returns when an event that was accepted from now on has run, for every resource."""
        since = time.monotonic()

        def each() -> bool:
            fresh = {
                name.partition("-")[0] for name, when in self.accepted.items() if when > since and name in self.begun
            }
            return fresh.issuperset(self.resources)

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

    def at_once(self, *, died_at: float | None = None) -> list[str]:
        """Events that ran twice at the same time: handed out again although their lease lived."""
        return [name for name, when in self.overlaps.items() if not _doubtful(when, died_at)]


def _doubtful(when: float, died_at: float | None) -> bool:
    return died_at is not None and died_at - _IN_DOUBT_S <= when


@asynccontextmanager
async def under_load(url: str, prefix: str) -> AsyncIterator[Load]:
    """A worker and producers on a Redis, until the end."""
    settings = Settings(prefix=prefix, lease_ms=LEASE_MS)
    async with Broker(url, settings=settings) as broker:
        load = Load(broker)
        for number in range(QUEUES):
            await broker.queue(f"q{number}").create()
        async with serving(load.app, url, settings):
            producing = [asyncio.create_task(load._produce(name)) for name in load.resources]
            try:
                await load.flowing()
                yield load
            finally:
                load._producing = False
                for task in producing:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*producing, return_exceptions=True)
