"""What is done about each of Redis's errors; the table is in docs/operations/redis.md."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import exceptions as failures

from broker import Broker, errors
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from broker.store.connection import translated
from runtime import App, Context
from tests.runtime.scene import eventually, serving

PLACE = "redis://user:secret@r:1"
SETTINGS = Settings(prefix="moved")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (failures.BusyLoadingError("Redis is loading the dataset in memory"), errors.StoreUnavailable),
        (failures.ResponseError("LOADING Redis is loading the dataset in memory"), errors.StoreUnavailable),
        (failures.ResponseError("BUSY Redis is busy running a script."), errors.StoreUnavailable),
        (failures.ResponseError("MASTERDOWN Link with MASTER is down"), errors.StoreUnavailable),
        (failures.ResponseError("CLUSTERDOWN The cluster is down"), errors.StoreUnavailable),
        (failures.ResponseError("NOREPLICAS Not enough good replicas to write."), errors.StoreUnavailable),
        (failures.ResponseError("MISCONF Redis is configured to save RDB snapshots"), errors.StoreUnavailable),
        (failures.ReadOnlyError("You can't write against a read only replica."), errors.StoreReadOnly),
        (failures.ResponseError("READONLY You can't write (script: x)"), errors.StoreReadOnly),
        (failures.OutOfMemoryError("command not allowed"), errors.StoreFull),
        (failures.ResponseError("Error running script: OOM command not allowed"), errors.StoreFull),
        (failures.NoPermissionError("no permissions"), errors.StoreDenied),
        (failures.AuthenticationError("invalid username-password pair"), errors.StoreDenied),
        (failures.ResponseError("NOAUTH Authentication required."), errors.StoreDenied),
        (failures.ResponseError("WRONGPASS invalid username-password pair"), errors.StoreDenied),
        (failures.ConnectionError("Connection reset by peer"), errors.StoreUnavailable),
        (failures.TimeoutError("Timeout reading from socket"), errors.StoreUnavailable),
        (OSError("no route to host"), errors.StoreUnavailable),
        (failures.ResponseError("WRONGTYPE Operation against a key"), errors.StoreFault),
    ],
    ids=str,
)
def test_every_error_of_redis_is_one_of_ours(reply: Exception, error: type[errors.StoreError]) -> None:
    with pytest.raises(errors.StoreError) as raised, translated(PLACE, "the URL given"):
        raise reply
    assert type(raised.value) is error
    assert "secret" not in str(raised.value)


class Address:
    """A name that leads to one of two servers: a link to its socket, which every new connection follows."""

    def __init__(self, folder: Path) -> None:
        self._link = folder / "current.sock"
        self.first = EmbeddedRedis(folder / "a", append_only=False)
        self.second = EmbeddedRedis(folder / "b", append_only=False)

    @property
    def url(self) -> str:
        return f"unix://{self._link}"

    def lead_to(self, server: EmbeddedRedis) -> None:
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(server.directory / "redis.sock")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Address]:
    made = Address(tmp_path)
    with made.first, made.second:
        made.lead_to(made.first)
        yield made


async def test_after_a_failover_the_next_attempt_finds_the_new_primary(address: Address) -> None:
    async with Broker(address.second.url, settings=SETTINGS) as direct:
        await direct.queue("orders").create()
    async with Broker(address.url, settings=SETTINGS) as broker:
        queue = broker.queue("orders")
        await queue.create()
        receiving = asyncio.create_task(queue.receive(wait=30))
        await asyncio.gather(*(queue.counts() for _ in range(5)))  # several connections
        await eventually(lambda: _listeners(address.first, broker), what="it listens")
        await broker.core.runner.fetch("REPLICAOF", "127.0.0.1", "1")  # the old primary lives on as a replica
        address.lead_to(address.second)
        with pytest.raises(errors.StoreReadOnly):
            await queue.send("refused")
        await eventually(lambda: _listeners(address.second, broker), what="it listens to the new one")
        await queue.send("stored")
        assert [message.body for message in await receiving] == ["stored"]


async def test_a_plain_command_finds_the_new_primary_as_well_as_a_script_does(address: Address) -> None:
    """A supervisor has no others: it keeps why a worker died."""
    async with Broker(address.url, settings=SETTINGS) as broker:
        directory = broker.core.directory
        await directory.record_end("one", "signal: killed")
        await broker.core.runner.fetch("REPLICAOF", "127.0.0.1", "1")
        address.lead_to(address.second)
        with pytest.raises(errors.StoreReadOnly):
            await directory.record_end("two", "signal: killed")
        await directory.record_end("two", "signal: killed")
        assert await directory.end_of("two") == "signal: killed"


async def _listeners(server: EmbeddedRedis, broker: Broker) -> int:
    wake = broker.core.keys.of(broker.queue("orders").resource).wake
    async with Broker(server.url, settings=Settings(prefix="look")) as look:
        return int((await look.core.runner.fetch("PUBSUB", "NUMSUB", wake))[1])


async def test_a_worker_follows_its_address_to_another_server(address: Address) -> None:
    app, handled = App(), list[str]()

    @app.function()
    async def work(event: str, _: Context) -> None:
        handled.append(event)

    async with Broker(address.second.url, settings=SETTINGS) as direct:
        async with serving(app, address.second.url, SETTINGS):
            pass  # registered there as well, as on a replica
        async with serving(app, address.url, SETTINGS) as worker:
            assert worker.why_not_ready() is None
            address.lead_to(address.second)
            address.first.kill()
            await direct.invoke("work", "after")
            await eventually(lambda: handled == ["after"], what="the event is handled", timeout_s=20)
            await eventually(lambda: worker.why_not_ready() is None, what="it is ready again")


async def test_scripts_that_the_server_has_forgotten_are_sent_as_text(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await queue.send("one")
    await broker.core.runner.fetch("SCRIPT", "FLUSH")
    await queue.send("two")
    assert {message.body for message in await queue.receive(10)} == {"one", "two"}


async def test_a_worker_is_not_ready_while_it_cannot_poll(tmp_path: Path) -> None:
    app = App()

    @app.function()
    async def work(event: str, _: Context) -> str:
        return event

    with EmbeddedRedis(tmp_path / "r", fsync="always") as server:
        async with Broker(server.url, settings=SETTINGS) as broker, serving(app, server.url, SETTINGS) as worker:
            assert worker.why_not_ready() is None
            server.kill()
            await eventually(lambda: worker.why_not_ready() == "StoreUnavailable", what="it is red")
            await asyncio.to_thread(server.start)
            await eventually(lambda: worker.why_not_ready() is None, what="it is green again")
            assert await broker.call("work", "x", timeout=10) == "x"
        assert worker.why_not_ready() == "stopping"
