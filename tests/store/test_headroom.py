"""Before Redis is full producers are told to wait; whatever ends, moves or keeps work goes on, and so do they again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Broker, Queue
from broker.embedded import EmbeddedRedis
from broker.errors import StoreFull, StoreThrottled
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.store.server import memory_of, read_info
from broker.store.values import Deferral
from tests.store.desk import Desk, bodies, members

_MAX_BYTES = 20_000_000
_BALLAST = "ballast"
_PIECE_BYTES = 10_000


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """On a server with a limit, far below it."""
    with EmbeddedRedis(tmp_path / "redis", append_only=False, max_memory_bytes=_MAX_BYTES) as server:
        async with Broker(server.url, settings=Settings(test_clock=True, full_at_percent=80)) as opened:
            yield opened


async def weigh_down(broker: Broker, *, percent: int) -> None:
    """Something else takes memory, up to so much of the limit.

    In small pieces: some allocators round one of 17 MB up to 20.
    """
    while (used := memory_of(read_info(await broker.core.runner.fetch("INFO", "memory")))).percent < percent:
        pieces = max(1, int(_MAX_BYTES * (percent - used.percent) / 100 / 2 / _PIECE_BYTES))
        await broker.core.runner.fetch("RPUSH", _BALLAST, *[b"x" * _PIECE_BYTES] * pieces)
    await broker.core.headroom.look()


async def test_producers_are_told_to_wait_and_nothing_is_stored(broker: Broker) -> None:
    queue, stream = broker.queue("orders"), broker.stream("log")
    await queue.create()
    await stream.create()
    await broker.queue("orders.fifo").create()
    await register_function(broker.core, "work", FunctionSettings())
    await queue.send("before")
    await weigh_down(broker, percent=85)
    for send in (
        lambda: queue.send("x"),
        lambda: queue.send_many(["x", "y"]),
        lambda: broker.queue("orders.fifo").send("x", group="g", deduplication_id="1"),
        lambda: broker.invoke("work", {}),
        lambda: stream.append("x"),
    ):
        with pytest.raises(StoreThrottled, match="producers have to wait from 80 % on") as raised:
            await send()
        assert isinstance(raised.value, StoreFull)
        assert raised.value.percent > 80
    assert (await queue.counts()).total == 1
    assert await stream.length() == 0


async def test_work_goes_on(broker: Broker) -> None:
    queue, dead = broker.queue("orders"), broker.queue("dead")
    await queue.create(dead_letter=Queue("dead"), max_receives=1, visibility_timeout=30)
    await queue.send_many([f"m{number}" for number in range(6)])
    desk = Desk(broker.core, "queue", "orders")
    await weigh_down(broker, percent=90)
    claim = await desk.claim("w1", room=4, lease_ms=30_000)
    names = members(claim, "w1")
    assert await broker.core.messages.extend(queue.resource, names, lease_ms=60_000) == []
    assert (await broker.core.messages.finish(queue.resource, names[:2], counter="done")).settled == 2
    retried = await broker.core.messages.defer(
        queue.resource, [Deferral(names[2], 0, adds_try=True, note=b"why")], counter="retried"
    )
    assert retried.settled == 1
    assert await broker.core.messages.release_claim(queue.resource, "w1") == 1
    # The dead letter of what has been received as often as it may.
    for message in await queue.receive(10):
        await message.release()
    assert await queue.receive(10) == []
    await broker.deliver(queue.resource)
    letters = await dead.receive(10, wait=5)
    assert len(letters) >= 3
    for letter in letters:
        await letter.release()
    assert await dead.redrive() == len(letters)
    assert (await queue.counts()).visible == len(letters)
    with pytest.raises(StoreThrottled):
        await queue.send("still not")


async def test_producers_go_on_by_themselves(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await weigh_down(broker, percent=85)
    with pytest.raises(StoreThrottled):
        await queue.send("x")
    await broker.core.runner.fetch("DEL", _BALLAST)
    async with asyncio.timeout(10):
        while True:  # the next sample finds out
            try:
                await queue.send("y")
                break
            except StoreThrottled:
                await asyncio.sleep(0.05)
    assert bodies(await Desk(broker.core, "queue", "orders").claim("w1")) == ["y"]


async def test_close_to_the_limit_producers_do_not_come_and_go(broker: Broker) -> None:
    await weigh_down(broker, percent=85)
    assert broker.core.headroom.full
    used = memory_of(read_info(await broker.core.runner.fetch("INFO", "memory"))).used_bytes
    await broker.core.runner.fetch("CONFIG", "SET", "maxmemory", round(used / 0.79))
    await broker.core.headroom.look()
    assert broker.core.headroom.full
    await broker.core.runner.fetch("CONFIG", "SET", "maxmemory", round(used / 0.7))
    await broker.core.headroom.look()
    assert not broker.core.headroom.full


async def test_a_send_costs_no_look_at_the_server(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await broker.core.runner.fetch("CONFIG", "RESETSTAT")
    started = asyncio.get_running_loop().time()
    for number in range(300):
        await queue.send(str(number))
    lasted_s = asyncio.get_running_loop().time() - started
    stats = (await broker.core.runner.fetch("INFO", "commandstats")).decode()
    looks = [line for line in stats.splitlines() if line.startswith("cmdstat_info:")]
    called = int(looks[0].partition("calls=")[2].partition(",")[0]) if looks else 0
    assert called <= 1 + lasted_s


async def test_a_process_that_opens_on_a_full_server_knows_it(broker: Broker) -> None:
    await broker.queue("orders").create()
    await weigh_down(broker, percent=85)
    async with Broker(broker.core.address.url, settings=Settings(full_at_percent=80)) as late:
        with pytest.raises(StoreThrottled):
            await late.queue("orders").send("x")
    async with Broker(broker.core.address.url, settings=Settings(full_at_percent=100)) as unlimited:
        await unlimited.queue("orders").send("x")


async def test_without_a_limit_nobody_waits(redis_url: str, settings: Settings) -> None:
    async with Broker(redis_url, settings=settings) as unlimited:
        await unlimited.queue("orders").create()
        await unlimited.queue("orders").send("x")
        await unlimited.core.headroom.look()
        assert not unlimited.core.headroom.full
