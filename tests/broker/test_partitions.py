"""Queues that are split into partitions: one queue to whoever uses them, spread over as many slots."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import msgspec
import pytest
import structlog

from broker import Broker, Message, Queue, settling
from broker.errors import InvalidOption, QueueNotFound, ResourceBusy, TooManyInFlight
from broker.names import Resource
from broker.queue_settings import queue_fields
from broker.queues import QueueClient
from broker.receiving import Receive
from broker.records import QueueSettings
from broker.settings import Settings
from broker.store.partitions import partition_of_id
from broker.upkeep import Upkeep
from tests.conftest import Clock
from tests.partitions import PARTITIONS, commands, named, of
from tests.runtime.scene import eventually


@pytest.fixture
async def orders(broker: Broker) -> QueueClient:
    queue = broker.queue("orders")
    await queue.create(partitions=PARTITIONS)
    return queue


@pytest.fixture
async def stranger(redis_url: str, settings: Settings, broker: Broker) -> AsyncIterator[Broker]:
    """Another process, which has heard of nothing yet; ``broker`` is open first, as it sets the clock back."""
    async with Broker(redis_url, settings=settings) as opened:
        yield opened


async def held_by(broker: Broker, queue: Resource, count: int = PARTITIONS) -> list[int]:
    """How many messages each partition holds."""
    found = [await broker.core.messages.counts(part) for part in queue.parts(count)]
    return [-1 if counts is None else counts.total for counts in found]


async def received_all(queue: QueueClient) -> list[Message]:
    found: list[Message] = []
    while messages := await queue.receive(10):
        found += messages
    return found


# -- sending ----------------------------------------------------------------------------------------------------------


async def test_messages_sent_one_after_the_other_are_spread_evenly(broker: Broker, orders: QueueClient) -> None:
    ids = [await orders.send(number) for number in range(10 * PARTITIONS)]
    assert await held_by(broker, orders.resource) == [10] * PARTITIONS
    assert Counter(map(of, ids)) == dict.fromkeys(range(PARTITIONS), 10)


async def test_many_messages_are_spread_step_by_step(broker: Broker, orders: QueueClient) -> None:
    ids = await orders.send_many(range(2_000 * PARTITIONS))
    assert len(set(ids)) == 2_000 * PARTITIONS
    assert await held_by(broker, orders.resource) == [2_000] * PARTITIONS


async def test_concurrent_sends_share_the_step_of_one_partition(broker: Broker, orders: QueueClient) -> None:
    await asyncio.gather(*(orders.send(number) for number in range(50)))
    assert sorted(await held_by(broker, orders.resource)) == [0, 0, 0, 50]


async def test_an_id_of_the_caller_is_accepted_once(broker: Broker, orders: QueueClient, stranger: Broker) -> None:
    names = [f"order-{number}" for number in range(20)]
    entries: list[Any] = [{"body": name, "id": name} for name in names]
    assert await orders.send_batch([{"body": "without"}, *entries, {"body": "another"}]) != []
    for client in (orders, stranger.queue("orders")):  # one by one, and by who does not know the partitions
        for name in names:
            assert await client.send(name, id=name) == name
    found = await received_all(orders)
    assert sorted(message.body for message in found) == sorted([*names, "without", "another"])
    for message in found:
        if message.id in names:
            assert message.queue.partition == partition_of_id(message.id, PARTITIONS)
    assert len({message.queue.partition for message in found}) == PARTITIONS


async def test_who_does_not_know_the_partitions_learns_of_them_by_his_first_send(
    broker: Broker, orders: QueueClient, stranger: Broker
) -> None:
    for number in range(1 + PARTITIONS * 5):
        await stranger.queue("orders").send(number)
    assert sorted(await held_by(broker, orders.resource)) == [5, 5, 5, 6]


async def test_a_queue_that_is_not_split_costs_one_command_a_send_and_a_receive(broker: Broker) -> None:
    plain, split = broker.queue("plain"), broker.queue("split")
    await plain.create()
    await split.create(partitions=PARTITIONS)  # others may be split
    await plain.send("warm")
    before = await commands(broker)
    await plain.send("x")
    await plain.send("y", id="own")
    await plain.receive(10)
    await plain.counts()
    assert await commands(broker) - before == 5  # counts: what is past its retention goes first


# -- receiving --------------------------------------------------------------------------------------------------------


async def test_one_receive_takes_from_as_many_partitions_as_it_needs(orders: QueueClient) -> None:
    for number in range(10):
        await orders.send(number)
    assert len(await orders.receive(10)) == 10
    assert await orders.receive(10) == []


async def test_who_does_not_know_the_partitions_receives_from_all(orders: QueueClient, stranger: Broker) -> None:
    for number in range(10):
        await orders.send(number)
    assert len(await stranger.queue("orders").receive(10)) == 10


async def test_no_partition_is_served_before_the_others(broker: Broker, orders: QueueClient) -> None:
    await orders.send_many(range(4_000))
    taken = Counter([(await orders.receive(1))[0].queue.partition for _ in range(80)])
    assert set(taken) == set(range(PARTITIONS))
    assert max(taken.values()) < 45


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_long_poll_hears_of_a_message_in_any_partition(
    orders: QueueClient, stranger: Broker, partition: int
) -> None:
    waiting = asyncio.create_task(stranger.queue("orders").receive(1, wait=20))
    name = named(partition)
    meta = orders.core.keys.of(orders.resource.part(partition)).meta

    async def sleeps() -> bool:
        return bool(await orders.core.runner.fetch("HGET", meta, "asleep") == b"1")

    await eventually(sleeps, what="the poll waits")
    await orders.send("x", id=name)
    (message,) = await asyncio.wait_for(waiting, 3)
    assert (message.id, message.queue.partition) == (name, partition)


async def test_a_long_poll_wakes_when_a_message_of_any_partition_is_due(orders: QueueClient) -> None:
    await orders.send_many(range(4))
    await orders.send("late", delay=0.2)
    await received_all(orders)
    (message,) = await orders.receive(1, wait=10)
    assert message.body == "late"


async def test_a_waiting_poll_costs_nothing(broker: Broker, orders: QueueClient) -> None:
    waiting = asyncio.create_task(orders.receive(1, wait=20))
    meta = broker.core.keys.of(orders.resource.part(PARTITIONS - 1)).meta

    async def sleeps() -> bool:
        return bool(await broker.core.runner.fetch("HGET", meta, "asleep") == b"1")

    await eventually(sleeps, what="the poll waits")
    before = await commands(broker)
    await asyncio.sleep(0.3)
    assert await commands(broker) - before <= PARTITIONS
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancelled_receive_gives_back_what_it_had_of_other_partitions(
    broker: Broker, orders: QueueClient
) -> None:
    for number in range(PARTITIONS):
        await orders.send(number)

    async def all_back() -> bool:
        return (await orders.counts()).visible == PARTITIONS

    for steps in range(1, 40):
        receiving = asyncio.create_task(orders.receive(PARTITIONS))
        for _ in range(steps):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        if not receiving.cancelled():
            for message in receiving.result():
                await message.release()
        await eventually(all_back, what="all is visible again")


async def test_the_bound_of_messages_in_flight_holds_over_all_partitions(broker: Broker, orders: QueueClient) -> None:
    for number in range(10 * PARTITIONS):
        await orders.send(number)
    wanted = Receive(count=100, wait_s=0, max_in_flight=3 * PARTITIONS)
    assert len(await broker.receiver.receive(orders.resource, wanted)) == 3 * PARTITIONS
    with pytest.raises(TooManyInFlight):
        await broker.receiver.receive(orders.resource, wanted)


# -- settling ---------------------------------------------------------------------------------------------------------


async def test_messages_are_settled_where_they_are(orders: QueueClient) -> None:
    for number in range(3 * PARTITIONS):
        await orders.send(number)
    first, second, *rest = await orders.receive(100)
    await first.release(30)
    await second.extend(60)
    assert await orders.delete_many(rest) == []
    counts = await orders.counts()
    assert (counts.retrying, counts.in_flight, counts.total) == (1, 1, 2)
    await second.delete()
    assert (await orders.counts()).total == 1


async def test_receipt_handles_tell_their_partition(broker: Broker, orders: QueueClient, stranger: Broker) -> None:
    for number in range(2 * PARTITIONS):
        await orders.send(number)
    handles = [message.receipt for message in await orders.receive(100)]
    changes = [settling.VisibilityChange(handle, 60) for handle in handles]
    assert await settling.change_visibility(stranger.core, orders.resource, changes) == [None] * len(handles)
    assert await settling.delete(stranger.core, orders.resource, handles) == [None] * len(handles)
    assert (await orders.counts()).total == 0
    assert await settling.delete(broker.core, orders.resource, [*handles, "x"]) == [None] * len(handles) + ["invalid"]
    assert await settling.change_visibility(broker.core, orders.resource, changes) == ["gone"] * len(handles)


# -- looking, counting, clearing --------------------------------------------------------------------------------------


async def test_counts_are_of_all_partitions(orders: QueueClient, stranger: Broker, clock: Clock) -> None:
    await orders.send("delayed", delay=60)
    for number in range(9):
        await orders.send(number)
    for message in (await orders.receive(5))[:2]:
        await message.release(30)
    for queue in (orders, stranger.queue("orders")):
        counts = await queue.counts()
        assert (counts.visible, counts.in_flight, counts.retrying, counts.delayed) == (4, 3, 2, 1)
        assert counts.oldest_ms is not None


async def test_peek_looks_into_all_partitions(orders: QueueClient, stranger: Broker) -> None:
    ids = [await orders.send(number) for number in range(9)]
    for queue in (orders, stranger.queue("orders")):
        assert {message.id for message in await queue.peek(100)} == set(ids)
        assert len(await queue.peek(5)) == 5


async def test_purge_empties_all_partitions(orders: QueueClient, stranger: Broker) -> None:
    for number in range(9):
        await orders.send(number)
    assert await stranger.queue("orders").purge() == 9
    assert (await orders.counts()).total == 0


async def test_dead_letters_of_all_partitions_arrive_and_go_back(broker: Broker) -> None:
    dead, orders = broker.queue("dead"), broker.queue("orders")
    await dead.create(partitions=3)
    await orders.create(partitions=PARTITIONS, dead_letter=Queue("dead"), max_receives=1, visibility_timeout=0)
    ids = [await orders.send(number) for number in range(20)]
    while (await orders.counts()).total:
        await orders.receive(10)
        await asyncio.gather(*broker.core._background)

    async def all_dead() -> bool:
        return (await dead.counts()).visible == 20

    await eventually(all_dead, what="all are dead letters")
    found = await dead.peek(100)
    assert {message.id for message in found} == set(ids)
    assert {message.source for message in found} == {orders.resource.arn}
    assert await dead.redrive(count=5) == 5
    assert await dead.redrive() == 15
    assert (await dead.counts()).total == 0
    assert (await orders.counts()).visible == 20


async def test_a_move_task_moves_all_partitions_and_counts_them_all(broker: Broker, orders: QueueClient) -> None:
    target = broker.queue("target")
    await target.create(partitions=2)
    upkeep = asyncio.create_task(Upkeep(broker).run())
    try:
        for moved in (23, 17):  # the second task counts from where the first ended
            await orders.send_many(range(3))
            for number in range(moved - 3):
                await orders.send(number)
            task = await orders.start_move(to=Queue("target"))
            assert task.to_move == moved

            async def ended() -> bool:
                return (await orders.moves())[0].status == "COMPLETED"

            await eventually(ended, what="the task ends")
            assert (await orders.moves())[0].moved == moved
        assert (await orders.counts()).total == 0
        assert (await target.counts()).visible == 40
    finally:
        upkeep.cancel()


async def test_upkeep_removes_what_is_too_old_in_all_partitions(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("short")
    await queue.create(retention=60, partitions=PARTITIONS)
    for number in range(8):
        await queue.send(number)
    await clock.advance(60)
    await Upkeep(broker).round()
    assert await held_by(broker, queue.resource) == [0] * PARTITIONS


# -- deleting ---------------------------------------------------------------------------------------------------------


async def test_a_queue_is_deleted_with_all_its_partitions(broker: Broker, orders: QueueClient) -> None:
    for number in range(8):
        await orders.send(number)
    with pytest.raises(ResourceBusy):
        await orders.delete()
    assert await held_by(broker, orders.resource) == [2] * PARTITIONS
    await orders.delete(force=True)
    assert await held_by(broker, orders.resource) == [-1] * PARTITIONS
    with pytest.raises(QueueNotFound):
        await orders.send("x")
    assert await broker.core.partitions.listed() == {}


async def test_who_still_believes_in_the_partitions_of_a_deleted_queue_stores_nothing_there(
    broker: Broker, orders: QueueClient, stranger: Broker
) -> None:
    client = stranger.queue("orders")
    await client.receive(1)
    await orders.delete()
    for _ in range(2 * PARTITIONS):
        stranger.core.splits.heard(orders.resource, PARTITIONS)
        with pytest.raises(QueueNotFound):
            await client.send("lost")
    await orders.create()  # anew, and not split
    for _ in range(2 * PARTITIONS):
        stranger.core.splits.heard(orders.resource, PARTITIONS)
        await client.send("x")
        await client.send("own", id="own")
    assert await held_by(broker, orders.resource) == [2 * PARTITIONS + 1, -1, -1, -1]
    stranger.core.splits.heard(orders.resource, PARTITIONS)
    assert len(await client.receive(100)) == 2 * PARTITIONS + 1


async def test_a_deletion_that_was_broken_off_is_made_good_after_a_minute(
    broker: Broker, orders: QueueClient, clock: Clock
) -> None:
    described = await broker.core.directory.describe(orders.resource)
    assert described is not None
    for partition in (3, 2):
        await broker.core.directory.delete_part(orders.resource.part(partition), described.nonce, force=True)
    for number in range(8):
        await orders.send(number)
    assert await held_by(broker, orders.resource) == [4, 4, -1, -1]
    for partition in (3, 2):
        await broker.core.runner.fetch("DEL", broker.core.keys.of(orders.resource.part(partition)).gone)  # a minute on
    for number in range(8):
        await orders.send(number)
    held = await held_by(broker, orders.resource)
    assert min(held) >= 1
    assert sum(held) == 16


# -- settings ---------------------------------------------------------------------------------------------------------


async def test_all_partitions_have_the_settings_of_the_queue(broker: Broker, orders: QueueClient) -> None:
    await orders.configure(visibility_timeout=7, dead_letter=Queue("dead"), max_receives=3)
    for part in orders.resource.parts(PARTITIONS):
        meta = broker.core.keys.of(part).meta
        assert await broker.core.runner.fetch("HMGET", meta, "visibility_ms", "max_receives") == [b"7000", b"3"]
    await orders.configure(remove_dead_letter=True)
    for part in orders.resource.parts(PARTITIONS):
        assert await broker.core.runner.fetch("HEXISTS", broker.core.keys.of(part).meta, "max_receives") == 0


async def test_concurrent_changes_reach_all_partitions(broker: Broker, orders: QueueClient, stranger: Broker) -> None:
    other = stranger.queue("orders")
    await asyncio.gather(
        *(orders.configure(visibility_timeout=number) for number in range(5)),
        *(other.configure(delay=number) for number in range(5)),
    )
    described = [await broker.core.directory.describe(part) for part in orders.resource.parts(PARTITIONS)]
    assert len({(one.settings, one.revision) for one in described if one is not None}) == 1
    assert None not in described


async def change_and_die(broker: Broker, queue: QueueClient, **changes: Any) -> None:
    """A change of settings by a process that dies before the other partitions have followed."""
    described = await broker.core.directory.describe(queue.resource)
    assert described is not None
    before = msgspec.json.decode(described.settings, type=QueueSettings)
    settings = msgspec.structs.replace(before, **changes)
    fields = queue_fields(settings)
    if settings.partitions != before.partitions:
        now_ms = await broker.core.messages.now_ms()
        fields |= {"partitions": str(settings.partitions), "past": f"{before.partitions}:{now_ms}"}
        await broker.core.partitions.enlist(queue.resource, settings.partitions)
    encoded = msgspec.json.encode(settings)
    done = await broker.core.directory.configure(
        queue.resource, encoded, fields, mode="replace", instead_of=described.settings
    )
    assert done.status == "changed"


async def test_the_upkeep_completes_a_change_that_was_broken_off(broker: Broker, orders: QueueClient) -> None:
    await change_and_die(broker, orders, visibility_timeout_s=9)
    meta = broker.core.keys.of(orders.resource.part(2)).meta
    assert await broker.core.runner.fetch("HGET", meta, "visibility_ms") == b"30000"
    with structlog.testing.capture_logs() as lines:
        await Upkeep(broker).round()
        await Upkeep(broker).round()
    for part in orders.resource.parts(PARTITIONS):
        assert await broker.core.runner.fetch("HGET", broker.core.keys.of(part).meta, "visibility_ms") == b"9000"
    found: list[MutableMapping[str, Any]] = [line for line in lines if line["event"] == "partitions_followed"]
    assert [line["count"] for line in found] == [PARTITIONS - 1]


async def test_whoever_sends_completes_a_growing_that_was_broken_off(broker: Broker, orders: QueueClient) -> None:
    await change_and_die(broker, orders, partitions=8)
    for number in range(40):
        await orders.send(number)
    await asyncio.gather(*(orders.send("own", id=f"own-{number}") for number in range(40)))
    held = await held_by(broker, orders.resource, 8)
    assert min(held) >= 5
    assert sum(held) == 80


async def test_a_copy_keeps_what_is_its_own(broker: Broker, orders: QueueClient) -> None:
    """Every field of a partition's meta is a setting, which follows, or its own, which stays."""
    for number in range(8):
        await orders.send(number, delay=0.001)
    await orders.receive(3)
    await orders.purge()
    await orders.send("x", group="g")
    await orders.receive(3)
    part = orders.resource.part(1)
    before = await broker.core.runner.fetch("HGETALL", broker.core.keys.of(part).meta)
    await orders.configure(delay=5)
    after = await broker.core.runner.fetch("HGETALL", broker.core.keys.of(part).meta)
    changed = {before[at] for at in range(0, len(before), 2) if before[at + 1] not in after}
    assert changed <= {b"settings", b"revision", b"delay_ms", b"asleep", b"adopted", b"past"}
    assert before[::2] != []
    first = await broker.core.runner.fetch("HGETALL", broker.core.keys.of(orders.resource).meta)
    names = {first[at].decode() for at in range(0, len(first), 2)}
    (adopted,) = [after[at + 1].decode().split() for at in range(0, len(after), 2) if after[at] == b"adopted"]
    assert set(adopted) <= names
    assert not set(adopted) & {
        "sent",
        "deleted",
        "cursor",
        "last_ms",
        "last_seq",
        "fence",
        "turn",
        "purged_ms",
        "nonce",
    }


# -- more of them -----------------------------------------------------------------------------------------------------


async def test_a_queue_grows_while_it_is_used(broker: Broker, stranger: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await queue.send_many(range(10))
    (old,) = await queue.receive(1)
    other = stranger.queue("orders")
    await other.receive(1, visibility_timeout=0)
    await queue.configure(partitions=PARTITIONS)
    for number in range(20):
        await other.send(number)
    await old.delete()
    assert old.queue.partition == 0
    assert len(await received_all(queue)) == 29
    assert min(await held_by(broker, queue.resource)) >= 4


async def test_a_long_poll_hears_of_partitions_that_come_meanwhile(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    waiting = asyncio.create_task(queue.receive(1, wait=20))
    await asyncio.sleep(0.05)
    await queue.configure(partitions=2)
    await asyncio.sleep(0.05)
    name = named(1, 2)
    await queue.send("x", id=name)
    (message,) = await asyncio.wait_for(waiting, 3)
    assert message.queue.partition == 1


async def test_an_id_is_accepted_once_across_growing(broker: Broker, stranger: Broker, clock: Clock) -> None:
    queue, other = broker.queue("orders"), stranger.queue("orders")
    await queue.create()
    names = [f"order-{number}" for number in range(40)]
    for name in names[:20]:
        await queue.send(name, id=name)
    await queue.configure(partitions=3)
    for name in names[10:30]:
        await other.send(name, id=name)  # who has not heard of it yet
    await queue.configure(partitions=8)
    for client in (queue, other):
        for name in names:
            await client.send(name, id=name)
    assert (await queue.counts()).visible == len(names)
    await clock.advance(200)
    await queue.send("again", id=names[25])
    assert (await queue.counts()).visible == len(names)
    await clock.advance(120)
    await queue.send("again", id=names[0])  # forgotten by now
    assert (await queue.counts()).visible == len(names) + 1
    await other.send("again", id=names[0])
    assert (await queue.counts()).visible == len(names) + 1


async def test_an_id_is_accepted_once_where_growing_was_broken_off(broker: Broker, orders: QueueClient) -> None:
    """Nobody who has not heard of it may be accepted where those who have do not look any more."""
    async with Broker(broker.core.address.url, settings=broker.core.settings) as late:
        await late.queue("orders").receive(1)
        names = [f"order-{number}" for number in range(60)]
        await change_and_die(broker, orders, partitions=7)
        for name in names[:30]:
            await orders.send(name, id=name)
            await late.queue("orders").send(name, id=name)
        for name in names[30:]:
            await late.queue("orders").send(name, id=name)
            await orders.send(name, id=name)
    assert (await orders.counts()).visible == len(names)


async def test_partitions_are_never_fewer(orders: QueueClient) -> None:
    with pytest.raises(InvalidOption, match="there can only be more"):
        await orders.configure(partitions=PARTITIONS - 1)
    await orders.configure(partitions=PARTITIONS)
    assert (await orders.settings()).partitions == PARTITIONS


@pytest.mark.parametrize("partitions", [0, -1, 257, True, 2.0, "2"])
async def test_what_is_no_number_of_partitions_is_refused(broker: Broker, partitions: Any) -> None:
    with pytest.raises(InvalidOption, match="whole number from 1 to 256"):
        await broker.queue("orders").create(partitions=partitions)


async def test_a_fifo_queue_is_not_split(broker: Broker) -> None:
    with pytest.raises(InvalidOption, match="1 for a FIFO queue"):
        await broker.queue("orders.fifo").create(partitions=2)
    await broker.queue("orders.fifo").create()
    with pytest.raises(InvalidOption, match="1 for a FIFO queue"):
        await broker.queue("orders.fifo").configure(partitions=2)
