"""replica:N: nothing is answered before replicas have it; what was not confirmed can be sent again with its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker import Broker, Queue
from broker.errors import DurabilityNotMet, WriteNotConfirmed
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.settings import Settings
from tests.store.replicated import CONFIRM_MS, SETTINGS, Replicated, replicated

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Replicated]:
    async with replicated(tmp_path) as made:
        yield made


@pytest.fixture
async def broker(pair: Replicated) -> AsyncIterator[Broker]:
    async with Broker(pair.url, settings=SETTINGS) as opened:
        yield opened


async def copied(pair: Replicated, queue: str) -> int:
    """How many messages of a queue the replica has."""
    async with Broker(pair.url, settings=SETTINGS) as primary:
        core = primary.core
        key = core.keys.of(core.resource("queue", queue)).ready
    return int(await asyncio.to_thread(_length, pair.replica.url, key))


def _length(url: str, key: str) -> int:
    from broker.store.connection import connect_in_thread  # noqa: PLC0415 - a client for a replica, which Broker refuses

    client = connect_in_thread(url)
    try:
        return int(client.execute_command("XLEN", key))  # type: ignore[no-untyped-call]  # redis-py
    finally:
        client.close()


async def test_what_is_answered_is_on_the_replica(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1")
    await asyncio.gather(*(queue.send(f"m{number}") for number in range(200)))
    assert await copied(pair, "orders") == 200


async def test_nothing_is_answered_while_the_replica_stands_still_and_a_repeat_is_safe(
    pair: Replicated, broker: Broker
) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1")
    await queue.send("first")
    pair.stop_replica()
    with pytest.raises(WriteNotConfirmed, match=f"within {CONFIRM_MS} ms") as raised:
        await queue.send("second", id="own")
    assert (raised.value.required, raised.value.confirmed) == ("replica:1", 0)
    # What is recognised as a repeat writes nothing; it waits for the confirmation all the same, also over a connection
    # that has written nothing itself.
    async with Broker(pair.url, settings=SETTINGS) as other:
        with pytest.raises(WriteNotConfirmed):
            await other.queue("orders").send("second", id="own")
    pair.continue_replica()
    await pair.in_step(broker)
    assert await queue.send("second", id="own") == "own"
    assert sorted(message.body for message in await queue.receive(10)) == ["first", "second"]


async def test_nothing_is_stored_where_the_replica_is_known_to_be_away(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1")
    pair.replica.stop()
    await pair.in_step(broker, replicas=0)
    with pytest.raises(DurabilityNotMet, match="0 of 1 replicas are in step"):
        await queue.send("never")
    assert (await queue.counts()).total == 0
    with pytest.raises(DurabilityNotMet):
        await broker.queue("more").create(durability="replica:2")
    assert await broker.queues() == ["orders"]


async def test_fifo_queues_functions_and_streams_wait_too(pair: Replicated, broker: Broker) -> None:
    fifo, stream = broker.queue("orders.fifo"), broker.stream("log")
    await fifo.create(durability="replica:1")
    await stream.create(durability="replica:1")
    await register_function(broker.core, "work", FunctionSettings(durability="replica:1"))
    sends: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: fifo.send("a", group="g", deduplication_id="1"),
        lambda: stream.append("a"),
        lambda: broker.invoke("work", {}),
    )
    for send in sends:
        await send()
    pair.stop_replica()
    for send in sends:
        with pytest.raises(WriteNotConfirmed):
            await send()


async def test_every_partition_of_a_queue_waits(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1", partitions=3)
    for number in range(3):
        await queue.send(str(number))
    pair.stop_replica()
    for number in range(3):
        with pytest.raises(WriteNotConfirmed):
            await queue.send("unconfirmed", id=f"own-{number}")
    pair.continue_replica()
    await pair.in_step(broker)
    for number in range(3):
        assert await queue.send("unconfirmed", id=f"own-{number}") == f"own-{number}"
    assert (await queue.counts()).visible == 6


async def test_a_dead_letter_stays_in_the_outbox_until_its_target_is_safe(pair: Replicated, broker: Broker) -> None:
    queue, dead = broker.queue("orders"), broker.queue("dead")
    await dead.create(durability="replica:1")
    await queue.create(dead_letter=Queue("dead"), max_receives=1, visibility_timeout=0)
    await queue.send("poor")
    assert len(await queue.receive()) == 1
    pair.stop_replica()
    assert await queue.receive() == []
    await broker.deliver(queue.resource)
    assert (await queue.counts()).outbox == 1
    pair.continue_replica()
    await pair.in_step(broker)
    async with asyncio.timeout(20):
        while (await queue.counts()).outbox:
            await broker.deliver(queue.resource)
            await asyncio.sleep(0.1)
    assert [message.body for message in await dead.receive(10)] == ["poor"]


async def test_a_forgotten_script_is_sent_as_text(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1")
    await queue.send("one")
    await broker.core.runner.fetch("SCRIPT", "FLUSH")
    await asyncio.gather(*(queue.send("two") for _ in range(5)))
    assert (await queue.counts()).visible == 6


async def test_a_lost_connection_is_made_again_and_the_send_is_stored_once(pair: Replicated, broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(durability="replica:1")
    await queue.send("one")
    await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    await queue.send("two")
    assert (await queue.counts()).visible == 2


async def test_what_requires_nothing_does_not_wait(pair: Replicated, settings: Settings) -> None:
    async with Broker(pair.url, settings=settings) as broker:
        queue = broker.queue("orders")
        await queue.create()
        pair.stop_replica()
        await queue.send("one")
        assert (await queue.counts()).visible == 1
