"""Settling by receipt handle: SQS's rules for old ones, on standard and on FIFO queues."""

from __future__ import annotations

import asyncio
import base64

import pytest

from broker import Broker, Message
from broker.errors import QueueNotFound
from broker.queues import QueueClient
from broker.receipts import Receipt, read_receipt
from broker.settling import Problem, VisibilityChange, change_visibility, delete
from tests.conftest import Clock


@pytest.fixture
async def fifo(broker: Broker) -> QueueClient:
    made = broker.queue("orders.fifo")
    await made.create(content_deduplication=True)
    return made


async def received(queue: QueueClient, visibility_timeout: float | None = None) -> Message:
    (message,) = await queue.receive(1, wait=0, visibility_timeout=visibility_timeout)
    return message


async def delete_one(queue: QueueClient, handle: str) -> Problem | None:
    (problem,) = await delete(queue.core, queue.resource, [handle])
    return problem


async def change(queue: QueueClient, handle: str, timeout_s: float) -> Problem | None:
    (problem,) = await change_visibility(queue.core, queue.resource, [VisibilityChange(handle, timeout_s)])
    return problem


# -- handles -----------------------------------------------------------------------------------------------------------


async def test_every_receive_gives_another_handle(queue: QueueClient) -> None:
    await queue.send("x")
    assert (await received(queue, 0)).receipt != (await received(queue, 0)).receipt


@pytest.mark.parametrize("member", ["1795298917948-0|r" + "a" * 30, "1795298917948-000000012|wA1"])
def test_a_handle_reads_as_what_it_was_made_of(member: str) -> None:
    receipt = Receipt(0xFFFFFFFF, 1_795_298_917_948, member)
    assert read_receipt(receipt.handle) == receipt


@pytest.mark.parametrize(
    "handle",
    ["", "x", "=", "é", "garbage garbage", "A" * 2_000, "AAAA", base64.b64encode(b"\x00" * 60).decode(), "\x00"],
)
async def test_garbage_is_no_handle(queue: QueueClient, handle: str) -> None:
    assert read_receipt(handle) is None
    assert await delete_one(queue, handle) == "invalid"
    assert await change(queue, handle, 10) == "invalid"


async def test_a_handle_with_any_character_changed_is_none(queue: QueueClient) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    for at in range(len(handle)):
        changed = handle[:at] + ("A" if handle[at] != "A" else "B") + handle[at + 1 :]
        assert read_receipt(changed) is None or changed.rstrip("=")[:-1] == handle.rstrip("=")[:-1]
    assert await delete_one(queue, handle) is None
    assert (await queue.counts()).total == 0


async def test_a_handle_of_another_queue_is_refused(broker: Broker, queue: QueueClient) -> None:
    other = broker.queue("other")
    await other.create()
    for each in (queue, other):
        await each.send("x")
    handle = (await received(other)).receipt
    assert await delete_one(queue, handle) == "invalid"
    assert await change(queue, handle, 0) == "invalid"
    assert (await queue.counts()).total == 1


async def test_a_handle_of_a_queue_that_was_made_again_is_refused(broker: Broker, queue: QueueClient) -> None:
    await queue.send("x")
    old = (await received(queue)).receipt
    await queue.delete(force=True)
    with pytest.raises(QueueNotFound):
        await delete_one(queue, old)
    with pytest.raises(QueueNotFound):
        await change(queue, old, 1)
    await queue.create()
    await queue.send("y")
    assert await delete_one(queue, old) == "invalid"
    assert await delete_one(queue, (await received(queue)).receipt) is None


async def test_each_handle_of_a_batch_is_answered_at_its_place(queue: QueueClient) -> None:
    await queue.send_many(["a", "b"])
    one, two = await queue.receive(2)
    assert await delete(queue.core, queue.resource, ["?", one.receipt, "?", two.receipt]) == [
        *("invalid", None, "invalid", None)
    ]
    assert (await queue.counts()).total == 0


# -- standard queues: an old handle still deletes ----------------------------------------------------------------------


async def test_deleting_twice_is_no_problem(queue: QueueClient) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    assert [await delete_one(queue, handle), await delete_one(queue, handle)] == [None, None]


async def test_a_handle_deletes_after_its_time(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    await clock.advance(31)
    assert await delete_one(queue, handle) is None
    assert (await queue.counts()).total == 0


async def test_an_old_handle_deletes_what_somebody_else_has(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(["x", "y"])
    old = (await received(queue)).receipt
    await clock.advance(31)
    for _ in range(2):
        await received(queue)
    assert await delete_one(queue, old) is None
    assert [message.body for message in await queue.peek()] == ["y"]
    assert (await queue.counts()).in_flight == 1


@pytest.mark.parametrize("delay", [0, 60])
async def test_an_old_handle_deletes_what_waits(queue: QueueClient, delay: float) -> None:
    await queue.send("x")
    message = await received(queue)
    await message.release(delay)
    assert await delete_one(queue, message.receipt) is None
    assert (await queue.counts()).total == 0


@pytest.mark.parametrize("state", ["in turn", "leased", "ended"])
async def test_an_old_handle_deletes_a_message_of_a_group(queue: QueueClient, clock: Clock, state: str) -> None:
    for body in ("a1", "a2", "b1"):
        await queue.send(body, group=body[0])
    old = await received(queue)
    assert old.body == "a1"
    await clock.advance(31)
    if state != "ended":
        assert (await received(queue)).body == "b1"  # and a1 waits for its group's turn again
    if state == "leased":
        await queue.receive(2, wait=0)
    assert await delete_one(queue, old.receipt) is None
    assert sorted(message.body for message in await queue.peek()) == ["a2", "b1"]
    await clock.advance(31)
    assert sorted(message.body for message in await queue.receive(10, wait=0)) == ["a2", "b1"]
    assert await queue.receive(10, wait=0) == []


async def test_an_old_handle_deletes_what_was_set_apart(broker: Broker, queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    handle = (await received(queue, 0)).receipt
    claim = broker.core.messages.claim
    await claim(queue.resource, token="w1", lease_ms=1_000, room=1, mode="work")
    await clock.advance(2)
    assert (await claim(queue.resource, token="w2", lease_ms=1_000, room=1, mode="work")).suspects == 1
    assert await delete_one(queue, handle) is None
    assert (await queue.counts()).total == 0


async def test_old_and_new_handles_at_once_delete_once(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(["x", "y"])
    first = await queue.receive(2)
    await clock.advance(31)
    second = await queue.receive(2)
    handles = [message.receipt for message in (*first, *second)]
    assert await asyncio.gather(*(delete_one(queue, handle) for handle in handles)) == [None] * 4
    assert (await queue.counts()).total == 0


async def test_a_purged_message_is_gone_without_a_problem(queue: QueueClient) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    await queue.purge()
    assert await delete_one(queue, handle) is None


# -- visibility --------------------------------------------------------------------------------------------------------


async def test_the_new_time_counts_from_now(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    await clock.advance(20)
    assert await change(queue, handle, 30) is None
    await clock.advance(20)
    assert await queue.receive(1, wait=0) == []
    await clock.advance(11)
    assert len(await queue.receive(1, wait=0)) == 1


async def test_zero_gives_back_at_once(queue: QueueClient) -> None:
    await queue.send("x")
    assert await change(queue, (await received(queue)).receipt, 0) is None
    assert (await received(queue)).receives == 2


async def test_no_receive_hides_a_message_for_more_than_twelve_hours(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    await clock.advance(20)
    assert await change(queue, handle, 43_200) == "too long"
    assert await change(queue, handle, 43_170) is None
    await clock.advance(43_165)
    assert await change(queue, handle, 20) == "too long"
    assert await change(queue, handle, 5) is None
    assert await change(queue, handle, 0) is None


async def test_after_its_time_a_standard_handle_hides_again(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    handle = (await received(queue)).receipt
    await clock.advance(31)
    assert await change(queue, handle, 30) is None


async def test_a_standard_handle_of_a_message_received_again_changes_nothing(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    old = (await received(queue)).receipt
    await clock.advance(31)
    await received(queue)
    assert await change(queue, old, 0) is None
    assert await queue.receive(1, wait=0) == []


@pytest.mark.parametrize("name", ["orders", "orders.fifo"])
async def test_the_visibility_of_a_deleted_message_cannot_be_changed(broker: Broker, name: str) -> None:
    queue = broker.queue(name)
    await queue.create()
    if name.endswith(".fifo"):
        await queue.send("x", group="a", deduplication_id="1")
    else:
        await queue.send("x")
    message = await received(queue)
    await message.delete()
    assert await change(queue, message.receipt, 10) == "gone"


# -- FIFO --------------------------------------------------------------------------------------------------------------


async def test_a_fifo_handle_whose_time_is_over_neither_deletes_nor_hides(fifo: QueueClient, clock: Clock) -> None:
    await fifo.send("x", group="a")
    handle = (await received(fifo)).receipt
    await clock.advance(31)
    assert await delete_one(fifo, handle) == "expired"
    assert await change(fifo, handle, 10) == "expired"
    again = await received(fifo)
    assert await delete_one(fifo, handle) == "expired"
    assert await change(fifo, handle, 10) == "expired"
    assert await delete_one(fifo, again.receipt) is None
    assert [await delete_one(fifo, handle), await delete_one(fifo, again.receipt)] == [None, None]


async def test_a_fifo_handle_extended_in_time_deletes_until_its_new_end(fifo: QueueClient, clock: Clock) -> None:
    await fifo.send("x", group="a")
    handle = (await received(fifo)).receipt
    assert await change(fifo, handle, 100) is None
    await clock.advance(90)
    assert await delete_one(fifo, handle) is None
    assert (await fifo.counts()).total == 0


async def test_a_fifo_handle_given_back_deletes_no_more(fifo: QueueClient) -> None:
    await fifo.send("x", group="a")
    handle = (await received(fifo)).receipt
    assert await change(fifo, handle, 0) is None
    assert await delete_one(fifo, handle) == "expired"


async def test_a_batch_of_a_fifo_group_is_settled_at_once(fifo: QueueClient) -> None:
    for body in ("a1", "a2", "a3", "b1"):
        await fifo.send(body, group=body[0])
    handles = [message.receipt for message in await fifo.receive(4)]
    assert await delete(fifo.core, fifo.resource, [handles[2], handles[0], "?", handles[3], handles[1]]) == [
        *(None, None, "invalid", None, None)
    ]
    assert (await fifo.counts()).total == 0
