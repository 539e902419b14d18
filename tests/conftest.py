"""What every test stands on: a private Redis a test process, a fresh prefix a test, a clock that moves."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.names import Kind
from broker.settings import Settings
from broker.store.keys import CLOCK_OFFSET_KEY

_prefixes = itertools.count()


class Clock:
    """Moves the time that every script of the test server sees; nothing sleeps."""

    def __init__(self, broker: Broker) -> None:
        self._core = broker.core

    async def advance(self, seconds: float) -> None:
        """Lets so many seconds pass for Redis's leases, delays, ages and permits, and wakes whoever waits for them."""
        fetch = self._core.runner.fetch
        await fetch("INCRBY", CLOCK_OFFSET_KEY, round(seconds * 1000))
        kinds: tuple[Kind, Kind] = ("queue", "function")
        for kind in kinds:
            for name in await self._core.directory.names(kind):
                for part in await self._core.partitions.parts(self._core.resource(kind, name)):
                    await fetch("PUBLISH", self._core.keys.of(part).wake, "")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The test process's own server; it must not be stopped (tests that stop one start their own)."""
    directory: Path = tmp_path_factory.mktemp("redis")
    with EmbeddedRedis(directory, append_only=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """Its address."""
    return redis_server.url


@pytest.fixture
def settings() -> Settings:
    """Settings under a prefix that no other test has, on a clock that can be moved."""
    return Settings(prefix=f"t{os.getpid()}-{next(_prefixes)}", test_clock=True)


@pytest.fixture
async def broker(redis_url: str, settings: Settings) -> AsyncIterator[Broker]:
    """An open broker on the test's own prefix, at the real time."""
    async with Broker(redis_url, settings=settings) as opened:
        await opened.core.runner.fetch("DEL", CLOCK_OFFSET_KEY)
        yield opened


@pytest.fixture
def clock(broker: Broker) -> Clock:
    """Moves the test server's clock."""
    return Clock(broker)
