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
from tests.runtime.scene import eventually
from tests.servers import SentinelGroup, until


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


async def test_a_primary_that_was_replaced_is_left_also_where_it_goes_on_answering(tmp_path: Path) -> None:
    """Nobody has told it yet, as in the seconds after a planned failover: what it accepts will be forgotten."""
    never_told = {"rename-command": 'SLAVEOF ""'}
    with SentinelGroup(tmp_path, first_primary_options=never_told) as group:
        async with Broker(group.url) as broker:
            old = await asyncio.to_thread(group.primary)
            await asyncio.to_thread(group.fail_over)
            await asyncio.to_thread(until, lambda: group.primary() is not old, "a replica takes over")
            new = await asyncio.to_thread(group.primary)

            async def has_moved() -> bool:
                try:
                    _, port = await broker.core.runner.fetch("CONFIG", "GET", "port")
                except errors.StoreUnavailable:  # its connection is just being left
                    return False
                return int(port) == new.port

            await eventually(has_moved, what="commands go to the new primary", timeout_s=30)
            assert old.ask("ROLE")[0] == b"master"


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
