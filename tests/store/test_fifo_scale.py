"""The number of groups in a FIFO queue does not raise what a message costs, counted in Redis's commands."""

from __future__ import annotations

import pytest

from broker import Broker
from broker.queues import Entry, QueueClient
from tests.store.audit import command_calls

_MESSAGES = 1_000
_BATCH = 10
_SMALL_FACTOR = 2.5  # a batch of one group is looked up once, one of ten groups ten times


async def _commands(queue: QueueClient) -> int:
    """How many commands the server has run, those in scripts included."""
    return await command_calls(queue.core)


async def _cost(queue: QueueClient, *, groups: int, waiting: int) -> float:
    """Commands a message, for receiving and deleting 1,000 of those that wait."""
    entries: list[Entry] = [
        {"body": "x", "group": f"g{number % groups}", "deduplication_id": str(number)} for number in range(waiting)
    ]
    await queue.send_batch(entries)
    before, done = await _commands(queue), 0
    while done < _MESSAGES:
        messages = await queue.receive(_BATCH, wait=0)
        assert len(messages) == _BATCH
        assert await queue.delete_many(messages) == []
        done += len(messages)
    return (await _commands(queue) - before) / done


@pytest.fixture
async def queues(broker: Broker) -> tuple[QueueClient, QueueClient]:
    made = broker.queue("few.fifo"), broker.queue("many.fifo")
    for queue in made:
        await queue.create()
    return made


async def test_ten_thousand_groups_cost_no_more_a_message_than_ten(queues: tuple[QueueClient, QueueClient]) -> None:
    few, many = queues
    of_ten = await _cost(few, groups=10, waiting=10_000)
    of_ten_thousand = await _cost(many, groups=10_000, waiting=10_000)
    assert of_ten_thousand <= _SMALL_FACTOR * of_ten, (of_ten, of_ten_thousand)


async def test_ten_thousand_groups_in_flight_cost_nothing(queues: tuple[QueueClient, QueueClient]) -> None:
    few = queues[0]
    for queue in queues:
        await queue.send_batch(
            [
                {"body": "x", "group": f"h{n}", "deduplication_id": f"h{n}"}
                for n in range(10 if queue is few else 10_000)
            ]
        )
        while await queue.receive(1_000, wait=0, visibility_timeout=3_600):
            pass
    cost = [await _cost(queue, groups=1_000, waiting=1_000) for queue in queues]
    assert cost[1] <= 1.05 * cost[0], cost
