"""A primary that Sentinels know goes away under load: commands follow its successor."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker, errors
from tests.cluster.load import under_load
from tests.servers import SentinelGroup


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    """One primary, two replicas, three Sentinels."""
    with SentinelGroup(tmp_path) as running:
        yield running


async def test_a_killed_primary_is_replaced(group: SentinelGroup, prefix: str) -> None:
    async with under_load(group.url, prefix) as load:
        died_at = time.monotonic()
        await asyncio.to_thread(group.primary().kill)
        await load.flowing()
        await load.ended(died_at=died_at)
        assert load.at_once(died_at=died_at) == []


async def test_a_primary_that_comes_back_as_a_replica_is_left(group: SentinelGroup, prefix: str) -> None:
    """Stopped for so long that another has taken over, it still takes itself for the primary for a moment."""
    async with under_load(group.url, prefix) as load:
        primary = group.primary()
        died_at = time.monotonic()
        primary.signal(signal.SIGSTOP)
        await load.flowing()
        primary.signal(signal.SIGCONT)
        await load.flowing()
        await load.ended(died_at=died_at)
        assert load.at_once(died_at=died_at) == []
        assert group.primary() is not primary


async def test_sentinels_that_know_no_such_primary_and_absent_ones_are_named(group: SentinelGroup) -> None:
    with pytest.raises(errors.StoreUnavailable, match='knows no service "other"'):
        async with Broker(group.url.replace("/events", "/other")):
            pass
    with pytest.raises(errors.StoreUnavailable, match=r"no Sentinel names the primary: .*127\.0\.0\.1:1"):
        async with Broker("redis+sentinel://127.0.0.1:1/events"):
            pass
    port = group.sentinels[0].port
    with pytest.raises(errors.StoreUnsuitable, match=r"is a Sentinel; write redis\+sentinel://127\.0\.0\.1:\d+/ and"):
        async with Broker(f"redis://127.0.0.1:{port}"):
            pass
    members = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/events"
    async with Broker(members) as broker:
        assert await broker.queues() == []
