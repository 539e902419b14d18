"""A durable server of its own for each fault test, and what every scenario does at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.embedded import EmbeddedRedis
from broker.settings import Settings

LEASE_MS = 1_000


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
