"""Queues: creation, receiving under a visibility timeout, settling, waiting, dead letters, redrive, counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from broker import Broker, Function, LeaseLost, Message, Queue
from broker.errors import FunctionNotFound, InvalidOption, QueueExists, QueueNotFound, ResourceBusy
from broker.functions import register_function
from broker.queue_settings import ensure_queue
from broker.queues import QueueClient
from broker.records import FunctionSettings
from tests.conftest import Clock
from tests.store.audit import names_under


async def received(queue: QueueClient, **options: float) -> Message:
    (message,) = await queue.receive(1, visibility_timeout=options.get("visibility_timeout"), wait=options.get("wait"))
    return message


async def totals(queue: QueueClient) -> tuple[int, int, int, int]:
    counts = await queue.counts()
    return counts.visible, counts.in_flight, counts.retrying, counts.delayed


# -- creation and settings ---------------------------------------------------------------------------------------------


async def test_creating_twice_with_the_same_settings_changes_nothing(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=45, delay=1)
    await queue.send("x")
    await queue.create(visibility_timeout=45, delay=1)
    assert (await queue.settings()).visibility_timeout_s == 45
    assert (await queue.counts()).total == 1


async def test_creating_with_other_settings_is_refused_and_names_the_difference(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=45)
    with pytest.raises(QueueExists, match=r'queue "orders" exists with a different value for visibility_timeout;'):
        await queue.create(visibility_timeout=46)
    assert (await queue.settings()).visibility_timeout_s == 45


async def test_a_refused_creation_creates_no_dead_letter_queue(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    with pytest.raises(QueueExists):
        await queue.create(dead_letter=Queue("never"), max_receives=3)
    assert await broker.queues() == ["orders"]


async def test_a_queue_that_was_only_named_takes_the_settings_of_its_creation(broker: Broker) -> None:
    await ensure_queue(broker.core, "orders")
    await broker.queue("orders").send("kept")
    await broker.queue("orders").create(visibility_timeout=45)
    assert (await broker.queue("orders").settings()).visibility_timeout_s == 45
    assert (await received(broker.queue("orders"))).body == "kept"
    with pytest.raises(QueueExists):
        await broker.queue("orders").create(visibility_timeout=46)


async def test_naming_an_existing_queue_leaves_its_settings(broker: Broker) -> None:
    await broker.queue("orders").create(visibility_timeout=45)
    await ensure_queue(broker.core, "orders")
    assert (await broker.queue("orders").settings()).visibility_timeout_s == 45


async def test_creation_makes_the_dead_letter_queue_with_defaults(broker: Broker) -> None:
    await broker.queue("orders").create(dead_letter=Queue("orders-dead"), max_receives=5)
    assert await broker.queues() == ["orders", "orders-dead"]
    assert (await broker.queue("orders-dead").settings()).retention_s == 345_600


async def test_a_dead_letter_queue_can_be_removed(queue: QueueClient) -> None:
    await queue.configure(dead_letter=Queue("dead"), max_receives=1)
    await queue.configure(remove_dead_letter=True)
    settings = await queue.settings()
    assert (settings.dead_letter, settings.max_receives) == (None, None)
    await queue.send("x")
    for _ in range(3):
        assert len(await queue.receive(visibility_timeout=0)) == 1


async def test_configure_changes_what_is_given_and_leaves_the_rest(queue: QueueClient) -> None:
    await queue.configure(delay=2)
    await queue.configure(visibility_timeout=7, dead_letter=Queue("dead"), max_receives=2)
    settings = await queue.settings()
    assert (settings.delay_s, settings.visibility_timeout_s) == (2, 7)
    assert (settings.dead_letter, settings.max_receives) == ("dead", 2)
    await queue.send("x")
    assert await totals(queue) == (0, 0, 0, 1)  # the scripts see it too


async def test_names_of_queues_are_listed_in_order(broker: Broker) -> None:
    for name in ("b", "a", "c"):
        await broker.queue(name).create()
    assert await broker.queues() == ["a", "b", "c"]


# -- receiving and settling --------------------------------------------------------------------------------------------


async def test_messages_come_in_the_order_they_were_sent(queue: QueueClient) -> None:
    await queue.send_many([{"n": n} for n in range(5)])
    assert [message.json()["n"] for message in await queue.receive(10)] == [0, 1, 2, 3, 4]


async def test_a_received_message_is_hidden_until_its_timeout_ends(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    first = await received(queue, visibility_timeout=10)
    await clock.advance(9.9)
    assert await queue.receive() == []
    await clock.advance(0.1)
    second = await received(queue)
    assert (first.id, first.receives, second.receives) == (second.id, 1, 2)


async def test_the_queue_s_own_visibility_timeout_is_the_default(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=5)
    await queue.send("x")
    await received(queue)
    await clock.advance(4.9)
    assert await queue.receive() == []
    await clock.advance(0.1)
    await received(queue)


async def test_with_a_timeout_of_zero_a_message_stays_visible_and_can_be_deleted(queue: QueueClient) -> None:
    await queue.send("x")
    message = await received(queue, visibility_timeout=0)
    assert await totals(queue) == (1, 0, 0, 0)
    await message.delete()
    assert await totals(queue) == (0, 0, 0, 0)


async def test_a_deleted_message_is_gone_and_deleting_again_is_no_error(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    message = await received(queue)
    await message.delete()
    await message.delete()
    await clock.advance(100)
    assert await queue.receive() == []


async def test_after_the_timeout_a_message_can_still_be_deleted_until_somebody_else_has_it(
    queue: QueueClient, clock: Clock
) -> None:
    await queue.send_many(["a", "b"])
    first, second = await queue.receive(2, visibility_timeout=1)
    await clock.advance(2)
    await first.delete()
    newer = await received(queue)
    assert newer.id == second.id
    for settle in (second.delete, second.release, lambda: second.extend(10)):
        with pytest.raises(LeaseLost, match=second.id):
            await settle()
    await newer.delete()
    assert (await queue.counts()).total == 0


async def test_settling_what_is_finished_is_told_from_what_is_somebody_else_s(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(["a", "b"])
    gone, taken = await queue.receive(2, visibility_timeout=1)
    await gone.delete()
    await clock.advance(2)
    await received(queue)
    done = await queue.core.messages.finish(queue.resource, [gone.member, taken.member], counter="deleted")
    assert (done.settled, done.refused) == (0, {0: "unknown", 1: "fenced"})


async def test_an_extended_message_stays_hidden_from_now_on(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x")
    message = await received(queue, visibility_timeout=10)
    await clock.advance(9)
    await message.extend(20)
    await clock.advance(19.9)
    assert await queue.receive() == []
    await clock.advance(0.1)
    assert (await received(queue)).receives == 2


async def test_a_released_message_comes_back_after_its_delay(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(["now", "later"])
    now, later = await queue.receive(2)
    await now.release()
    await later.release(30)
    assert await totals(queue) == (1, 0, 1, 0)
    again = await received(queue)
    assert (again.body, again.receives, again.sent_ms) == ("now", 2, now.sent_ms)
    await again.delete()
    await clock.advance(29.9)
    assert await queue.receive() == []
    await clock.advance(0.1)
    assert (await received(queue)).id == later.id


async def test_a_message_keeps_text_attributes_and_time_of_sending(queue: QueueClient, clock: Clock) -> None:
    await queue.send("héllo", attributes={"kind": "new", "n": 3, "f": 1.5, "raw": b"\x00\xff"})
    message = await received(queue)
    await message.release()
    await clock.advance(60)
    again = await received(queue)
    assert again.body == "héllo"
    assert again.attributes == {"kind": "new", "n": 3, "f": 1.5, "raw": b"\x00\xff"}
    assert again.sent_ms == message.sent_ms


async def test_no_more_than_asked_for_is_received(queue: QueueClient) -> None:
    await queue.send_many(range(2_500))
    assert [len(await queue.receive(1_000)) for _ in range(4)] == [1_000, 1_000, 500, 0]


async def test_two_receivers_never_hold_the_same_message(queue: QueueClient) -> None:
    await queue.send_many(range(200))
    batches = await asyncio.gather(*(queue.receive(10) for _ in range(30)))
    ids = [message.id for batch in batches for message in batch]
    assert len(ids) == len(set(ids)) == 200


# -- delays and retention ----------------------------------------------------------------------------------------------


async def test_a_delayed_message_is_never_early(queue: QueueClient, clock: Clock) -> None:
    await queue.send("x", delay=5)
    await clock.advance(4.9)
    assert await queue.receive() == []
    await clock.advance(0.1)
    assert (await received(queue)).receives == 1


async def test_the_queue_s_delay_holds_where_none_is_given_and_zero_overrides_it(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(delay=60)
    await queue.send("later")
    await queue.send("now", delay=0)
    await queue.send_many(["much later"], delay=900)
    assert [message.body for message in await queue.receive(10)] == ["now"]
    await clock.advance(60)
    assert [message.body for message in await queue.receive(10)] == ["now", "later"]


@pytest.mark.parametrize("state", ["fresh", "delayed", "released", "in flight"])
async def test_a_message_past_its_retention_is_gone_whatever_its_state(
    broker: Broker, clock: Clock, state: str
) -> None:
    queue = broker.queue("orders")
    await queue.create(retention=60)
    await queue.send("x", delay=30 if state == "delayed" else None)
    if state == "released":
        await (await received(queue)).release(5)
    if state == "in flight":
        await received(queue, visibility_timeout=10)
    await clock.advance(59)
    assert (await queue.counts()).total == 1
    await clock.advance(1)
    assert await queue.receive() == []
    assert (await queue.counts()).total == 0


async def test_a_message_behind_thousands_of_expired_ones_is_found_at_once(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(retention=60)
    await queue.send_many(range(6_000))
    await clock.advance(60)
    await queue.send("fresh")
    assert (await received(queue)).body == "fresh"


# -- waiting -----------------------------------------------------------------------------------------------------------


async def waiting(queue: QueueClient, wait: float = 20) -> asyncio.Task[list[Message]]:
    """A receive that has begun to wait: the queue knows that somebody sleeps."""
    task = asyncio.create_task(queue.receive(10, wait=wait))
    meta = queue.core.keys.of(queue.resource).meta
    async with asyncio.timeout(5):
        while await queue.core.runner.fetch("HGET", meta, "asleep") != b"1":
            pass
    return task


async def test_waiting_without_any_message_answers_an_empty_list_in_time(queue: QueueClient) -> None:
    async with asyncio.timeout(5):
        assert await queue.receive(1, wait=0.1) == []


async def test_a_waiting_receiver_is_woken_by_a_send(queue: QueueClient) -> None:
    task = await waiting(queue)
    await queue.send("x")
    async with asyncio.timeout(5):
        assert [message.body for message in await task] == ["x"]


async def test_a_waiting_receiver_gets_a_delayed_message_when_it_is_due(queue: QueueClient) -> None:
    task = await waiting(queue)
    loop = asyncio.get_running_loop()
    sent = loop.time()
    await queue.send("x", delay=0.2)
    async with asyncio.timeout(5):
        assert [message.body for message in await task] == ["x"]
    assert loop.time() - sent >= 0.19


async def test_a_waiting_receiver_gets_a_message_whose_lease_ends(queue: QueueClient) -> None:
    await queue.send("x")
    await received(queue, visibility_timeout=0.2)
    async with asyncio.timeout(5):
        (again,) = await queue.receive(wait=20)
    assert again.receives == 2


@pytest.mark.parametrize(
    "give_back",
    [lambda message: message.release(), lambda message: message.extend(0)],
    ids=["released", "made visible"],
)
async def test_a_waiting_receiver_is_woken_by_a_message_given_back(
    queue: QueueClient, give_back: Callable[[Message], Awaitable[None]]
) -> None:
    await queue.send("x")
    message = await received(queue, visibility_timeout=600)
    task = await waiting(queue)
    await give_back(message)
    async with asyncio.timeout(5):
        assert [again.id for again in await task] == [message.id]


async def test_of_two_waiting_receivers_each_gets_a_message_that_is_sent(queue: QueueClient) -> None:
    first, second = await waiting(queue), await waiting(queue)
    await queue.send("a")
    done, pending = await asyncio.wait((first, second), timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(pending)) == (1, 1)
    await queue.send("b")
    async with asyncio.timeout(5):
        bodies = sorted(message.body for batch in await asyncio.gather(first, second) for message in batch)
    assert bodies == ["a", "b"]


async def test_a_cancelled_receive_holds_nothing_and_listens_no_more(queue: QueueClient) -> None:
    for _ in range(20):
        task = asyncio.create_task(queue.receive(1, wait=20))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await queue.send("x")
    async with asyncio.timeout(5):
        (message,) = await queue.receive(wait=5)
    assert message.body == "x"


async def test_a_cancellation_is_never_swallowed_wherever_it_strikes(queue: QueueClient) -> None:
    """On Python 3.11 `asyncio.wait_for` does that; the library's connections use it."""
    for steps in range(60):
        task = asyncio.create_task(queue.receive(1, wait=20))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_what_a_cancelled_receive_leased_comes_back_at_once(queue: QueueClient) -> None:
    """Wherever the cancellation strikes: before the claim, in it, or when its reply is on the way."""
    await queue.send_many(range(5))
    for steps in range(40):
        task = asyncio.create_task(queue.receive(1, visibility_timeout=600))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                for message in outcome:
                    await message.release()
    async with asyncio.timeout(5):
        while (await queue.counts()).visible < 5:
            pass
    assert await totals(queue) == (5, 0, 0, 0)


async def test_a_waiting_receiver_hears_of_the_queue_s_deletion(queue: QueueClient) -> None:
    task = await waiting(queue)
    await queue.delete()
    async with asyncio.timeout(5):
        with pytest.raises(QueueNotFound):
            await task


async def test_many_receivers_that_begin_at_the_same_time_are_all_woken(broker: Broker) -> None:
    """Some of their channels are added while the first subscription is still being made."""
    queues = [broker.queue(f"q{number}") for number in range(30)]
    for queue in queues:
        await queue.create()
    tasks = await asyncio.gather(*(waiting(queue) for queue in queues))
    for queue in queues:
        await queue.send(queue.name)
    async with asyncio.timeout(5):
        batches = await asyncio.gather(*tasks)
    assert [message.body for batch in batches for message in batch] == [queue.name for queue in queues]


async def test_receivers_that_come_and_go_are_all_woken(broker: Broker) -> None:
    """The one subscription connection is idle between them, and taken up again."""
    for number in range(10):
        queue = broker.queue(f"q{number % 3}")
        await queue.create()
        task = await waiting(queue)
        await queue.send(number)
        async with asyncio.timeout(5):
            (message,) = await task
        await message.delete()
        assert message.json() == number


# -- dead letters and redrive ------------------------------------------------------------------------------------------


@pytest.fixture
async def dead(broker: Broker) -> QueueClient:
    await broker.queue("orders").create(visibility_timeout=10, dead_letter=Queue("dead"), max_receives=2)
    return broker.queue("dead")


async def use_up(broker: Broker, clock: Clock, receives: int = 2) -> Message:
    """Receives the next order as often as it may be, and lets the last lease end."""
    message: Message | None = None
    for _ in range(receives):
        message = await received(broker.queue("orders"))
        await clock.advance(10)
    assert message is not None
    assert await broker.queue("orders").receive() == []
    await broker.deliver(broker.queue("orders").resource)
    return message


async def test_used_up_receives_move_a_message_as_it_was_to_the_dead_letter_queue(
    broker: Broker, dead: QueueClient, clock: Clock
) -> None:
    sent_id = await broker.queue("orders").send("x", attributes={"kind": "new"})
    last = await use_up(broker, clock)
    letter = await received(dead)
    assert letter.id == last.id == sent_id
    assert (letter.body, letter.attributes, letter.sent_ms) == ("x", {"kind": "new"}, last.sent_ms)
    assert letter.source == "arn:aws:sqs:us-east-1:000000000000:orders"
    assert letter.receives == 3  # two of the source and this one: the count goes on
    counts = await broker.queue("orders").counts()
    assert (counts.total, counts.outbox) == (0, 0)


async def test_a_released_message_counts_its_receives_too(broker: Broker, dead: QueueClient, clock: Clock) -> None:
    await broker.queue("orders").send("x", id="my-own")
    for _ in range(2):
        await (await received(broker.queue("orders"))).release()
    assert await broker.queue("orders").receive() == []
    await broker.deliver(broker.queue("orders").resource)
    assert (await received(dead)).id == "my-own"


async def test_a_dead_letter_keeps_the_age_of_its_first_sending(
    broker: Broker, dead: QueueClient, clock: Clock
) -> None:
    await broker.queue("orders").send("x")
    await dead.configure(retention=60)
    await use_up(broker, clock)
    await clock.advance(39)
    assert (await dead.counts()).total == 1
    assert len(await dead.receive(visibility_timeout=0)) == 1
    await clock.advance(1.1)
    assert await dead.receive() == []


async def test_redrive_takes_a_dead_letter_back_to_its_source_with_fresh_counters(
    broker: Broker, dead: QueueClient, clock: Clock
) -> None:
    sent_id = await broker.queue("orders").send("x", attributes={"kind": "new"})
    await use_up(broker, clock)
    assert await dead.redrive() == 1
    again = await received(broker.queue("orders"))
    assert (again.id, again.body, again.attributes) == (sent_id, "x", {"kind": "new"})
    assert (again.receives, again.source) == (1, None)
    assert (await dead.counts()).total == 0


async def test_redrive_stops_at_its_count_and_can_go_elsewhere(broker: Broker) -> None:
    await broker.queue("here").create()
    await broker.queue("there").create()
    await broker.queue("here").send_many(range(5))
    assert await broker.queue("here").redrive(to=Queue("there"), count=2) == 2
    assert await broker.queue("here").redrive(to=Queue("there")) == 3
    assert [message.json() for message in await broker.queue("there").receive(10)] == [0, 1, 2, 3, 4]


async def test_redrive_to_a_function_gives_it_the_body_as_its_event(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    await broker.queue("here").create()
    sent_id = await broker.queue("here").send({"n": 1}, attributes={"kind": "new"})
    assert await broker.queue("here").redrive(to=Function("work")) == 1
    resource = broker.function("work").resource
    claim = await broker.core.messages.claim(resource, token="w1", lease_ms=1_000, room=10, mode="work")
    (event,) = [Message(broker.core, resource, claimed, claim=claim) for claimed in claim.messages]
    assert (event.id, event.body, event.attributes, event.receives) == (sent_id, '{"n":1}', {}, 1)


async def test_redrive_leaves_what_has_no_source_and_is_not_held_up_by_it(
    broker: Broker, dead: QueueClient, clock: Clock
) -> None:
    await dead.send_many(range(150))  # sent there by hand: more than one step of the redrive looks at
    await broker.queue("orders").send("x")
    await use_up(broker, clock)
    assert await dead.redrive() == 1
    assert await totals(dead) == (150, 0, 0, 0)
    assert (await received(broker.queue("orders"))).body == "x"


async def test_redrive_leaves_what_comes_from_a_deleted_queue(broker: Broker, dead: QueueClient, clock: Clock) -> None:
    await broker.queue("orders").send("x")
    await use_up(broker, clock)
    await broker.queue("orders").delete()
    assert await dead.redrive() == 0
    assert await totals(dead) == (1, 0, 0, 0)


async def test_redrive_refuses_itself_and_targets_that_do_not_exist(broker: Broker, queue: QueueClient) -> None:
    await queue.send("x")
    with pytest.raises(InvalidOption, match="a queue cannot be redriven to itself"):
        await queue.redrive(to=Queue("orders"))
    with pytest.raises(QueueNotFound, match='"nowhere"'):
        await queue.redrive(to=Queue("nowhere"))
    with pytest.raises(FunctionNotFound, match='"nobody"'):
        await queue.redrive(to=Function("nobody"))
    assert await totals(queue) == (1, 0, 0, 0)


# -- looking, counting, clearing ---------------------------------------------------------------------------------------


async def test_counts_are_exact_in_every_state(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(range(10))
    await queue.send_many(range(3), delay=100)
    held = await queue.receive(6, visibility_timeout=50)
    assert await totals(queue) == (4, 6, 0, 3)
    await held[0].delete()
    await held[1].release(200)
    await held[2].release()
    assert await totals(queue) == (5, 3, 1, 3)
    (again,) = [message for message in await queue.receive(1) if message.id == held[2].id]
    assert await totals(queue) == (4, 4, 1, 3)  # leased out of the waiting ones
    await again.delete()
    await clock.advance(50)
    assert await totals(queue) == (7, 0, 1, 3)  # ended leases are visible
    await clock.advance(50)
    assert await totals(queue) == (10, 0, 1, 0)
    await clock.advance(100)
    assert await totals(queue) == (11, 0, 0, 0)
    assert len(await queue.receive(1_000)) == 11
    assert await totals(queue) == (0, 11, 0, 0)


async def test_the_oldest_visible_message_gives_the_age(queue: QueueClient) -> None:
    assert (await queue.counts()).oldest_ms is None
    await queue.send_many(["a", "b"])
    oldest = (await queue.peek(1))[0].sent_ms
    assert (await queue.counts()).oldest_ms == oldest


async def test_peek_shows_messages_wherever_they_are_without_receiving_them(queue: QueueClient) -> None:
    await queue.send("fresh", attributes={"n": 1})
    await queue.send("held")
    for body in ("delayed", "released"):
        await queue.send(body, delay=100 if body == "delayed" else None)
    taken = {message.body: message for message in await queue.receive(10)}
    await taken["released"].release(100)
    await taken["fresh"].release()
    seen = {message.body: message.receives for message in await queue.peek()}
    assert seen == {"fresh": 1, "held": 1, "released": 1, "delayed": 0}
    assert await totals(queue) == (1, 1, 1, 1)


async def test_what_was_only_looked_at_cannot_be_settled(queue: QueueClient) -> None:
    await queue.send("x")
    (message,) = await queue.peek()
    assert message.receives == 0
    for settle in (message.delete, message.release, lambda: message.extend(1)):
        with pytest.raises(LeaseLost):
            await settle()
    assert await totals(queue) == (1, 0, 0, 0)


async def test_purge_throws_everything_away_and_answers_how_many(queue: QueueClient, clock: Clock) -> None:
    await queue.send_many(range(5))
    await queue.send("later", delay=100)
    held, released, *_ = await queue.receive(2)
    await released.release(50)
    assert await queue.purge() == 6
    assert await totals(queue) == (0, 0, 0, 0)
    await held.delete()  # finished is finished
    await clock.advance(200)
    assert await queue.receive() == []
    await queue.send("new")
    assert (await received(queue)).body == "new"


async def test_a_queue_with_messages_is_deleted_only_by_force(broker: Broker, queue: QueueClient) -> None:
    await queue.send_many(range(3))
    await queue.receive(1)
    with pytest.raises(ResourceBusy, match='queue "orders" still holds 3 messages'):
        await queue.delete()
    assert (await queue.counts()).total == 3
    await queue.delete(force=True)
    assert await broker.queues() == []
    with pytest.raises(QueueNotFound):
        await queue.send("x")


async def test_a_queue_made_again_under_its_name_knows_nothing_of_the_old_one(queue: QueueClient, clock: Clock) -> None:
    old_id = await queue.send("old")
    old = await received(queue)
    await queue.delete(force=True)
    await clock.advance(0.001)  # messages of one millisecond are numbered from 0 in either queue
    await queue.create()
    assert await queue.send("new") != old_id
    new = await received(queue)
    await old.delete()
    await new.extend(10)
    assert (await queue.counts()).in_flight == 1


async def test_deletion_leaves_no_key_behind(broker: Broker, queue: QueueClient) -> None:
    await queue.send_many(range(5), delay=3)
    await queue.send("x", id="mine")
    await (await received(queue)).release(5)
    await queue.delete(force=True)
    keys = await names_under(broker.core, broker.core.settings.prefix)
    expiring = (b":tokens:", b":gone", b"{upkeep}:scopes")
    assert [key for key in keys if not any(word in key for word in expiring)] == []


async def test_the_right_to_redrive_is_given_taken_and_given_to_all_again(broker: Broker) -> None:
    dead = broker.queue("dead")
    await dead.create(redrive_from=[Queue("a")])
    with pytest.raises(InvalidOption, match="does not allow"):
        await broker.queue("b").create(dead_letter=Queue("dead"), max_receives=1)
    await dead.configure(redrive_from="all")
    await broker.queue("b").create(dead_letter=Queue("dead"), max_receives=1)
    settings = await dead.settings()
    assert (settings.redrive_permission, settings.redrive_sources) == (None, ())
    await dead.configure(redrive_from=[])
    assert (await dead.settings()).redrive_permission == "denyAll"
    await dead.create(redrive_from=[])
    with pytest.raises(InvalidOption, match='must be queues, or "all"'):
        await dead.configure(redrive_from="a")  # type: ignore[arg-type]
