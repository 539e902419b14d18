"""Fair queues: on a standard queue groups take turns, so that a noisy tenant makes only itself wait."""

from __future__ import annotations

import pytest

from broker import Broker, Queue
from broker.queues import QueueClient
from broker.records import unpack
from tests.conftest import Clock
from tests.store.audit import check_state


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue("orders")
    await made.create(visibility_timeout=30)
    return made


async def bodies(queue: QueueClient, count: int = 10, visibility_timeout: float | None = None) -> list[str]:
    messages = await queue.receive(count, wait=0, visibility_timeout=visibility_timeout)
    return [message.body for message in messages]


async def received_until(queue: QueueClient, body: str, *, most: int, count: int = 1) -> int:
    """Within how many receives a message is handed out."""
    for number in range(1, most + 1):
        if body in await bodies(queue, count):
            return number
    raise AssertionError(f"{body} was not among {most} receives")


# -- waiting times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 10])
async def test_a_quiet_tenant_does_not_wait_for_a_backlog(queue: QueueClient, count: int) -> None:
    await queue.send_many((f"noisy {number}" for number in range(5_000)), group="noisy")
    await bodies(queue, 100)
    await queue.send("quiet", group="quiet")
    await received_until(queue, "quiet", most=2, count=count)


async def test_a_quiet_tenant_does_not_wait_for_many_in_flight(queue: QueueClient) -> None:
    await queue.send_many((f"noisy {number}" for number in range(5_000)), group="noisy")
    for _ in range(4):
        assert len(await bodies(queue, 1_000)) == 1_000
    await queue.send("quiet", group="quiet")
    await received_until(queue, "quiet", most=2)


async def test_a_quiet_tenant_does_not_wait_for_many_that_come_back(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many((f"noisy {number}" for number in range(6_000)), group="noisy")
    for _ in range(6):
        assert len(await bodies(queue, 1_000)) == 1_000
    await clock.advance(31)
    await queue.send("quiet", group="quiet")
    await received_until(queue, "quiet", most=2)
    await check_state(queue.core, queue.resource)


async def test_a_quiet_tenant_does_not_wait_for_retries(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many((f"noisy {number}" for number in range(1_000)), group="noisy")
    for message in await queue.receive(1_000):
        await message.release(10)
    await clock.advance(11)
    await queue.send("quiet", group="quiet")
    await received_until(queue, "quiet", most=2)


async def test_of_many_tenants_each_is_served_within_as_many_receives(queue: QueueClient) -> None:
    for tenant in range(20):
        await queue.send_many((f"{tenant} {number}" for number in range(50)), group=f"t{tenant}")
    for _ in range(10):
        served = [(await bodies(queue, 1))[0].split(" ")[0] for _ in range(20)]
        assert sorted(served) == sorted(map(str, range(20)))
    await queue.send("new", group="zzz")
    await received_until(queue, "new", most=21)


async def test_one_receive_of_many_is_shared_out(queue: QueueClient) -> None:
    for tenant in ("a", "b", "c"):
        await queue.send_many((f"{tenant}{number}" for number in range(100)), group=tenant)
    found = await bodies(queue, 30)
    assert {tenant: sum(body.startswith(tenant) for body in found) for tenant in "abc"} == {"a": 10, "b": 10, "c": 10}


async def test_what_has_no_group_is_one_more_tenant(queue: QueueClient) -> None:
    await queue.send_many(f"plain {number}" for number in range(3_000))
    await queue.send_many((f"noisy {number}" for number in range(3_000)), group="noisy")
    await queue.send("quiet", group="quiet")
    found = [body.split(" ")[0] for body in await bodies(queue, 61)]
    assert (found.count("plain"), found.count("noisy"), found.count("quiet")) == (30, 30, 1)


async def test_a_quiet_tenant_without_group_does_not_wait_for_a_group(queue: QueueClient) -> None:
    await queue.send_many((f"noisy {number}" for number in range(3_000)), group="noisy")
    await bodies(queue, 100)
    await queue.send("plain")
    await received_until(queue, "plain", most=2)


async def test_a_tenant_that_comes_back_has_no_turns_saved_up(queue: QueueClient) -> None:
    await queue.send("a", group="a")
    assert await bodies(queue) == ["a"]
    await queue.send_many((f"b{number}" for number in range(1_000)), group="b")
    for _ in range(100):
        await bodies(queue, 1)
    await queue.send_many((f"a{number}" for number in range(100)), group="a")
    found = [body[0] for _ in range(40) for body in await bodies(queue, 1)]
    assert 19 <= found.count("a") <= 21


async def test_after_a_large_receive_of_one_tenant_the_next_is_not_ahead_for_long(queue: QueueClient) -> None:
    await queue.send_many((f"b{number}" for number in range(3_000)), group="b")
    assert len(await bodies(queue, 1_000)) == 1_000
    await queue.send_many((f"a{number}" for number in range(500)), group="a")
    found = [body[0] for _ in range(20) for body in await bodies(queue, 1)]
    assert 9 <= found.count("b") <= 11


# -- everything else stays as on any standard queue --------------------------------------------------------------------


async def test_a_tenants_messages_come_in_order_and_say_their_group(queue: QueueClient) -> None:
    sent = [f"m{number:03}" for number in range(200)]
    await queue.send_many(sent, group="a")
    seen = []
    while messages := await queue.receive(7, wait=0):
        assert {message.group for message in messages} == {"a"}
        seen += [message.body for message in messages]
    assert seen == sent


async def test_a_group_blocks_nothing(queue: QueueClient) -> None:
    await queue.send_many(["a1", "a2", "a3"], group="a")
    assert [await bodies(queue, 1) for _ in range(3)] == [["a1"], ["a2"], ["a3"]]


async def test_every_message_is_handed_out_once(queue: QueueClient) -> None:
    sent = []
    for number in range(300):
        group = [None, "a", "b", "a!"][number % 4]
        await queue.send(f"m{number}", group=group, delay=None if number % 5 else 0)
        sent.append(f"m{number}")
    seen: list[str] = []
    while messages := await queue.receive(11, wait=0):
        seen += [message.body for message in messages]
        await queue.delete_many(messages)
    assert sorted(seen) == sorted(sent)
    assert (await queue.counts()).total == 0
    await check_state(queue.core, queue.resource)


async def test_delays_hold_for_messages_of_groups(queue: QueueClient, clock: Clock) -> None:
    await queue.send("later", group="a", delay=60)
    await queue.send("now", group="a")
    counts = await queue.counts()
    assert (counts.visible, counts.delayed) == (1, 1)
    assert await bodies(queue) == ["now"]
    await clock.advance(61)
    assert "later" in await bodies(queue)


async def test_counts_are_exact_in_every_state(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many([f"a{number}" for number in range(10)], group="a")
    await queue.send_many([f"p{number}" for number in range(10)])
    messages = await queue.receive(10, wait=0)
    await messages[0].release(60)
    await messages[1].release(0)
    await messages[2].delete()
    counts = await queue.counts()
    assert (counts.visible, counts.in_flight, counts.retrying, counts.delayed) == (11, 7, 1, 0)
    await clock.advance(31)
    await bodies(queue, 3)
    counts = await queue.counts()
    assert (counts.visible, counts.in_flight, counts.retrying, counts.delayed) == (15, 3, 1, 0)
    await check_state(queue.core, queue.resource)


async def test_retries_raise_the_receive_count_and_end_in_the_dead_letter_queue_with_their_group(
    broker: Broker, clock: Clock
) -> None:
    queue, dead = broker.queue("orders"), broker.queue("dead")
    await queue.create(dead_letter=Queue("dead"), max_receives=2)
    sent = await queue.send("x", group="tenant", attributes={"n": 1})
    for receives in (1, 2):
        (message,) = await queue.receive(1, wait=0)
        assert message.receives == receives
        await clock.advance(31)
    assert await queue.receive(1, wait=0) == []
    await broker.deliver(queue.resource)
    (message,) = await dead.receive(1, wait=0)
    assert (message.id, message.group, message.receives, message.attributes) == (sent, "tenant", 3, {"n": 1})
    await message.release()
    assert await dead.redrive() == 1
    (message,) = await queue.receive(1, wait=0)
    assert (message.id, message.group, message.receives) == (sent, "tenant", 1)


async def test_messages_of_groups_expire(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(retention=60)
    await queue.send_many([f"a{number}" for number in range(1_500)], group="a")
    for group in range(600):
        await queue.send("x", group=f"g{group}")
    await clock.advance(61)
    await queue.send("young", group="a")
    assert (await queue.counts()).total == 1
    assert await bodies(queue) == ["young"]
    await check_state(queue.core, queue.resource)


async def test_messages_of_groups_expire_where_nobody_counts(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(retention=60)
    await queue.send_many([f"a{number}" for number in range(200)], group="a")
    await clock.advance(61)
    await queue.send("young", group="a")
    assert await bodies(queue) == ["young"]


async def test_a_purge_takes_groups_along(queue: QueueClient) -> None:
    await queue.send_many(["a1", "a2"], group="a")
    await queue.send("p")
    await bodies(queue, 1)
    assert await queue.purge() == 3
    assert (await queue.counts()).total == 0
    await queue.send("new", group="a")
    assert await bodies(queue) == ["new"]
    await check_state(queue.core, queue.resource)


async def test_a_look_shows_what_waits_for_its_turn(queue: QueueClient) -> None:
    await queue.send("a1", group="a")
    await queue.send("p1")
    assert sorted(message.body for message in await queue.peek()) == ["a1", "p1"]


async def test_a_worker_gets_messages_of_groups_in_turn(broker: Broker, queue: QueueClient) -> None:
    await queue.send_many([f"a{number}" for number in range(50)], group="a")
    await queue.send("b0", group="b")
    claim = await broker.core.messages.claim(queue.resource, token="w1", lease_ms=1_000, room=4, mode="work")
    assert sorted(unpack(item.blob)[1] for item in claim.messages) == [b"a0", b"a1", b"a2", b"b0"]


async def test_a_queue_without_groups_keeps_no_turns(queue: QueueClient) -> None:
    await queue.send_many(["x"] * 10)
    await bodies(queue)
    keys = queue.core.keys.of(queue.resource)
    assert await queue.core.runner.fetch("EXISTS", keys.groups, keys.order, keys.open) == 0


async def test_a_queue_whose_groups_are_gone_keeps_no_turns(queue: QueueClient) -> None:
    await queue.send_many(["a1", "a2"], group="a")
    await queue.delete_many(await queue.receive(2))
    await queue.send_many(["x"] * 3)
    assert len(await bodies(queue)) == 3
    keys = queue.core.keys.of(queue.resource)
    assert await queue.core.runner.fetch("EXISTS", keys.groups, keys.order, keys.open) == 0


# -- rounds end --------------------------------------------------------------------------------------------------------


async def test_a_tenant_that_sends_at_the_right_moment_gets_no_more_than_its_turn(queue: QueueClient) -> None:
    await queue.send_many((f"y {number}" for number in range(20)), group="y")
    await queue.send("plain")
    seen: list[str] = []
    for number in range(20):
        await queue.send(f"x {number}", group="x")
        seen += await bodies(queue, 1)
    tenants = [body.split(" ")[0] for body in seen]
    assert tenants.count("y") >= 8
    assert "plain" in tenants


async def test_newer_groups_do_not_pass_an_older_one_whatever_they_are_called(queue: QueueClient) -> None:
    await queue.send("oldest", group="zzz")
    for number in range(20):
        await queue.send(f"{number}", group=f"a{number:03}")
        if "oldest" in await bodies(queue, 1):
            return
    raise AssertionError("the oldest message was not handed out")


async def test_old_messages_are_removed_behind_more_groups_than_one_look_takes(
    queue: QueueClient, clock: Clock
) -> None:
    await queue.configure(retention=60)
    await queue.send("old", group="zzz")
    await clock.advance(61)
    await queue.send_batch({"body": str(number), "group": f"a{number:04}"} for number in range(1_200))
    assert (await queue.counts()).visible == 1_200


async def test_the_oldest_message_is_told_also_where_all_have_groups(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x", group="x")
    assert (await queue.counts()).oldest_ms is not None
