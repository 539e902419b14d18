"""Redis absent, old, evicting, read-only, locked or full: each refused by name, with nothing half-done or lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Broker, Queue, errors
from broker.embedded import EmbeddedRedis
from broker.queues import QueueClient
from broker.settings import Settings
from tests.conftest import Clock


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port", ""])
async def test_a_url_that_is_none_is_refused_by_its_value(url: str) -> None:
    with pytest.raises(errors.InvalidOption, match="url="):
        async with Broker(url):
            pass


async def test_an_absent_redis_is_named_with_its_url_and_why_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = f"unix://{tmp_path}/none.sock"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.StoreUnavailable, match=re.escape(f"{absent} (the URL given)")):
        async with Broker(absent):
            pass
    monkeypatch.setenv("PENSTOCK_REDIS_URL", absent)
    with pytest.raises(errors.StoreUnavailable, match=re.escape(f"{absent} (from PENSTOCK_REDIS_URL)")):
        async with Broker():
            pass
    with pytest.raises(errors.StoreUnavailable, match=r"redis://127\.0\.0\.1:1 \(the URL given\)"):
        async with Broker("redis://127.0.0.1:1"):
            pass


async def test_a_password_is_never_shown(tmp_path: Path) -> None:
    for url in (
        "redis://user:hunter2@127.0.0.1:1",
        "redis://127.0.0.1:1?password=hunter2&db=1",
        "reddis://u:hunter2@h",
    ):
        with pytest.raises(errors.PenstockError) as caught:
            async with Broker(url):
                pass
        assert "hunter2" not in str(caught.value)


@pytest.fixture
async def old_server(tmp_path: Path) -> AsyncIterator[str]:
    """Answers as a Redis of 2020 does, as far as we ask it."""
    info = b"# Server\r\nredis_version:6.0.16\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            parts = []
            for _ in range(int(line[1:])):
                await reader.readline()
                parts.append((await reader.readline()).strip().upper())
            known = parts == [b"INFO"]
            writer.write(b"$%d\r\n%s\r\n" % (len(info), info) if known else b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "old.sock")
    async with server:
        yield f"unix://{tmp_path}/old.sock"


async def test_an_old_server_is_refused_by_its_version(old_server: str) -> None:
    with pytest.raises(errors.StoreUnsuitable, match=r"is version 6\.0\.16; Penstock needs 6\.2 or newer"):
        async with Broker(old_server):
            pass


@pytest.mark.parametrize(
    ("options", "error", "rule"),
    [
        (
            {"maxmemory-policy": "allkeys-lru"},
            errors.StoreUnsuitable,
            "has maxmemory-policy allkeys-lru, which throws events away",
        ),
        ({"maxmemory-policy": "volatile-ttl"}, errors.StoreUnsuitable, "set it to noeviction"),
        ({"replicaof": "127.0.0.1 1"}, errors.StoreReadOnly, "is a read-only replica; give the address of the primary"),
        ({"requirepass": "secret"}, errors.StoreDenied, "refused: Authentication required"),
    ],
    ids=["evicting", "evicting volatile keys", "replica", "password"],
)
async def test_a_server_that_must_not_be_trusted_is_refused(
    tmp_path: Path, options: dict[str, str], error: type[errors.StoreError], rule: str
) -> None:
    with EmbeddedRedis(tmp_path / "r", append_only=False, options=options) as server:
        with pytest.raises(error, match=rule) as caught:
            async with Broker(server.url):
                pass
        assert server.url in str(caught.value)


async def test_a_wrong_password_is_denied_and_not_shown(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "r", append_only=False, options={"requirepass": "secret"}) as server:
        with pytest.raises(errors.StoreDenied, match="refused: invalid username-password pair") as caught:
            async with Broker(server.url.replace("unix://", "unix://:hunter2@")):
                pass
        assert "hunter2" not in str(caught.value)
        async with Broker(server.url.replace("unix://", "unix://:secret@")) as broker:
            assert await broker.queues() == []


async def test_a_server_that_becomes_a_replica_refuses_by_name_and_goes_on_afterwards(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "r", append_only=False) as server:
        async with Broker(server.url) as broker:
            queue = broker.queue("orders")
            await queue.create()
            await queue.send("x")
            await broker.core.runner.fetch("REPLICAOF", "127.0.0.1", "1")
            for use in (lambda: queue.send("y"), queue.receive, broker.queue("new").create):
                with pytest.raises(errors.StoreReadOnly, match="is a read-only replica"):
                    await use()
            await broker.core.runner.fetch("REPLICAOF", "NO", "ONE")
            await queue.send("z")
            assert [message.body for message in await queue.receive(10)] == ["x", "z"]


async def test_a_user_without_a_right_is_denied_by_name(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "r", append_only=False, options={"user": "default on nopass ~* &* +info"}) as server:
        async with Broker(server.url) as broker:
            with pytest.raises(errors.StoreDenied, match=r"refused: .*no permissions"):
                await broker.queue("orders").create()


async def fill(queue: QueueClient) -> int:
    """Sends until the server is full; answers how many were accepted."""
    accepted = 0
    for size in (50_000, 1_000, 10):
        try:
            while True:
                await queue.send("x" * size)
                accepted += 1
        except errors.StoreFull as full:
            assert "has reached its maxmemory; nothing was stored" in str(full)  # noqa: PT017 - both sides are looked at
    return accepted


async def test_a_full_server_refuses_producers_and_lets_everything_else_through(tmp_path: Path) -> None:
    settings = Settings(test_clock=True, full_at_percent=100)
    with EmbeddedRedis(tmp_path / "r", append_only=False, max_memory_bytes=4_000_000) as server:
        async with Broker(server.url, settings=settings) as broker:
            clock = Clock(broker)
            await clock.advance(0)
            queue, dead = broker.queue("orders"), broker.queue("dead")
            await queue.create(visibility_timeout=10, dead_letter=Queue("dead"), max_receives=1)
            accepted = await fill(queue)
            assert accepted > 10
            assert (await queue.counts()).visible == accepted
            with pytest.raises(errors.StoreFull):
                await queue.send_many(["x"] * 10)
            assert (await queue.counts()).visible == accepted

            first, second, third = await queue.receive(3)
            await first.extend(5)
            await first.delete()
            await second.release()
            await third.delete()
            assert (await queue.counts()).total == accepted - 2
            # The released one has used up its receives: it goes to the dead-letter queue, full or not.
            (fourth,) = await queue.receive(1)
            assert fourth.id != second.id
            await fill_rest(broker)
            await broker.deliver(queue.resource)
            assert [letter.id for letter in await dead.receive(wait=5)] == [second.id]
            assert await queue.purge() == accepted - 3
            await until_accepted(queue, "there is room again")


async def until_accepted(queue: QueueClient, body: str) -> None:
    """What is purged is freed by a thread of Redis, a moment later."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(errors.StoreFull):
                await queue.send(body)
                return


async def fill_rest(broker: Broker) -> None:
    """Takes what the settles gave back, by a key of our own."""
    with contextlib.suppress(errors.StoreFull):
        while True:
            await broker.core.runner.fetch("APPEND", "ballast", b"x" * 10_000)


async def test_redis_going_away_and_coming_back_is_survived(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "r", append_only=True, fsync="always") as server:
        async with Broker(server.url) as broker:
            queue = broker.queue("orders")
            await queue.create()
            await queue.send("before")
            server.kill()
            sending = asyncio.create_task(queue.send("meanwhile"))
            await asyncio.sleep(0)
            with pytest.raises(errors.StoreUnavailable, match=re.escape(server.url)):
                await queue.receive()
            await asyncio.to_thread(server.start)
            await sending
            assert [message.body for message in await queue.receive(10)] == ["before", "meanwhile"]
