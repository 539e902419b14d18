"""Sending: shared round trips, own ids, lost replies, cancellation, closing, a full server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from broker import Broker, InvalidInput, StoreError
from broker.errors import FunctionNotFound, PayloadTooLarge, QueueNotFound, StoreUnavailable
from broker.functions import register_function
from broker.limits import MIB
from broker.queues import QueueClient
from broker.records import FunctionSettings
from broker.sending import chunks
from broker.settings import Settings
from tests.conftest import Clock
from tests.faults.proxy import Action, FaultProxy, Rule
from tests.store.audit import command_calls


@pytest.fixture
async def shaky(proxy: FaultProxy, settings: Settings, queue: QueueClient) -> AsyncIterator[QueueClient]:
    """The same queue, reached through the proxy."""
    async with Broker(proxy.url, settings=settings) as broker:
        yield broker.queue("orders")


async def bodies(queue: QueueClient) -> list[str]:
    return [message.body for message in await queue.receive(1_000, visibility_timeout=0)]


async def script_calls(broker: Broker) -> int:
    """How many scripts the server has run."""
    return await command_calls(broker.core, "eval", "evalsha")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1] * 1_000, [1_000]),
        ([1] * 2_001, [1_000, 1_000, 1]),
        ([MIB] * 9, [4, 4, 1]),
        ([5 * MIB, 1, 5 * MIB, 5 * MIB], [1, 1, 1, 1]),
        ([0, 4 * MIB, 0, 1], [3, 1]),
    ],
)
def test_a_step_carries_a_thousand_or_four_megabytes_or_one_that_is_larger(
    sizes: list[int], expected: list[int]
) -> None:
    steps = list(chunks(sizes, bytes_of=lambda size: size))
    assert [len(step) for step in steps] == expected
    assert [size for step in steps for size in step] == sizes


# -- ordinary sends ----------------------------------------------------------------------------------------------------


async def test_text_is_stored_as_it_is_and_anything_else_as_json(queue: QueueClient) -> None:
    for body in ("plain", '{"a": 1}', {"a": 1}, [1, None], 5, True, None, {"é": "ü"}):
        await queue.send(body)
    assert await bodies(queue) == ["plain", '{"a": 1}', '{"a":1}', "[1,null]", "5", "true", "null", '{"é":"ü"}']


async def test_ids_are_distinct_and_those_of_the_messages(queue: QueueClient) -> None:
    ids = [*await queue.send_many(range(2_500)), await queue.send("x")]
    assert len(set(ids)) == 2_501
    found = [message.id for _ in range(3) for message in await queue.receive(1_000)]
    assert found == ids


async def test_concurrent_single_sends_share_round_trips_and_keep_their_order(
    broker: Broker, queue: QueueClient
) -> None:
    await queue.send("warm")
    before = await script_calls(broker)
    ids = await asyncio.gather(*(queue.send(str(n)) for n in range(500)))
    assert await script_calls(broker) - before <= 4
    messages = await queue.receive(1_000)
    assert [message.body for message in messages] == ["warm", *(str(n) for n in range(500))]
    assert [message.id for message in messages[1:]] == ids


async def test_sends_to_different_queues_do_not_wait_for_each_other(broker: Broker, queue: QueueClient) -> None:
    with pytest.raises(QueueNotFound):
        await asyncio.gather(broker.queue("nowhere").send("x"), queue.send("y"))
    async with asyncio.timeout(5):
        while await bodies(queue) != ["y"]:
            pass


async def test_one_message_too_large_for_the_queue_fails_alone(broker: Broker) -> None:
    queue = broker.queue("small")
    await queue.create(max_message_bytes=1024)
    sends = [queue.send("x" * size) for size in (10, 1025, 1024, 5000, 1)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert [isinstance(result, PayloadTooLarge) for result in results] == [False, True, False, True, False]
    assert sorted(len(body) for body in await bodies(queue)) == [1, 10, 1024]


async def test_many_are_checked_before_the_first_is_stored(queue: QueueClient) -> None:
    with pytest.raises(InvalidInput):
        await queue.send_many(["fine", {1, 2}, object()])
    assert (await queue.counts()).total == 0


async def test_large_messages_are_stored_in_steps_that_redis_bears(queue: QueueClient) -> None:
    await queue.send_many(["x" * 1_000_000] * 20)
    assert (await queue.counts()).visible == 20
    received = 0
    while batch := await queue.receive(1_000):
        assert len(batch) <= 7  # the bytes of a claim are bounded too
        received += len(batch)
    assert received == 20


# -- own ids -----------------------------------------------------------------------------------------------------------


async def test_an_own_id_is_accepted_once_within_five_minutes(queue: QueueClient, clock: Clock) -> None:
    assert await queue.send("first", id="order-1") == "order-1"
    await clock.advance(299)
    assert await queue.send("again", id="order-1") == "order-1"
    assert await bodies(queue) == ["first"]
    await clock.advance(1.01)
    await queue.send("later", id="order-1")
    assert await bodies(queue) == ["first", "later"]


async def test_a_repetition_does_not_prolong_the_five_minutes(queue: QueueClient, clock: Clock) -> None:
    for _ in range(4):
        await queue.send("x", id="a")
        await clock.advance(100)
    assert len(await bodies(queue)) == 2


async def test_an_own_id_is_remembered_after_the_message_is_deleted(queue: QueueClient) -> None:
    await queue.send("x", id="a")
    (message,) = await queue.receive()
    assert message.id == "a"
    await message.delete()
    await queue.send("x", id="a")
    assert await queue.receive() == []


async def test_the_same_own_id_many_times_at_once_is_stored_once(queue: QueueClient) -> None:
    assert set(await asyncio.gather(*(queue.send("x", id="a") for _ in range(50)))) == {"a"}
    assert (await queue.counts()).total == 1


async def test_own_ids_belong_to_their_queue(broker: Broker, queue: QueueClient) -> None:
    await broker.queue("other").create()
    await queue.send("x", id="a")
    await broker.queue("other").send("x", id="a")
    assert (await broker.queue("other").counts()).total == 1


async def test_an_own_id_works_with_delay_and_attributes(queue: QueueClient, clock: Clock) -> None:
    for _ in range(2):
        await queue.send("x", id="a", delay=10, attributes={"n": 1})
    await clock.advance(10)
    (message,) = await queue.receive(10)
    assert (message.id, message.attributes) == ("a", {"n": 1})


async def test_invoke_takes_an_own_id_too(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    assert [await broker.invoke("work", {"n": n}, id="r-1") for n in range(2)] == ["r-1", "r-1"]
    assert (await broker.function("work").counts()).total == 1


async def test_forgotten_own_ids_give_their_memory_back(broker: Broker, queue: QueueClient, clock: Clock) -> None:
    for n in range(50):
        await queue.send("x", id=f"a{n}")
    await clock.advance(301)
    for n in range(10):
        await queue.send("x", id=f"b{n}")
    seen = broker.core.keys.of(queue.resource).seen
    assert await broker.core.runner.fetch("ZCARD", seen) == 10


# -- lost replies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["cut_before", "cut_after"])
async def test_a_send_whose_reply_is_lost_is_stored_once(shaky: QueueClient, proxy: FaultProxy, action: Action) -> None:
    await shaky.send("warm")
    rule = proxy.add(Rule(action, command="EVALSHA"))
    sent_id = await shaky.send("x")
    assert rule.fired.is_set()
    first, second = await shaky.receive(10)
    assert (first.body, second.body, second.id) == ("warm", "x", sent_id)


async def test_a_batch_whose_reply_is_lost_is_stored_once(shaky: QueueClient, proxy: FaultProxy) -> None:
    await shaky.send("warm")
    for number in (1, 3):  # the second step of the batch, and its repetition
        proxy.add(Rule("cut_after", command="EVALSHA", number=number))
    ids = await shaky.send_many([str(n) for n in range(2_500)])
    assert (await shaky.counts()).total == 2_501
    found = [message.id for _ in range(3) for message in await shaky.receive(1_000)]
    assert found[1:] == ids


async def test_shared_round_trips_survive_a_lost_reply(shaky: QueueClient, proxy: FaultProxy) -> None:
    await shaky.send("warm")
    proxy.add(Rule("cut_after", command="EVALSHA", number=1))
    ids = await asyncio.gather(*(shaky.send(str(n)) for n in range(100)))
    assert len(set(ids)) == 100
    assert len(await bodies(shaky)) == 101


async def test_a_token_is_another_sender_s_own(queue: QueueClient) -> None:
    """Two sends of equal bodies are two messages."""
    await queue.send("x")
    await queue.send("x")
    assert await bodies(queue) == ["x", "x"]


async def test_a_send_that_finds_no_redis_says_so_and_stores_nothing_later(
    shaky: QueueClient, proxy: FaultProxy, queue: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.sending._RETRY_PAUSES_S", (0.01,))
    for _ in range(2):
        proxy.add(Rule("cut_before", command="EVALSHA"))
    with pytest.raises(StoreUnavailable, match="no answer from Redis at unix://"):
        await shaky.send("x")
    await shaky.send("y")
    assert await bodies(queue) == ["y"]


async def test_a_receive_whose_reply_is_lost_gives_its_messages_back(
    shaky: QueueClient, proxy: FaultProxy, queue: QueueClient
) -> None:
    await queue.send_many(["a", "b"])
    await queue.settings()
    await shaky.receive(1, visibility_timeout=0)
    proxy.add(Rule("cut_after", command="EVALSHA"))
    proxy.add(Rule("cut_before", command="EVALSHA", number=2))  # and the giving back has to be tried again
    with pytest.raises(StoreUnavailable):
        await shaky.receive(10, visibility_timeout=600)
    async with asyncio.timeout(5):
        while (await queue.counts()).visible < 2:
            pass
    receives = sorted((message.body, message.receives) for message in await queue.receive(10))
    assert receives == [("a", 3), ("b", 2)]  # as many as leases were granted


async def test_a_deletion_whose_reply_is_lost_can_be_repeated(shaky: QueueClient, proxy: FaultProxy) -> None:
    await shaky.send("x")
    (message,) = await shaky.receive()
    proxy.add(Rule("cut_after", command="EVALSHA"))
    with pytest.raises(StoreUnavailable):
        await message.delete()
    await message.delete()
    assert (await shaky.counts()).total == 0


async def test_a_waiting_receiver_hears_of_messages_after_its_connections_were_cut(
    shaky: QueueClient, proxy: FaultProxy, queue: QueueClient
) -> None:
    task = asyncio.create_task(shaky.receive(1, wait=20))
    meta = queue.core.keys.of(queue.resource).meta
    async with asyncio.timeout(5):
        while await queue.core.runner.fetch("HGET", meta, "asleep") != b"1":
            pass
    proxy.cut_all()
    await queue.send("x")
    async with asyncio.timeout(5):
        (message,) = await task
    assert message.body == "x"


async def test_a_slow_connection_delays_and_loses_nothing(shaky: QueueClient, proxy: FaultProxy) -> None:
    await shaky.send("warm")
    proxy.add(Rule("delay", command="EVALSHA", delay_s=0.05))
    started = time.monotonic()
    await shaky.send("x")
    assert time.monotonic() - started >= 0.05
    assert await bodies(shaky) == ["warm", "x"]


async def test_a_half_open_connection_ends_in_a_second_attempt_with_one_effect(
    proxy: FaultProxy, settings: Settings, queue: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.connection._TIMEOUT_S", 0.2)
    async with Broker(proxy.url, settings=settings) as broker:
        shaky = broker.queue("orders")
        await shaky.send("warm")
        rule = proxy.add(Rule("swallow", command="EVALSHA"))
        task = asyncio.create_task(shaky.send("x"))
        await rule.fired.wait()
        proxy.remove(rule)
        async with asyncio.timeout(5):
            await task
    assert await bodies(queue) == ["warm", "x"]


# -- cancellation and closing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancelled_sender_neither_loses_nor_fails_the_others(queue: QueueClient, steps: int) -> None:
    tasks = [asyncio.create_task(queue.send(str(n))) for n in range(30)]
    for _ in range(steps):
        await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    others = [result for n, result in enumerate(results) if n % 3]
    assert all(isinstance(result, str) for result in others)
    stored = await bodies(queue)
    assert {str(n) for n in range(30) if n % 3} <= set(stored)
    assert len(stored) == len(set(stored))


async def test_who_gives_up_before_the_round_trip_stores_nothing(queue: QueueClient) -> None:
    task = asyncio.create_task(queue.send("x"))
    await asyncio.sleep(0)  # it has asked, the round trip has not begun
    task.cancel()
    await queue.send("y")
    assert await bodies(queue) == ["y"]


async def test_closing_lets_sends_under_way_arrive(redis_url: str, settings: Settings, queue: QueueClient) -> None:
    async with Broker(redis_url, settings=settings) as broker:
        tasks = [asyncio.create_task(broker.queue("orders").send(str(n))) for n in range(50)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*tasks)) == 50
    assert len(await bodies(queue)) == 50


async def test_closing_while_redis_does_not_answer_fails_waiting_sends_by_name(
    proxy: FaultProxy, settings: Settings, queue: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.core._CLOSE_GRACE_S", 0.05)
    async with Broker(proxy.url, settings=settings) as broker:
        rule = proxy.add(Rule("swallow", command="EVALSHA"))
        tasks = [asyncio.create_task(broker.queue("orders").send("under way"))]
        await rule.fired.wait()
        tasks += [asyncio.create_task(broker.queue("orders").send("not yet")) for _ in range(2)]
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) and "was closed" in str(result) for result in results)


# -- unknown targets and a full server ---------------------------------------------------------------------------------


async def test_sending_to_what_nobody_named_is_an_error(broker: Broker) -> None:
    with pytest.raises(QueueNotFound, match='queue "nowhere" does not exist: create it, or name it'):
        await broker.queue("nowhere").send("x")
    with pytest.raises(FunctionNotFound, match='function "nobody" does not exist: no worker has registered it'):
        await broker.invoke("nobody", {})
    with pytest.raises(FunctionNotFound):
        await broker.invoke_many("nobody", [{}])
    assert (await broker.queues(), await broker.functions()) == ([], [])


async def test_errors_of_a_store_are_one_family() -> None:
    assert issubclass(StoreUnavailable, StoreError)
