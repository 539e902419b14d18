"""The one connection that all tasks share: whose reply is whose, whatever happens to those who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import exceptions as failures

from broker.embedded import EmbeddedRedis
from broker.store.connection import Client, connect


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server, whatever the others run on: this is about one connection."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), append_only=False) as server:
        yield server


@pytest.fixture
async def client(redis_server: EmbeddedRedis) -> Any:
    client = connect(redis_server.url)
    yield client
    await client.aclose()


async def test_a_thousand_tasks_get_their_own_replies_over_one_connection(client: Client) -> None:
    names = [b"%d" % number for number in range(1_000)]

    ids = asyncio.gather(*(client.execute("CLIENT", "ID") for _ in names))
    assert await asyncio.gather(*(client.execute("ECHO", name) for name in names)) == names
    assert len(set(await ids)) == 1


async def test_one_that_is_cancelled_leaves_the_others_their_replies(client: Client) -> None:
    await client.execute("PING")
    tasks = [asyncio.create_task(client.execute("ECHO", str(number))) for number in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()

    replies = await asyncio.gather(*tasks, return_exceptions=True)

    left = [number for number in range(100) if number % 3]
    assert [reply for reply in replies if isinstance(reply, bytes)] == [b"%d" % number for number in left]
    assert await client.execute("ECHO", "next") == b"next"


async def test_an_error_is_raised_for_its_own_command_alone(client: Client) -> None:
    replies = await asyncio.gather(
        client.execute("ECHO", "one"),
        client.execute("EVALSHA", "0" * 40, 0),
        client.execute("ECHO", "two"),
        return_exceptions=True,
    )

    assert replies[0] == b"one"
    assert isinstance(replies[1], failures.NoScriptError)
    assert replies[2] == b"two"


async def test_all_who_wait_hear_of_a_lost_connection_and_the_next_command_makes_another(
    client: Client, redis_server: EmbeddedRedis
) -> None:
    other = connect(redis_server.url)
    mine = await client.execute("CLIENT", "ID")
    waiting = [asyncio.create_task(client.execute("BLPOP", f"never-{number}", 0)) for number in range(3)]
    await asyncio.sleep(0)

    assert await other.execute("CLIENT", "KILL", "ID", mine) == 1
    lost = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(error) for error in lost] == [failures.ConnectionError] * 3
    assert await client.execute("CLIENT", "ID") != mine
    await other.aclose()


async def test_a_silent_server_is_a_lost_connection(redis_server: EmbeddedRedis) -> None:
    client = connect(redis_server.url, timeout_s=0.2)
    mine = await client.execute("CLIENT", "ID")

    with pytest.raises(failures.TimeoutError, match=r"no reply within 0\.2 s"):
        await client.execute("BLPOP", "never", 0)

    assert await client.execute("CLIENT", "ID") != mine
    await client.aclose()


async def test_one_slow_command_after_another_is_no_silence(redis_server: EmbeddedRedis) -> None:
    client = connect(redis_server.url, timeout_s=1.5)

    slow = [client.execute("BLPOP", f"never-{number}", "0.9") for number in range(2)]

    assert await asyncio.gather(*slow, client.execute("ECHO", "behind them")) == [None, None, b"behind them"]
    await client.aclose()


async def test_a_large_reply_is_read_to_its_end_after_the_loop_was_held(redis_server: EmbeddedRedis) -> None:
    client = connect(redis_server.url, timeout_s=0.3)
    await client.execute("PING")
    large = asyncio.create_task(client.execute("EVAL", "return string.rep('x', 8000000)", 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    time.sleep(1)  # noqa: ASYNC251 - as a handler may do

    assert len(await large) == 8_000_000
    await client.aclose()


async def test_more_than_the_server_reads_at_once_waits_for_room(client: Client) -> None:
    large = b"x" * 3_000_000

    replies = await asyncio.gather(*(client.execute("ECHO", large) for _ in range(12)), client.execute("ECHO", "last"))

    assert [len(reply) for reply in replies] == [3_000_000] * 12 + [4]


async def test_what_a_server_does_not_read_stays_with_those_who_send_it() -> None:
    over = asyncio.Event()

    async def greet_and_read_no_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = await reader.read(1_000)
        writer.write(b"+OK\r\n" * words.count(b"SETINFO"))
        await reader.read(1_000)
        writer.write(b"+PONG\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.close()

    async with await asyncio.start_server(greet_and_read_no_more, "127.0.0.1", 0) as server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await client.execute("PING")
        assert client._pipe._line is not None
        sending: list[asyncio.Task[Any]] = []
        for _ in range(64):
            sending.append(asyncio.create_task(client.execute("ECHO", b"x" * 1_000_000)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        kept_bytes = client._pipe._line._transport.get_write_buffer_size()
        await client.aclose()
        await asyncio.gather(*sending, return_exceptions=True)
        over.set()

    assert 0 < kept_bytes < 4_000_000


async def test_who_waits_when_it_is_closed_hears_so(client: Client) -> None:
    await client.execute("PING")
    waiting = asyncio.create_task(client.execute("BLPOP", "never", 0))
    await asyncio.sleep(0)

    await client.aclose()

    with pytest.raises(failures.ConnectionError, match="was closed"):
        await waiting


async def test_a_server_that_closes_behind_its_first_words_is_a_lost_connection() -> None:
    async def greet_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = await reader.read(1_000)
        writer.write(b"+OK\r\n" * words.count(b"SETINFO"))
        writer.close()

    async with await asyncio.start_server(greet_and_go, "127.0.0.1", 0) as server:
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=1)
        for _ in range(3):
            with pytest.raises(failures.ConnectionError):
                await asyncio.wait_for(client.execute("PING"), 10)
        await client.aclose()


async def test_a_server_that_is_not_there_is_everybodys_error() -> None:
    client = connect("redis://127.0.0.1:1")

    found = await asyncio.gather(*(client.execute("PING") for _ in range(5)), return_exceptions=True)

    assert [type(error) for error in found] == [failures.ConnectionError] * 5
    await client.aclose()


@pytest.fixture
async def mute() -> AsyncIterator[str]:
    """The address of what takes connections and never says a word."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in taken:
        writer.transport.abort()


@pytest.mark.parametrize("turns", [1, 50])
async def test_who_waits_for_a_connection_when_it_is_closed_hears_so_and_is_not_cancelled(
    mute: str, turns: int
) -> None:
    client = connect(mute)
    waiting = [asyncio.create_task(client.execute("PING")) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)

    await client.drop()

    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [failures.ConnectionError] * 3
    assert not any(task.cancelled() for task in waiting)


async def test_one_that_is_cancelled_while_it_waits_for_a_connection_is_cancelled(mute: str) -> None:
    client = connect(mute)
    waiting = [asyncio.create_task(client.execute("PING")) for _ in range(2)]
    for _ in range(5):
        await asyncio.sleep(0)
    waiting[0].cancel()
    await client.drop()

    assert isinstance((await asyncio.gather(*waiting, return_exceptions=True))[1], failures.ConnectionError)
    assert waiting[0].cancelled()


async def test_a_connection_that_was_closed_while_it_was_made_is_made_again(redis_server: EmbeddedRedis) -> None:
    client = connect(redis_server.url)
    waiting = asyncio.create_task(client.execute("PING"))
    await asyncio.sleep(0)
    await client.drop()
    with pytest.raises(failures.ConnectionError):
        await waiting

    assert await client.execute("PING") == b"PONG"
    await client.aclose()


async def test_a_connection_that_nobody_holds_any_more_ends_with_the_others(redis_server: EmbeddedRedis) -> None:
    client, other = connect(redis_server.url), connect(redis_server.url)
    name = await client.another_pipe(waits_s=1).execute("CLIENT", "ID")
    await client.drop()
    for _ in range(200):
        if b"id=%d " % name not in await other.execute("CLIENT", "LIST"):
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("it is still there")
    await other.drop()
