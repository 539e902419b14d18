"""What every test stands on: a private Redis a test process, a fresh prefix a test, a clock that moves."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.names import Kind
from broker.settings import Settings
from broker.store.keys import CLOCK_OFFSET_KEYS
from broker.store.scripts import ScriptRunner
from tests.servers import RedisCluster

TOPOLOGY_VARIABLE: Final = "PENSTOCK_TEST_TOPOLOGY"
ON_CLUSTER: Final = os.environ.get(TOPOLOGY_VARIABLE) == "cluster"
"""Whether these tests run on three primaries with a replica each (`make test TOPOLOGY=cluster`)."""

_prefixes = itertools.count()


async def move_clock(runner: ScriptRunner, milliseconds: int) -> None:
    """Lets time pass for every script of the test server, and wakes nobody."""
    for key in CLOCK_OFFSET_KEYS:
        await runner.fetch("INCRBY", key, milliseconds)


async def set_clock(runner: ScriptRunner, offset_ms: int = 0) -> None:
    """Goes back to the real time, or to so much later."""
    for key in CLOCK_OFFSET_KEYS:
        await (runner.fetch("SET", key, offset_ms) if offset_ms else runner.fetch("DEL", key))


async def stop_clock(runner: ScriptRunner, at_ms: int) -> None:
    """Lets time stand still there for every script of the test server, however long a test takes."""
    for key in CLOCK_OFFSET_KEYS:
        await runner.fetch("SET", key, f"={at_ms}")


async def clock_offset_ms(runner: ScriptRunner) -> int:
    """How far the scripts' time is ahead."""
    return int(await runner.fetch("GET", CLOCK_OFFSET_KEYS[0]) or 0)


class Clock:
    """Moves the time that every script of the test server sees; nothing sleeps."""

    def __init__(self, broker: Broker) -> None:
        self._core = broker.core

    async def advance(self, seconds: float) -> None:
        """Lets so many seconds pass for Redis's leases, delays, ages and permits, and wakes whoever waits for them."""
        fetch = self._core.runner.fetch
        await move_clock(self._core.runner, round(seconds * 1000))
        kinds: tuple[Kind, Kind] = ("queue", "function")
        for kind in kinds:
            for name in await self._core.directory.names(kind):
                for part in await self._core.partitions.parts(self._core.resource(kind, name)):
                    await fetch("PUBLISH", self._core.keys.of(part).wake, "")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis | RedisCluster]:
    """The test process's own server, or cluster; it must not be stopped (tests that stop one start their own)."""
    directory: Path = tmp_path_factory.mktemp("redis")
    with RedisCluster(directory) if ON_CLUSTER else EmbeddedRedis(directory, append_only=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis | RedisCluster) -> str:
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
        await set_clock(opened.core.runner)
        yield opened


@pytest.fixture
def clock(broker: Broker) -> Clock:
    """Moves the test server's clock."""
    return Clock(broker)
