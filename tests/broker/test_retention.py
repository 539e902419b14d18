"""Retention as a user sees it: what is too old is neither counted nor shown, though nobody receives."""

from __future__ import annotations

import pytest

from broker import Broker, Queue
from broker.queues import QueueClient
from tests.conftest import Clock


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue("orders")
    await made.create(retention=60)
    return made


@pytest.mark.parametrize("state", ["fresh", "delayed", "released"])
async def test_counts_and_looks_leave_old_messages_out(queue: QueueClient, clock: Clock, state: str) -> None:
    await queue.send("old", delay=900 if state == "delayed" else None)
    if state == "released":
        (message,) = await queue.receive()
        await message.release(900)
    await clock.advance(59)
    await queue.send("young")
    assert (await queue.counts()).total == 2
    assert len(await queue.peek()) == 2
    await clock.advance(1)
    assert [message.body for message in await queue.peek()] == ["young"]
    counts = await queue.counts()
    assert (counts.total, counts.visible) == (1, 1)


async def test_counts_alone_remove_old_messages(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(range(1_200))
    await clock.advance(60)
    counts = await queue.counts()
    assert (counts.total, counts.oldest_ms) == (0, None)
    described = await queue.core.directory.describe(queue.resource)
    assert described is not None
    assert described.counters["expired"] == 1_200


async def test_a_message_in_flight_past_its_retention_can_be_deleted(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    (message,) = await queue.receive(visibility_timeout=300)
    await clock.advance(60)
    assert (await queue.counts()).in_flight == 1
    await message.extend(300)
    await message.delete()
    assert (await queue.counts()).total == 0


async def test_a_dead_letter_is_counted_by_the_age_of_its_first_sending(broker: Broker, clock: Clock) -> None:
    await broker.queue("dead").create(retention=60)
    source = broker.queue("orders")
    await source.create(dead_letter=Queue("dead"), max_receives=1, visibility_timeout=0)
    await source.send("x")
    await source.receive()
    await clock.advance(40)
    assert await source.receive() == []
    await broker.deliver(source.resource)
    assert (await broker.queue("dead").counts()).visible == 1
    await clock.advance(20)
    assert (await broker.queue("dead").counts()).total == 0


async def test_a_queue_that_holds_only_old_messages_is_deleted_without_force(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    await clock.advance(60)
    await queue.delete()
