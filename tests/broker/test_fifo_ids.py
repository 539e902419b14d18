"""FIFO queues through the SDK: deduplication by id and by content, and receives that are repeated."""

from __future__ import annotations

import hashlib

import pytest

from broker import Broker
from broker.errors import DeduplicationIdMissing, InvalidOption, PayloadTooLarge
from broker.queues import QueueClient
from tests.broker.fifo import bodies, send, take
from tests.conftest import Clock


@pytest.fixture
async def queue(broker: Broker) -> QueueClient:
    made = broker.queue("orders.fifo")
    await made.create(content_deduplication=True)
    return made


# -- deduplication -----------------------------------------------------------------------------------------------------


async def test_a_repeated_send_answers_the_first_id_and_is_not_delivered_again(queue: QueueClient) -> None:
    first = await queue.send("one", group="a", deduplication_id="id")
    assert await queue.send("other", group="a", deduplication_id="id") == first
    assert await queue.send_batch([{"body": "x", "group": "b", "deduplication_id": "id"}]) == [first]
    assert await bodies(queue) == ["one"]


async def test_a_batch_that_repeats_itself_is_stored_once(queue: QueueClient) -> None:
    ids = await queue.send_batch([{"body": "one", "group": "a", "deduplication_id": "id"}] * 3)
    assert len(set(ids)) == 1
    assert await bodies(queue) == ["one"]


async def test_ids_are_remembered_for_five_minutes_even_after_the_deletion(queue: QueueClient, clock: Clock) -> None:
    first = await queue.send("one", group="a", deduplication_id="id")
    (message,) = await take(queue)
    await message.delete()
    await clock.advance(298)
    assert await queue.send("one", group="a", deduplication_id="id") == first
    assert await bodies(queue) == []
    await clock.advance(4)  # a repetition does not begin the five minutes anew
    assert await queue.send("one", group="a", deduplication_id="id") != first
    assert await bodies(queue) == ["one"]


@pytest.mark.parametrize("offset_s", range(0, 600, 75))
async def test_ids_are_remembered_for_five_minutes_at_whatever_time_they_came(
    queue: QueueClient, clock: Clock, offset_s: int
) -> None:
    await clock.advance(offset_s)
    first = await queue.send("one", group="a", deduplication_id="id")
    for number in range(7):
        await clock.advance(42)
        await queue.send("x", group="a", deduplication_id=f"other{number}")
        assert await queue.send("one", group="a", deduplication_id="id") == first
    await clock.advance(7)
    assert await queue.send("one", group="a", deduplication_id="id") != first


async def test_ids_are_forgotten_after_a_long_pause(queue: QueueClient, clock: Clock) -> None:
    sent = set()
    for pause_s in (301, 601, 901, 1_201):
        sent.add(await queue.send("one", group="a", deduplication_id="id"))
        await clock.advance(pause_s)
    assert len(sent) == 4


@pytest.mark.parametrize("ids", [("1", "2", "1"), ("1", None, "1")])
async def test_a_batch_is_the_same_whether_all_of_it_has_ids_or_not(
    queue: QueueClient, ids: tuple[str | None, ...]
) -> None:
    async def send_batch(*texts: str) -> list[str]:
        pairs = zip(texts, ids, strict=True)
        return await queue.send_batch(
            [{"body": text, "group": "a", "deduplication_id": known} for text, known in pairs]
        )

    await queue.configure(max_message_bytes=1_024)
    with pytest.raises(PayloadTooLarge, match="message 1 "):
        await send_batch("a", "b" * 1_025, "a")
    first, second, third = await send_batch("a", "b" * 1_024, "c")
    assert (first == third, first == second) == (True, False)
    assert sorted(await bodies(queue)) == ["a", "b" * 1_024]


async def test_the_scope_of_the_queue_knows_an_id_in_every_group(queue: QueueClient) -> None:
    first = await queue.send("one", group="a", deduplication_id="id")
    assert await queue.send("one", group="b", deduplication_id="id") == first


async def test_the_scope_of_the_group_knows_an_id_only_there(broker: Broker) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create(deduplication_scope="messageGroup")
    first = await queue.send("one", group="a", deduplication_id="id")
    assert await queue.send("two", group="b", deduplication_id="id") != first
    assert await queue.send("three", group="a", deduplication_id="id") == first
    assert await bodies(queue) == ["one", "two"]


async def test_ids_accepted_before_a_change_of_scope_still_count(queue: QueueClient, clock: Clock) -> None:
    first = await queue.send("one", group="a", deduplication_id="id")
    await queue.configure(deduplication_scope="messageGroup")
    assert await queue.send("one", group="b", deduplication_id="id") == first
    second = await queue.send("two", group="a", deduplication_id="second")
    await queue.configure(deduplication_scope="queue")
    assert await queue.send("two", group="a", deduplication_id="second") == second
    await clock.advance(301)
    assert await queue.send("one", group="b", deduplication_id="id") != first


@pytest.mark.parametrize("offset_s", range(0, 300, 50))
async def test_a_change_of_scope_forgets_nothing_at_whatever_time_it_comes(
    queue: QueueClient, clock: Clock, offset_s: int
) -> None:
    await clock.advance(offset_s)
    for number in range(4):  # ids of both periods came under one scope
        await queue.send("x", group="a", deduplication_id=f"before{number}")
        await clock.advance(200)
    first = await queue.send("one", group="a", deduplication_id="id")
    await clock.advance(60)
    await queue.configure(deduplication_scope="messageGroup")
    for number in range(4):
        await queue.send("x", group="a", deduplication_id=f"after{number}")
        assert await queue.send("one", group="b", deduplication_id="id") == first
        await clock.advance(59)
    await clock.advance(5)
    assert await queue.send("one", group="b", deduplication_id="id") != first


async def test_content_is_known_by_the_hash_of_the_body_alone(queue: QueueClient) -> None:
    first = await queue.send("same", group="a", attributes={"x": 1})
    assert await queue.send("same", group="a", attributes={"x": 2}) == first
    assert await queue.send("other", group="a") != first
    assert await queue.send("same", group="a", deduplication_id="own") != first
    digest = hashlib.sha256(b"same").hexdigest()
    assert await queue.send("anything", group="a", deduplication_id=digest) == first
    one, other, own = await take(queue)
    assert one.deduplication_id == digest
    assert other.deduplication_id == hashlib.sha256(b"other").hexdigest()
    assert own.deduplication_id == "own"


async def test_without_an_id_a_queue_that_does_not_go_by_content_refuses(broker: Broker) -> None:
    queue = broker.queue("orders.fifo")
    await queue.create()
    with pytest.raises(DeduplicationIdMissing):
        await queue.send("x", group="a")
    with pytest.raises(DeduplicationIdMissing):
        await queue.send_batch([{"body": "x", "group": "a", "deduplication_id": "1"}, {"body": "y", "group": "a"}])
    assert (await queue.counts()).total == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *({}, {"group": ""}, {"group": "a b"}, {"group": "x" * 129}, {"group": "é"}, {"group": "a", "delay": 1}),
        *({"group": "a", "id": "own"}, {"group": "a", "deduplication_id": ""}, {"group": "a", "deduplication_id": "é"}),
    ],
)
async def test_wrong_options_are_refused(queue: QueueClient, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        await queue.send("x", **wrong)  # type: ignore[arg-type]  # that is the point


async def test_a_delay_of_zero_is_the_queues_own(queue: QueueClient) -> None:
    await queue.send("x", group="a", delay=0)
    assert await bodies(queue) == ["x"]


# -- the same receive again --------------------------------------------------------------------------------------------


async def test_the_same_attempt_brings_the_same_messages_under_the_same_handles(queue: QueueClient) -> None:
    await send(queue, "a", "a1", "a2", "a3")
    first = await queue.receive(2, attempt="t")
    await send(queue, "b", "b1")
    again = await queue.receive(2, attempt="t")
    assert [(m.body, m.receives, m.member) for m in again] == [(m.body, m.receives, m.member) for m in first]
    assert [m.body for m in await queue.receive(2, attempt="u")] == ["b1"]
    await again[0].delete()


async def test_a_repeated_attempt_begins_the_visibility_timeout_anew(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    await queue.receive(1, attempt="t")
    await clock.advance(20)
    (again,) = await queue.receive(1, attempt="t")
    await clock.advance(20)
    assert await bodies(queue) == []
    await again.delete()


async def test_a_repeated_attempt_may_end_the_visibility_earlier(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    await queue.receive(1, attempt="t", visibility_timeout=600)
    await queue.receive(1, attempt="t", visibility_timeout=10)
    await clock.advance(11)
    assert await bodies(queue) == ["a1"]


async def test_an_attempt_counts_no_more_once_a_message_was_changed(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1", "a2")
    one, two = await queue.receive(2, attempt="t")
    await one.delete()
    assert await queue.receive(2, attempt="t") == []
    await two.extend(0)
    (again,) = await queue.receive(2, attempt="u")
    assert (again.body, again.receives) == ("a2", 2)
    await clock.advance(31)
    (third,) = await queue.receive(2, attempt="u")
    assert third.receives == 3


async def test_an_attempt_is_good_for_five_minutes(queue: QueueClient, clock: Clock) -> None:
    await send(queue, "a", "a1")
    await queue.receive(1, attempt="t", visibility_timeout=3_600)
    await clock.advance(299)
    assert len(await queue.receive(1, attempt="t", visibility_timeout=3_600)) == 1
    await clock.advance(2)
    assert await queue.receive(1, attempt="t") == []


async def test_an_attempt_that_brought_nothing_binds_nothing(queue: QueueClient) -> None:
    assert await queue.receive(1, attempt="t") == []
    await send(queue, "a", "a1")
    assert len(await queue.receive(1, attempt="t")) == 1


@pytest.mark.parametrize("attempt", ["", "a b", "x" * 129])
async def test_wrong_attempts_are_refused(queue: QueueClient, attempt: str) -> None:
    with pytest.raises(InvalidOption):
        await queue.receive(1, attempt=attempt)


async def test_a_standard_queue_takes_no_attempt(broker: Broker) -> None:
    await broker.queue("orders").create()
    with pytest.raises(InvalidOption):
        await broker.queue("orders").receive(1, attempt="t")
