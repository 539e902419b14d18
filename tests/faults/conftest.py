"""A durable server of its own for each fault test, and what every scenario does at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.scene import LARGE
from tests.faults.service import Serve, Service

LEASE_MS = 1_000
SCENARIO_LIMIT_S = 5_400

# What is worth its time in `make faults` alone.
collect_ignore_glob = [] if LARGE else ["long/*"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At the large size limits guard against what never ends, no more."""
    for item in items if LARGE else ():
        item.add_marker(pytest.mark.timeout(SCENARIO_LIMIT_S), append=False)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """Writes and syncs before it answers, and keeps its whole history."""
    server = EmbeddedRedis(tmp_path / "redis", fsync="always", options={"auto-aof-rewrite-percentage": "0"})
    with server:
        yield server


@pytest.fixture
def short_leases() -> Settings:
    """A lease of one second, so that nobody has to wait for its end for long."""
    return Settings(prefix="faults", lease_ms=LEASE_MS)


@pytest.fixture
def serve(durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path) -> Serve:
    """Runs the workers of an app of :mod:`tests.faults.apps` on the durable server."""

    @asynccontextmanager
    async def serving(app: str, **options: Any) -> AsyncIterator[tuple[Broker, Service]]:
        service = Service(app, url=durable.url, settings=short_leases, folder=tmp_path, **options)
        async with Broker(durable.url, settings=short_leases) as broker, service:
            yield broker, service

    return serving
