"""Event source mappings on FIFO queues: one batch in flight a group, order kept, failures as SQS has them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from broker import Broker
from broker.queues import QueueClient
from broker.store.values import member_of
from runtime import App, Context, Record
from tests.conftest import Clock
from tests.runtime.orders import settled
from tests.runtime.scene import Serve, eventually, received

QUEUE = "orders.fifo"
VISIBILITY_S = 30


class Groups:
    """A mapped handler that keeps what it got, group by group, and fails on what it is told to."""

    def __init__(self, **options: Any) -> None:
        self.app = App()
        self.batches: list[list[dict[str, Any]]] = []
        self.handled: dict[str, list[str]] = defaultdict(list)
        self.running: set[str] = set()
        self.overlaps: list[str] = []
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.app.queue(QUEUE, timeout=60, **options)(self.handle)

    async def handle(self, event: dict[str, Any], context: Context) -> Any:
        records = event["Records"]
        self.batches.append(records)
        groups = {record["attributes"]["MessageGroupId"] for record in records}
        self.overlaps += groups & self.running
        self.running |= groups
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= groups
        bad = [record["messageId"] for record in records if record["body"] in self.failing]
        for record in records:
            if record["messageId"] not in bad:
                self.handled[record["attributes"]["MessageGroupId"]].append(record["body"])
        return {"batchItemFailures": [{"itemIdentifier": name} for name in bad]}


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue(QUEUE)
    await made.create(visibility_timeout=VISIBILITY_S, content_deduplication=True)
    return made


async def send(queue: QueueClient, *bodies: str) -> list[str]:
    """Sends messages whose group is the first letter of what they say."""
    return await queue.send_batch({"body": body, "group": body[0]} for body in bodies)


async def test_records_carry_what_a_fifo_queue_adds(serve: Serve, broker: Broker, queue: QueueClient) -> None:
    groups = Groups()
    sent_id = await queue.send("x", group="g", deduplication_id="once")
    async with serve(groups.app):
        await settled(broker, QUEUE)
    ((record,),) = groups.batches
    assert record["messageId"] == sent_id
    assert record["eventSourceARN"] == f"arn:aws:sqs:us-east-1:000000000000:{QUEUE}"
    attributes = record["attributes"]
    assert (attributes["MessageGroupId"], attributes["MessageDeduplicationId"]) == ("g", "once")
    assert len(attributes["SequenceNumber"]) == 20


async def test_every_group_is_handled_in_order_and_never_twice_at_once(
    serve: Serve, broker: Broker, queue: QueueClient
) -> None:
    groups = Groups(batch_size=3)
    names = "abcdefg"
    for number in range(20):
        await send(queue, *(f"{name}{number:02}" for name in names))
    async with serve(groups.app), serve(groups.app):
        await settled(broker, QUEUE)
    assert groups.handled == {name: [f"{name}{number:02}" for number in range(20)] for name in names}
    assert not groups.overlaps
    assert max(map(len, groups.batches)) <= 3


async def test_groups_run_beside_each_other(serve: Serve, broker: Broker, queue: QueueClient) -> None:
    groups = Groups(batch_size=1)
    groups.gate.clear()
    await send(queue, "a1", "a2", "b1", "b2", "c1")
    async with serve(groups.app):
        await eventually(lambda: groups.running == {"a", "b", "c"}, what="all groups run")
        assert len(groups.batches) == 3
        groups.gate.set()
        await settled(broker, QUEUE)
    assert groups.handled == {"a": ["a1", "a2"], "b": ["b1", "b2"], "c": ["c1"]}


async def test_a_batch_may_hold_several_groups(serve: Serve, broker: Broker, queue: QueueClient) -> None:
    groups = Groups(batch_size=10)
    await send(queue, "a1", "b1", "a2", "c1")
    async with serve(groups.app):
        await settled(broker, QUEUE)
    assert [record["body"] for record in groups.batches[0]] == ["a1", "a2", "b1", "c1"]


async def test_what_failed_holds_its_group_up_until_it_is_visible_again(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    groups = Groups(batch_size=1, partial_failures=True)
    groups.failing = {"a2"}
    await send(queue, "a1", "a2", "a3", "b1")
    async with serve(groups.app):
        await eventually(lambda: groups.handled["b"] and groups.handled["a"], what="what can run has run")

        async def held_up() -> bool:
            counts = await queue.counts()
            return (counts.visible, counts.retrying, counts.in_flight) == (1, 1, 0)

        await eventually(held_up, what="a2 waits, and a3 behind it")
        groups.failing = set()
        await clock.advance(VISIBILITY_S)
        await settled(broker, QUEUE)
    assert groups.handled == {"a": ["a1", "a2", "a3"], "b": ["b1"]}


async def test_later_messages_that_a_handler_does_not_name_are_deleted(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    """The poller does not add later ids itself: the function is to stop at its first failure and name the rest."""
    groups = Groups(batch_size=10, partial_failures=True)
    groups.failing = {"a1"}
    await send(queue, "a1", "a2")
    async with serve(groups.app):
        await settled(broker, QUEUE, left=1)
        groups.failing = set()
        await clock.advance(VISIBILITY_S)
        await settled(broker, QUEUE)
    assert groups.handled["a"] == ["a2", "a1"]


async def test_a_batch_that_fails_comes_back_whole_and_in_order(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    bodies: list[list[str]] = []
    app = App()

    @app.queue(QUEUE)
    async def handle(event: dict[str, Any], context: Context) -> None:
        bodies.append([record["body"] for record in event["Records"]])
        if len(bodies) == 1:
            raise ValueError("no")

    await send(queue, "a1", "a2", "a3")
    async with serve(app):
        await settled(broker, QUEUE, left=3)
        await send(queue, "a4")
        await clock.advance(VISIBILITY_S)
        await settled(broker, QUEUE)
    assert bodies[0] == ["a1", "a2", "a3"]
    assert [body for batch in bodies[1:] for body in batch] == ["a1", "a2", "a3", "a4"]


async def test_a_message_that_ends_its_workers_is_set_aside_and_its_group_goes_on(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    groups = Groups(max_crashes=0)
    lease_ms = broker.core.settings.lease_ms
    await send(queue, "a1")
    claim = await broker.core.messages.claim(
        queue.resource, token="wdeadbeef00001", lease_ms=lease_ms, room=1, mode="work"
    )
    assert claim.messages
    await broker.core.directory.record_end("deadbeef0000", "signal: killed")
    await send(queue, "a2", "b1")
    await clock.advance(lease_ms / 1000 + 1)
    async with serve(groups.app):
        (kept,) = await received(broker, "orders-quarantine.fifo")
        await settled(broker, QUEUE)
    assert (kept.body, kept.group) == ("a1", "a")
    assert kept.attributes["ErrorMessage"] == "Runtime exited with error: signal: killed"
    assert groups.handled == {"a": ["a2"], "b": ["b1"]}


async def test_a_crash_sets_the_whole_group_apart_and_no_other(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    groups = Groups()
    told = asyncio.Event()
    lease_ms = broker.core.settings.lease_ms
    await send(queue, "a1", "a2")
    claim = await broker.core.messages.claim(
        queue.resource, token="wdeadbeef00001", lease_ms=lease_ms, room=1, mode="work"
    )
    assert len(claim.messages) == 1
    await clock.advance(lease_ms / 1000 + 1)
    await send(queue, "b1")
    async with serve(groups.app, on_suspects=told.set):
        await asyncio.wait_for(told.wait(), 5)
        await eventually(lambda: groups.handled["b"], what="the other group goes on")
        assert groups.handled["a"] == []
        async with serve(groups.app, alone=True):
            await settled(broker, QUEUE)
    assert groups.handled["a"] == ["a1", "a2"]


async def test_what_a_stalled_worker_holds_behind_a_taken_head_is_not_its_own_any_more(
    broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    messages, lease_ms = broker.core.messages, broker.core.settings.lease_ms
    await send(queue, "a1", "a2", "a3")
    claim = await messages.claim(queue.resource, token="w1", lease_ms=lease_ms, room=3, mode="work")
    members = [member_of(item.entry, "w1") for item in claim.messages]
    await clock.advance(lease_ms / 1000 + 1)
    (head,) = await queue.receive(1)
    assert head.body == "a1"
    assert await messages.extend(queue.resource, members, lease_ms=lease_ms) == [0, 1, 2]
    settled = await messages.finish(queue.resource, members, counter="done")
    assert (settled.settled, set(settled.refused.values())) == (0, {"fenced"})
    await head.delete()
    assert [message.body for message in await queue.receive(10)] == ["a2", "a3"]


async def test_a_late_worker_keeps_what_nobody_has_taken(broker: Broker, queue: QueueClient, clock: Clock) -> None:
    messages, lease_ms = broker.core.messages, broker.core.settings.lease_ms
    await send(queue, "a1", "a2")
    claim = await messages.claim(queue.resource, token="w1", lease_ms=lease_ms, room=2, mode="work")
    members = [member_of(item.entry, "w1") for item in claim.messages]
    await clock.advance(lease_ms / 1000 + 1)
    assert await messages.extend(queue.resource, members, lease_ms=lease_ms) == []
    await clock.advance(lease_ms / 1000 + 1)
    assert (await messages.finish(queue.resource, members, counter="done")).settled == 2


async def test_what_stands_behind_an_unreadable_message_waits_with_it(
    serve: Serve, broker: Broker, queue: QueueClient, clock: Clock
) -> None:
    seen: list[list[int]] = []
    app = App()

    @app.queue(QUEUE, partial_failures=True)
    async def handle(records: list[Record[int]], context: Context) -> None:
        seen.append([record.body for record in records])

    await queue.send_batch({"body": body, "group": group} for body, group in (("1", "a"), ("x", "a"), ("2", "a")))
    await queue.send(3, group="b")
    async with serve(app):
        await settled(broker, QUEUE, left=2)
    assert seen == [[1, 3]]
