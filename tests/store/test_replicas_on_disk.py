"""replica-fsync:N: nothing is answered before it is on the disks of the primary and of replicas (WAITAOF, from 7.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import DurabilityNotMet, StoreDenied, WriteNotConfirmed
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.store.connection import connect_in_thread
from broker.store.rights import acl_rule
from tests.store.replicated import CONFIRM_MS, SETTINGS, Replicated, replicated, skip_without_waitaof

pytestmark = pytest.mark.timeout(120)
_BEING_WRITTEN = (b"aof_rewrite_in_progress:1", b"aof_rewrite_scheduled:1")


@pytest.fixture(scope="module", autouse=True)
def waitaof() -> None:
    """Skips where the server has no WAITAOF."""
    skip_without_waitaof()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Replicated]:
    """Both with append-only files, synced before every answer."""
    async with replicated(tmp_path, append_only=True, fsync="always") as made:
        yield made


@pytest.fixture
async def broker(pair: Replicated) -> AsyncIterator[Broker]:
    """On the primary."""
    async with Broker(pair.url, settings=SETTINGS) as opened:
        yield opened


async def set_append_only(server: EmbeddedRedis, value: str) -> None:
    """Switches the file on or off at run time, and waits until it is whole."""
    await asyncio.to_thread(_set_append_only, server.url, value)


def _set_append_only(url: str, value: str) -> None:
    client = connect_in_thread(url)  # Broker refuses a replica
    try:
        execute: Callable[..., Any] = client.execute_command
        execute("CONFIG", "SET", "appendonly", value)
        # With a snapshot for the replica under way the rewrite is scheduled at first.
        while any(word in execute("INFO", "persistence") for word in _BEING_WRITTEN):
            time.sleep(0.01)
    finally:
        client.close()


async def test_what_is_answered_is_in_the_file_of_the_replica(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica-fsync:1")
    for number in range(150):  # a second each would be too long: they must be asked as soon as they can know
        await queue.send(f"m{number}")
    await asyncio.gather(*(queue.send(f"m{number}") for number in range(50)))
    for server in (pair.primary, pair.replica):
        server.kill()
    async with _Alone(pair.replica) as left:
        assert (await left.queue("orders").counts()).visible == 200


class _Alone:
    """The replica's folder under a server of its own."""

    def __init__(self, replica: EmbeddedRedis) -> None:
        self._server = EmbeddedRedis(replica.directory, append_only=True, fsync="always")

    async def __aenter__(self) -> Broker:
        await asyncio.to_thread(self._server.start)
        self._broker = await Broker(self._server.url, settings=SETTINGS).__aenter__()
        return self._broker

    async def __aexit__(self, *failure: object) -> None:
        await self._broker.__aexit__(None, None, None)
        await asyncio.to_thread(self._server.stop)


async def test_a_file_that_is_synced_every_second_will_do(tmp_path: Path) -> None:
    async with replicated(tmp_path, append_only=True) as pair, Broker(pair.url, settings=SETTINGS) as broker:
        queue = broker.queue("orders")
        await queue.create(durability="replica-fsync:1")
        await asyncio.gather(*(queue.send(str(number)) for number in range(300)))
        assert (await queue.counts()).visible == 300


async def test_nothing_is_answered_while_the_replica_stands_still_and_a_repeat_is_safe(
    pair: Replicated, broker: Broker
) -> None:
    queue, stream = broker.queue("orders"), broker.stream("log")
    await queue.create(durability="replica-fsync:1")
    await stream.create(durability="replica-fsync:1")
    await register_function(broker.core, "work", FunctionSettings(durability="replica-fsync:1"))
    pair.stop_replica()
    sends: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: queue.send("one", id="own"),
        lambda: stream.append("a"),
        lambda: broker.invoke("work", {}),
    )
    for send in sends:
        with pytest.raises(WriteNotConfirmed, match=f"only 0 replicas have confirmed it within {CONFIRM_MS} ms"):
            await send()
    pair.continue_replica()
    await pair.in_step(broker)
    assert await queue.send("one", id="own") == "own"
    assert [message.body for message in await queue.receive(10)] == ["one"]


async def test_a_replica_without_a_file_is_refused_and_nothing_is_made(pair: Replicated, broker: Broker) -> None:
    await set_append_only(pair.replica, "no")
    refused = "only 0 replicas have said within .* on their disks, which one whose appendonly is no never does"
    with pytest.raises(DurabilityNotMet, match=refused):
        await broker.queue("orders").create(durability="replica-fsync:1")
    with pytest.raises(DurabilityNotMet, match=refused):
        await broker.stream("log").create(durability="replica-fsync:1")
    with pytest.raises(DurabilityNotMet, match=refused):
        await register_function(broker.core, "work", FunctionSettings(durability="replica-fsync:1"))
    assert (await broker.queues(), await broker.streams(), await broker.functions()) == ([], [], [])
    await broker.queue("orders").create(durability="replica:1")  # which needs none
    await set_append_only(pair.replica, "yes")
    await broker.queue("orders").configure(durability="replica-fsync:1")
    await broker.queue("orders").send("one")


async def test_a_primary_without_a_file_is_refused_by_name(pair: Replicated, broker: Broker) -> None:
    await set_append_only(pair.primary, "no")
    with pytest.raises(DurabilityNotMet, match=r"there is no append-only file \(appendonly is no\)"):
        await broker.queue("orders").create(durability="replica-fsync:1")
    assert await broker.queues() == []


async def test_a_file_that_is_switched_off_later_is_noticed(
    pair: Replicated, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica-fsync:1")
    await set_append_only(pair.replica, "no")
    with pytest.raises(WriteNotConfirmed):
        await queue.send("replica", id="replica")
    await set_append_only(pair.replica, "yes")
    assert await queue.send("replica", id="replica") == "replica"
    with monkeypatch.context() as patched:  # what is known of the primary's settings is up to a second old
        known = await broker.core.durable.look()
        await set_append_only(pair.primary, "no")
        patched.setattr(broker.core.durable._everywhere, "state", lambda: _answer(known))
        with pytest.raises(WriteNotConfirmed, match=r"no append-only file any more .*the same send with its id"):
            await queue.send("primary", id="primary")
    await broker.core.durable.look()
    with pytest.raises(DurabilityNotMet, match="there is no append-only file"):
        await queue.send("never")
    assert (await queue.counts()).visible == 2


async def _answer(known: Any) -> Any:
    return known


async def test_a_user_that_may_not_wait_is_told_so_before_anything_is_made(pair: Replicated, broker: Broker) -> None:
    rule = acl_rule("penstock").split()
    await broker.core.runner.fetch("ACL", "SETUSER", "penstock", "on", ">secret", *rule)
    async with Broker(pair.url.replace("unix://", "unix://penstock:secret@"), settings=SETTINGS) as least:
        with pytest.raises(StoreDenied, match="waitaof"):
            await least.queue("orders").create(durability="replica-fsync:1")
        await broker.core.runner.fetch("ACL", "SETUSER", "penstock", "+waitaof")
        await least.queue("orders").create(durability="replica-fsync:1")
        await least.queue("orders").send("one")
