"""FIFO queues through the SDK: order and blocking, settling too late, waiting, counting, clearing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from broker import Broker, LeaseLost, Message
from broker.errors import TooManyInFlight
from broker.queues import QueueClient
from broker.receiving import Receive
from tests.broker.fifo import bodies, send, take
from tests.conftest import Clock


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue("orders.fifo")
    await made.create(content_deduplication=True)
    return made


# -- order and blocking ------------------------------------------------------------------------------------------------


async def test_a_group_is_handed_out_in_order_with_rising_sequence_numbers(queue: QueueClient) -> None:
    sent = [str(number) for number in range(30)]
    await send(queue, "a", *sent)
    seen: list[Message] = []
    while messages := await take(queue, 7):
        seen += messages
        await queue.delete_many(messages)
    assert [message.body for message in seen] == sent
    numbers = [message.sequence_number or "" for message in seen]
    assert numbers == sorted(set(numbers))
    assert {len(number) for number in numbers} == {20}
    assert {message.group for message in seen} == {"a"}


async def test_one_receive_takes_as_many_of_a_group_as_fit_and_fills_up_from_others(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    await send(queue, "b", "b1", "b2")
    assert await bodies(queue, 4) == ["a1", "a2", "a3", "b1"]


async def test_while_a_message_of_a_group_is_in_flight_nothing_of_that_group_is_handed_out(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    await send(queue, "b", "b1")
    (first,) = await take(queue, 1)
    await send(queue, "a", "a3")
    assert await bodies(queue) == ["b1"]
    assert await bodies(queue) == []
    await first.delete()
    assert await bodies(queue) == ["a2", "a3"]


async def test_a_group_stays_blocked_until_the_last_message_of_its_batch_is_settled(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    one, two = await take(queue, 2)
    await one.delete()
    assert await bodies(queue) == []
    await two.delete()
    assert await bodies(queue) == ["a3"]


async def test_deleting_out_of_order_leaves_the_group_blocked_by_the_earlier_message(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    _, two = await take(queue, 2)
    await two.delete()
    assert await bodies(queue) == []


async def test_after_the_visibility_timeout_messages_come_back_in_order(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    assert await bodies(queue, 2) == ["a1", "a2"]
    await clock.advance(31)
    again = await take(queue)
    assert [(message.body, message.receives) for message in again] == [("a1", 2), ("a2", 2), ("a3", 1)]


async def test_extending_the_second_of_three_brings_back_only_the_first(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    _, two, _ = await take(queue, 3)
    await two.extend(300)
    await clock.advance(31)
    (one,) = await take(queue)
    assert one.body == "a1"
    await one.delete()
    assert await bodies(queue) == []
    await clock.advance(300)
    assert await bodies(queue) == ["a2", "a3"]


async def test_extending_the_first_of_three_brings_back_none(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    one, _, _ = await take(queue, 3)
    await one.extend(300)
    await clock.advance(31)
    assert await bodies(queue) == []
    await clock.advance(300)
    assert await bodies(queue) == ["a1", "a2", "a3"]


async def test_a_visibility_of_zero_gives_back_at_once_and_counts_the_receive(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    assert await bodies(queue, 10, 0) == ["a1", "a2"]
    (one, two) = await take(queue)
    assert (one.receives, two.receives) == (2, 2)
    await one.extend(0)
    assert await bodies(queue) == ["a1"]


async def test_a_released_message_is_handed_out_again_before_those_behind_it(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1", "a2")
    (one,) = await take(queue, 1)
    await one.release(60)
    assert await bodies(queue) == []
    counts = await queue.counts()
    assert (counts.visible, counts.in_flight, counts.retrying) == (1, 0, 1)
    await clock.advance(61)
    assert await bodies(queue) == ["a1", "a2"]


async def test_groups_whose_names_begin_alike_do_not_meet(queue: QueueClient) -> None:
    for group in ("a", "a!", "aa", "a-1", "!", "~"):
        await send(queue, group, f"{group} 1", f"{group} 2")
    assert sorted(await bodies(queue, 1_000)) == sorted(
        f"{g} {n}" for g in ("a", "a!", "aa", "a-1", "!", "~") for n in (1, 2)
    )
    assert await bodies(queue) == []


async def test_every_free_group_is_found_behind_extended_ones(queue: QueueClient, clock: Clock) -> None:
    for number in range(40):
        await send(queue, f"g{number}", f"m{number}")
    messages = await take(queue, 40)
    for message in messages[:39]:
        await message.extend(300)
    await clock.advance(31)
    assert await bodies(queue, 1) == ["m39"]


# -- settling too late -------------------------------------------------------------------------------------------------


async def test_an_expired_lease_neither_deletes_nor_extends_nor_releases(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    (message,) = await take(queue)
    await clock.advance(31)
    for attempt in (message.delete, lambda: message.extend(30), lambda: message.release(30)):
        with pytest.raises(LeaseLost):
            await attempt()
    assert await queue.delete_many([message]) == [message]
    assert await bodies(queue) == ["a1"]


async def test_a_lease_extended_in_time_deletes_until_its_new_end(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    (message,) = await take(queue)
    await message.extend(100)
    await clock.advance(90)
    await message.delete()
    assert (await queue.counts()).total == 0


async def test_deleting_twice_is_no_error(queue: QueueClient) -> None:
    await send(queue, "a", "a1")
    (message,) = await take(queue)
    await message.delete()
    await message.delete()


# -- waiting -----------------------------------------------------------------------------------------------------------


async def _is_woken(queue: QueueClient, cause: Callable[[], Awaitable[object]]) -> list[str]:
    waiting = asyncio.create_task(queue.receive(10, wait=60))
    meta = queue.core.keys.of(queue.resource).meta
    while await queue.core.runner.fetch("HGET", meta, "asleep") != b"1":  # noqa: ASYNC110 - Redis has no event
        await asyncio.sleep(0)
    await cause()
    async with asyncio.timeout(4):  # before it looks again by itself
        return [message.body for message in await waiting]


async def test_a_waiting_receive_is_woken_by_a_send(queue: QueueClient) -> None:
    assert await _is_woken(queue, lambda: queue.send("a1", group="a")) == ["a1"]


async def test_a_waiting_receive_is_woken_by_a_deletion_that_frees_a_group(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    (one,) = await take(queue, 1)
    assert await _is_woken(queue, one.delete) == ["a2"]


async def test_a_waiting_receive_is_woken_by_a_release(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    (one,) = await take(queue, 1)
    assert await _is_woken(queue, one.release) == ["a1", "a2"]


async def test_a_waiting_receive_is_woken_by_a_visibility_of_zero(queue: QueueClient) -> None:
    await send(queue, "a", "a1")
    (one,) = await take(queue, 1)
    assert await _is_woken(queue, lambda: one.extend(0)) == ["a1"]


async def test_a_waiting_receive_is_there_when_a_lease_ends(queue: QueueClient) -> None:
    await send(queue, "a", "a1")
    await take(queue, 1, 0.5)
    async with asyncio.timeout(4):
        assert [message.body for message in await queue.receive(1, wait=60)] == ["a1"]


async def test_a_waiting_receive_is_there_when_a_delay_is_over(broker: Broker) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(delay=0.5, content_deduplication=True)
    await send(queue, "a", "a1")
    async with asyncio.timeout(4):
        assert [message.body for message in await queue.receive(1, wait=60)] == ["a1"]


async def test_a_deletion_tells_a_waiting_receive_of_the_lease_behind_it(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    one, two = await take(queue, 2)
    await one.extend(3_600)
    await two.extend(0.5)
    assert await _is_woken(queue, one.delete) == ["a2"]


# -- looking, counting, clearing ---------------------------------------------------------------------------------------


async def test_counts_are_exact(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    await send(queue, "b", "b1")
    one, _, _ = await take(queue, 3)
    counts = await queue.counts()
    assert (counts.visible, counts.in_flight, counts.retrying, counts.delayed) == (1, 3, 0, 0)
    await one.delete()
    assert (await queue.counts()).total == 3


async def test_a_look_shows_groups_in_order_and_leases_nothing(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "b", "b1", "b2")
    await clock.advance(1)  # groups of one millisecond go by name
    await send(queue, "a", "a1")
    await take(queue, 1)
    assert [(message.body, message.receives) for message in await queue.peek()] == [("a1", 0), ("b1", 1), ("b2", 0)]
    assert await bodies(queue) == ["a1"]


async def test_a_purge_frees_every_group(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2")
    (one,) = await take(queue, 1)
    assert await queue.purge() == 2
    assert (await queue.counts()).total == 0
    await one.delete()
    await send(queue, "a", "new")
    assert await bodies(queue) == ["new"]


async def test_with_too_many_in_flight_a_receive_brings_nothing_and_no_error(queue: QueueClient, clock: Clock) -> None:
    for number in range(5):
        await send(queue, f"g{number}", f"m{number}")
    wanted = Receive(count=10, wait_s=0, max_in_flight=3)
    receiver = queue._receiver
    assert len(await receiver.receive(queue.resource, wanted)) == 3
    assert await receiver.receive(queue.resource, wanted) == []
    await clock.advance(31)
    assert len(await receiver.receive(queue.resource, wanted)) == 3


async def test_ended_leases_of_a_standard_queue_are_in_flight_no_more(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await queue.send_many(["x"] * 5)
    wanted = Receive(count=10, wait_s=0, max_in_flight=3)
    receiver = queue._receiver
    assert len(await receiver.receive(queue.resource, wanted)) == 3
    with pytest.raises(TooManyInFlight):
        await receiver.receive(queue.resource, wanted)
    await clock.advance(31)
    assert len(await receiver.receive(queue.resource, wanted)) == 3
