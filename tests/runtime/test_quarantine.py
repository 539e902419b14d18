"""Messages of a mapped queue that end their workers: set apart, run alone, quarantined with the cause."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest

from broker import Broker, Queue
from broker.names import Resource
from broker.store.values import ClaimMode
from runtime import set_apart_log
from runtime.set_apart_log import SetApartLog
from tests.conftest import Clock
from tests.runtime.orders import Orders, counts, fill, settled
from tests.runtime.scene import Serve, eventually, lines, received


async def crash(broker: Broker, clock: Clock, times: int) -> None:
    """What workers that die over the message leave behind: leases that end without settle or release."""
    resource = broker.core.resource("queue", "orders")
    for number in range(times):
        mode: ClaimMode = "alone" if number else "work"
        token = f"{'s' if number else 'w'}deadbeef0000{number}"
        lease_ms = broker.core.settings.lease_ms
        claim = await broker.core.messages.claim(resource, token=token, lease_ms=lease_ms, room=1, mode=mode)
        if not claim.messages:  # the one that ended was set apart by this claim
            claim = await broker.core.messages.claim(resource, token=token, lease_ms=lease_ms, room=1, mode="alone")
        assert claim.messages
        await clock.advance(lease_ms / 1000 + 1)
    await broker.core.directory.record_end("deadbeef0000", "signal: killed")


def told_set_apart(logs: list[MutableMapping[str, Any]]) -> list[tuple[str, int]]:
    """Of which queue, and of how many, each line told."""
    return [(line["resource"].rpartition(":")[2], line["count"]) for line in lines(logs, "events_set_apart")]


@pytest.mark.parametrize("dead_letter", [None, Queue("dead")])
async def test_a_message_that_ended_its_workers_is_quarantined_with_the_cause(
    broker: Broker, serve: Serve, clock: Clock, dead_letter: Queue | None
) -> None:
    orders = Orders(max_crashes=2)
    async with serve(orders.app):
        pass  # registered
    queue = broker.queue("orders")
    await queue.create(dead_letter=dead_letter, max_receives=10 if dead_letter else None)
    message_id = await queue.send({"id": 1}, attributes={"kind": "new"})
    await crash(broker, clock, 3)
    async with serve(orders.app, alone=True):
        (kept,) = await received(broker, "dead" if dead_letter else "orders-quarantine")
        assert (kept.id, kept.body) == (message_id, '{"id":1}')
        assert kept.attributes["kind"] == "new"
        assert kept.attributes["ErrorMessage"] == "Runtime exited with error: signal: killed"
        assert kept.source == "arn:aws:sqs:us-east-1:000000000000:orders"
        await settled(broker)
    assert not orders.batches


async def test_the_neighbours_of_a_poison_message_go_on(broker: Broker, serve: Serve, clock: Clock) -> None:
    orders = Orders()
    told = asyncio.Event()
    await fill(broker, ["poison"])
    await crash(broker, clock, 1)
    await broker.queue("orders").send_many(["a", "b"])
    async with serve(orders.app, on_suspects=told.set):
        await asyncio.wait_for(told.wait(), 5)

        async def neighbours_done() -> bool:
            found = await counts(broker)
            return (found.total, found.set_apart) == (1, 1)

        await eventually(neighbours_done, what="the neighbours are done, the suspect is set apart")
    assert sorted(orders.bodies) == ["a", "b"]
    async with serve(orders.app, alone=True):
        await settled(broker)
    assert orders.bodies[-1] == "poison"


async def test_a_mapping_may_allow_more_crashes_than_usual(broker: Broker, serve: Serve, clock: Clock) -> None:
    orders = Orders(max_crashes=5)
    told = asyncio.Event()
    await fill(broker, ["unlucky"])
    await crash(broker, clock, 4)
    async with serve(orders.app, on_suspects=told.set):
        await asyncio.wait_for(told.wait(), 5)  # it is neither run among others nor given up
        assert (await counts(broker)).set_apart == 1
    assert not orders.batches


async def test_a_worker_without_a_supervisor_tells_once_of_what_each_of_its_claims_sees(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    orders = Orders()
    await fill(broker, ["poison"])
    await crash(broker, clock, 1)
    async with serve(orders.app):
        for number in range(20):
            await broker.queue("orders").send(str(number))
            await eventually(lambda: len(orders.bodies) > number, what="it has run")  # noqa: B023 - called at once
    assert told_set_apart(logs) == [("orders", 1)]


def test_what_is_set_apart_is_told_when_it_is_more_or_fewer_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch, logs: list[MutableMapping[str, Any]]
) -> None:
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(set_apart_log, "time", SimpleNamespace(monotonic=lambda: clock.now))
    orders, job = (Resource("queue", "1", "r", name) for name in ("orders", "job"))
    seen = SetApartLog()
    seen.saw(orders, 0)
    for count in (1, 1, 2, 3):
        seen.saw(orders, count)
    assert told_set_apart(logs) == [("orders", 1)], "the others come too soon"
    seen.saw(job, 5)
    clock.now += 60
    seen.saw(orders, 3)
    seen.saw(job, 5)
    assert told_set_apart(logs) == [("orders", 1), ("job", 5), ("orders", 3)]
    clock.now += 60
    seen.saw(job, 0)
    clock.now += 60
    seen.saw(job, 5)
    assert told_set_apart(logs)[3:] == [("job", 5)], "they had gone meanwhile"
