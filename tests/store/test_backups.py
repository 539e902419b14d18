"""A copy of what Redis has written, restored: events go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from broker.store.server import read_info
from tests.conftest import Clock
from tests.runtime.scene import eventually

SETTINGS = Settings(test_clock=True)


async def prepare(broker: Broker) -> None:
    """Something in every state that a queue has."""
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=30)
    await queue.send("running then")
    assert len(await queue.receive()) == 1
    await queue.send("queued then")
    await queue.send("delayed then", delay=900)


async def goes_on(broker: Broker) -> None:
    """What was there is handed out, at its time."""
    queue, clock = broker.queue("orders"), Clock(broker)
    assert [message.body for message in await queue.receive(10)] == ["queued then"]
    await clock.advance(31)
    assert {message.body for message in await queue.receive(10)} == {"queued then", "running then"}
    await clock.advance(900)
    assert "delayed then" in {message.body for message in await queue.receive(10)}
    await queue.send("new")


@pytest.mark.parametrize("append_only", [True, False], ids=["append-only file", "snapshot"])
async def test_events_go_on_after_a_restore(tmp_path: Path, *, append_only: bool) -> None:
    with EmbeddedRedis(tmp_path / "first", append_only=append_only, fsync="always") as server:
        async with Broker(server.url, settings=SETTINGS) as broker:
            await prepare(broker)
            fetch = broker.core.runner.fetch
            await fetch("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
            if not append_only:
                await fetch("BGSAVE")

            async def written() -> bool:
                info = read_info(await fetch("INFO", "persistence"))
                return info["aof_rewrite_in_progress"] == info["rdb_bgsave_in_progress"] == "0"

            await eventually(written, what="it is written")
            (tmp_path / "second").mkdir()
            for name in ("appendonlydir", "appendonly.aof", "dump.rdb"):
                found = tmp_path / "first" / name
                if found.is_dir():
                    shutil.copytree(found, tmp_path / "second" / name)
                elif found.exists():
                    shutil.copy(found, tmp_path / "second" / name)
            await broker.queue("orders").purge()  # what happens after the copy is not in it
    with EmbeddedRedis(tmp_path / "second", append_only=append_only) as server:
        async with Broker(server.url, settings=SETTINGS) as broker:
            await goes_on(broker)
