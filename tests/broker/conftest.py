"""A queue, and the faulty way to the test's Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.queues import QueueClient
from tests.conftest import ON_CLUSTER
from tests.faults.proxy import FaultProxy


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    """A standard queue, with the usual settings."""
    made = broker.queue("orders")
    await made.create()
    return made


@pytest.fixture
async def proxy(redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """Stands before the test's one server."""
    if ON_CLUSTER:
        pytest.skip("the proxy stands before one server")
    async with FaultProxy(Path(redis_server.url.removeprefix("unix://")), tmp_path / "p.sock") as running:
        yield running
