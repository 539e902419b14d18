"""FIFO queues through the SDK: delays, retention, dead letters."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker, Queue
from broker.queues import QueueClient
from tests.broker.fifo import bodies, send, take
from tests.conftest import Clock, move_clock
from tests.runtime.scene import eventually


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue("orders.fifo")
    await made.create(content_deduplication=True)
    return made


# -- delays and retention ----------------------------------------------------------------------------------------------


async def test_the_delay_of_the_queue_hides_new_messages(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(delay=60, content_deduplication=True)
    await send(queue, "a", "a1")
    await clock.advance(30)
    await send(queue, "a", "a2")
    counts = await queue.counts()
    assert (counts.visible, counts.delayed) == (0, 2)
    await clock.advance(31)
    assert await bodies(queue) == ["a1"]
    counts = await queue.counts()
    assert (counts.visible, counts.delayed, counts.in_flight) == (0, 1, 1)
    await clock.advance(31)
    assert await bodies(queue) == ["a1", "a2"]


async def test_a_change_of_the_delay_concerns_messages_that_are_there(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    await queue.configure(delay=60)
    assert await bodies(queue) == []
    await send(queue, "b", "b1")
    await queue.configure(delay=0)
    assert await bodies(queue) == ["a1", "b1"]
    await queue.configure(delay=900)
    assert (await queue.counts()).delayed == 0
    await clock.advance(61)
    assert await bodies(queue) == []
    await clock.advance(900)
    assert await bodies(queue) == ["a1", "b1"]


async def test_what_is_deleted_is_counted_as_delayed_no_more(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(delay=900, content_deduplication=True, retention=60)
    await send(queue, "a", "a1", "a2")
    await queue.configure(delay=0)
    (one, _) = await take(queue)
    await one.delete()
    await queue.configure(delay=900)
    counts = await queue.counts()
    assert (counts.visible, counts.in_flight, counts.delayed) == (0, 1, 0)
    await send(queue, "b", "b1")
    await clock.advance(61)
    assert (await queue.counts()).total == 0
    await queue.configure(retention=3_600)
    counts = await queue.counts()
    assert (counts.total, counts.delayed) == (0, 0)


async def test_messages_past_their_retention_are_gone_wherever_they_wait(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(retention=60, content_deduplication=True)
    await send(queue, "open", "1")
    await send(queue, "given-back", "2", "3")
    await send(queue, "lease-ended", "4", "5")
    await send(queue, "in-flight", "6", "7")
    for message in await take(queue, 7):
        if message.group == "given-back":
            await message.release(600)
    await clock.advance(61)
    counts = await queue.counts()
    assert (counts.total, counts.visible, counts.retrying) == (0, 0, 0)


async def test_what_is_in_flight_outlives_its_retention(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(retention=60, content_deduplication=True)
    await send(queue, "a", "a1", "a2")
    (one,) = await take(queue, 1, 600)
    await clock.advance(61)
    assert (await queue.counts()).in_flight == 1
    await one.delete()
    assert await bodies(queue) == []
    assert (await queue.counts()).total == 0


async def test_messages_of_a_group_that_are_too_old_do_not_stop_the_younger_ones(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(retention=60, content_deduplication=True)
    await send(queue, "a", *[f"old {number}" for number in range(120)])
    await clock.advance(59)
    await send(queue, "a", "young")
    await clock.advance(2)
    assert await bodies(queue, 3) == ["young"]
    assert (await queue.counts()).total == 1


# -- dead letters ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def failing(broker: Broker) -> QueueClient:
    made = broker.queue("orders.fifo")
    await made.create(content_deduplication=True, dead_letter=Queue("dead.fifo"), max_receives=2)
    return made


async def _use_up(broker: Broker, queue: QueueClient) -> list[str]:
    for _ in range(2):
        await take(queue, 1, 0)
    found = await bodies(queue, 1)
    await broker.deliver(queue.resource)
    return found


async def test_a_used_up_message_is_moved_and_its_group_goes_on_in_the_same_receive(
    broker: Broker, failing: QueueClient
) -> None:
    await send(failing, "a", "a1", "a2")
    assert await _use_up(broker, failing) == ["a2"]
    assert await bodies(broker.queue("dead.fifo")) == ["a1"]


async def test_a_dead_letter_keeps_what_it_was_sent_with(broker: Broker, failing: QueueClient, clock: Clock) -> None:
    own = await failing.send("own", group="a", deduplication_id="own-id", attributes={"x": 1})
    hashed = await failing.send("hashed", group="b")
    before = {message.id: message for message in await take(failing, 2, 0)}
    await clock.advance(100)
    await take(failing, 2, 0)
    assert await bodies(failing) == []
    await broker.deliver(failing.resource)
    after = {message.id: message for message in await take(broker.queue("dead.fifo"))}
    assert after.keys() == {own, hashed}
    for message_id, message in after.items():
        then = before[message_id]
        assert (message.body, message.group, message.attributes) == (then.body, then.group, then.attributes)
        assert (message.deduplication_id, message.sent_ms) == (then.deduplication_id, then.sent_ms)
        assert message.receives == 3
        assert message.source == failing.resource.arn


async def test_dead_letters_of_a_group_keep_their_order(broker: Broker, failing: QueueClient) -> None:
    await send(failing, "a", *[f"a{number}" for number in range(25)])
    for _ in range(2):
        assert len(await take(failing, 25, 0)) == 25
    assert await take(failing, 25, 0) == []
    await broker.deliver(failing.resource)
    assert await bodies(broker.queue("dead.fifo"), 25) == [f"a{number}" for number in range(25)]


async def test_a_fifo_dead_letter_queue_begins_the_retention_anew(broker: Broker, clock: Clock) -> None:
    dead, queue = broker.queue("dead.fifo"), broker.queue("orders.fifo")
    await dead.create(retention=100)
    await queue.create(content_deduplication=True, dead_letter=Queue("dead.fifo"), max_receives=2)
    await send(queue, "a", "a1")
    await clock.advance(90)
    await _use_up(broker, queue)
    await clock.advance(90)
    assert (await dead.counts()).total == 1
    await clock.advance(20)
    assert (await dead.counts()).total == 0


async def test_the_same_message_may_die_again_after_a_redrive(broker: Broker, failing: QueueClient) -> None:
    first = await failing.send("a1", group="a")
    dead = broker.queue("dead.fifo")
    for _ in range(2):
        assert await _use_up(broker, failing) == []
        assert await dead.redrive() == 1
        (message,) = await take(failing, 1, 0)
        assert (message.id, message.group, message.receives, message.source) == (first, "a", 1, None)
        await take(failing, 1, 0)
        assert await bodies(failing) == []
        await broker.deliver(failing.resource)
        assert await dead.redrive() == 1


# -- clocks ------------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_back_hides_nothing(queue: QueueClient, clock: Clock) -> None:
    await clock.advance(3_600)
    await send(queue, "a", "a1")
    await clock.advance(-3_600)
    await send(queue, "a", "a2")
    await send(queue, "b", "b1")
    assert sorted(await bodies(queue)) == ["a1", "a2", "b1"]


async def test_what_stands_behind_a_message_that_expired_wakes_a_receiver(queue: QueueClient, clock: Clock) -> None:
    await queue.configure(retention=60)
    await send(queue, "a", "a1")
    await clock.advance(30)
    await send(queue, "a", "a2")
    (one,) = await take(queue, 1)
    await one.release(1_000)
    receiving = asyncio.create_task(queue.receive(1, wait=20))
    meta = queue.core.keys.of(queue.resource).meta

    async def asleep() -> bool:
        return bool(await queue.core.runner.fetch("HGET", meta, "asleep") == b"1")

    await eventually(asleep, what="the receiver sleeps")
    await move_clock(queue.core.runner, 31_000)  # nobody is told of the time
    assert await queue.core.messages.expire(queue.resource) == 1
    async with asyncio.timeout(4):  # less than until the receiver looks by itself
        assert [message.body for message in await receiving] == ["a2"]
