"""Batches that were claimed, and found that others had taken the room: they are for whoever may run them first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from broker import Broker, Queue
from broker.functions import change_function
from broker.mappings import change_mapping, delete_mapping
from broker.store.messages import MessageStore
from broker.store.values import Claim
from runtime import App, Context, Worker
from tests.runtime.orders import counts
from tests.runtime.scene import Serve, eventually

MAPPING = "orders->orders"


class Crowd:
    """A mapping, ``orders``, in a worker whose room others take while its messages are claimed."""

    def __init__(self, broker: Broker, **options: Any) -> None:
        self.broker = broker
        self.gate = asyncio.Event()
        self.ran: list[str] = []
        self.app, self.elsewhere = App(), App()
        for name, app in (("here", self.app), ("elsewhere", self.elsewhere)):
            app.queue("orders", name="orders", **options)(self._handler(name))
        self.app.function(name="blocker", timeout=60)(self._block)

    def _handler(self, where: str) -> Callable[[Any, Context], Awaitable[None]]:
        async def orders(event: Any, context: Context) -> None:
            self.ran += [where] * len(event["Records"])

        return orders

    async def _block(self, event: Any, context: Context) -> None:
        await self.gate.wait()

    async def all_visible(self, count: int) -> None:
        async def look() -> bool:
            found = await counts(self.broker)
            return (found.visible + found.retrying, found.in_flight) == (count, 0)

        await eventually(look, what="what waited is back, while the process is full")

    async def all_gone(self) -> None:
        async def look() -> bool:
            return (await counts(self.broker)).total == 0

        await eventually(look, what="all have run")


@asynccontextmanager
async def crowded(
    crowd: Crowd, serve: Serve, monkeypatch: pytest.MonkeyPatch, count: int, **options: Any
) -> AsyncIterator[Worker]:
    """So many messages are claimed, and a call of another function runs where they would."""
    real, claimed = MessageStore.claim, 0

    async def claim(self: MessageStore, resource: Any, *what: Any, **more: Any) -> Claim:
        nonlocal claimed
        found = await real(self, resource, *what, **more)
        if found.messages and resource.kind == "queue" and not claimed:
            claimed = len(found.messages)
            await crowd.broker.invoke("blocker", {})
            await eventually(lambda: worker.running_calls == 1, what="the room is taken")
        return found

    monkeypatch.setattr(MessageStore, "claim", claim)
    queue = crowd.broker.queue("orders")
    await queue.create(visibility_timeout=30, **options)
    async with serve(crowd.app, max_calls=1) as worker:
        await queue.send_many(range(count))
        await eventually(lambda: claimed, what="they are claimed")
        try:
            yield worker
        finally:
            crowd.gate.set()


async def test_what_waits_runs_where_there_is_room(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(broker, batch_size=3)
    async with crowded(crowd, serve, monkeypatch, 3), serve(crowd.elsewhere):
        await crowd.all_gone()
        assert crowd.ran == ["elsewhere"] * 3


async def test_a_window_that_waits_runs_where_there_is_room(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(broker, batch_size=10, batch_window=0.1)
    async with crowded(crowd, serve, monkeypatch, 3), serve(crowd.elsewhere):
        await crowd.all_gone()
        assert crowd.ran == ["elsewhere"] * 3


@pytest.mark.parametrize("window", [0, 0.1])
async def test_what_was_given_back_runs_here_when_there_is_room(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, window: float
) -> None:
    crowd = Crowd(broker, batch_size=3, batch_window=window)
    async with crowded(crowd, serve, monkeypatch, 2):
        await crowd.all_visible(2)
        crowd.gate.set()
        await crowd.all_gone()
    assert crowd.ran == ["here"] * 2


async def test_waiting_makes_no_dead_letters(broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(broker, batch_size=3)
    await broker.queue("dead").create()
    async with crowded(crowd, serve, monkeypatch, 3, dead_letter=Queue("dead"), max_receives=1):
        await asyncio.sleep(1.5)
        async with serve(crowd.elsewhere):
            await asyncio.sleep(0.5)
            crowd.gate.set()
            await crowd.all_gone()
    assert crowd.ran == ["here"] * 3
    assert (await counts(broker, "dead")).total == 0


async def test_windows_have_their_turn_where_none_waits_long(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.sources.queue.HELD_S", 0.01)
    crowd = Crowd(broker, batch_size=10, batch_window=0.05)

    async def greedy(event: Any, context: Context) -> None:
        await asyncio.sleep(0.03)

    for name in ("greedy-1", "greedy-2"):
        crowd.app.function(name=name)(greedy)
    await broker.queue("orders").create()
    async with serve(crowd.app, max_calls=1):
        for name in ("greedy-1", "greedy-2"):
            await broker.invoke_many(name, range(1_000))
        await broker.queue("orders").send_many(range(2))
        await crowd.all_gone()
        assert crowd.ran == ["here"] * 2
        for name in ("greedy-1", "greedy-2"):
            await broker.function(name).purge()


async def pauses(broker: Broker) -> None:
    await broker.function("orders").pause()


async def disables(broker: Broker) -> None:
    await change_mapping(broker.core, MAPPING, lambda stored: msgspec.structs.replace(stored, enabled=False))


async def deletes(broker: Broker) -> None:
    await delete_mapping(broker.core, MAPPING)


async def limits(broker: Broker) -> None:
    function = broker.core.resource("function", "orders")
    await change_function(broker.core, function, lambda stored: msgspec.structs.replace(stored, concurrency=0))


@pytest.mark.parametrize("window", [0, 0.1])
@pytest.mark.parametrize("change", [pauses, disables, deletes, limits])
async def test_what_waits_goes_back_at_once_where_it_must_not_run(
    broker: Broker,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Broker], Awaitable[None]],
    window: float,
) -> None:
    monkeypatch.setattr("runtime.batch_starts.HELD_S", 60)
    monkeypatch.setattr("runtime.sources.queue.HELD_S", 60)
    crowd = Crowd(broker, batch_size=3, batch_window=window)
    async with crowded(crowd, serve, monkeypatch, 2):
        if window:
            await asyncio.sleep(0.3)  # so that the window is over, and waits for room
        await change(broker)
        await crowd.all_visible(2)
        crowd.gate.set()
        await asyncio.sleep(0.1)
        assert crowd.ran == []


async def test_a_window_that_waits_for_a_permit_goes_back_at_a_pause(broker: Broker, serve: Serve) -> None:
    crowd = Crowd(broker, batch_size=3, batch_window=0.1, concurrency=1)
    await broker.queue("orders").create()
    async with serve(crowd.elsewhere) as worker:
        await broker.queue("orders").send_many(range(2))

        async def parked() -> bool:
            return (await counts(broker)).in_flight == 2

        await eventually(parked, what="the window is open")
        resource = broker.core.resource("function", "orders")
        grant = await broker.core.permits.take_of_function(resource, ["another worker's"], permit_ms=60_000)
        assert grant.granted == 1
        await asyncio.sleep(0.3)
        assert worker.running_calls == 0
        await pauses(broker)
        await crowd.all_visible(2)
        await broker.core.permits.release_of_function(resource, ["another worker's"])
        await broker.function("orders").resume()
        await crowd.all_gone()


async def test_what_others_have_by_now_does_not_start(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(broker, batch_size=3)
    monkeypatch.setattr("runtime.batch_starts.HELD_S", 60)
    async with crowded(crowd, serve, monkeypatch, 3) as worker:
        source = next(source for source in worker._sources if source.resource.kind == "queue")
        starts = source._starts  # type: ignore[union-attr]
        await eventually(lambda: len(starts) == 1, what="it waits")
        await broker.queue("orders").purge()
        members = sorted(worker._engine.keeper.holding(source.resource))
        worker._lost(source.resource, members[:2])
        assert len(starts) == 1
        worker._lost(source.resource, members[2:])
        assert len(starts) == 0
        crowd.gate.set()
        await asyncio.sleep(0.1)
        assert crowd.ran == []


async def test_what_others_have_by_now_does_not_start_when_there_is_a_permit(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(broker, batch_size=1, concurrency=1, filters=[{"body": {"wanted": [True]}}])
    real, claims, function = MessageStore.claim, 0, broker.core.resource("function", "orders")

    async def claim(self: MessageStore, resource: Any, *what: Any, **more: Any) -> Claim:
        nonlocal claims
        found = await real(self, resource, *what, **more)
        if found.messages:
            claims += 1
            if claims == 2:  # it has no permit since the first brought nothing that it wants
                taken = await broker.core.permits.take_of_function(function, ["another worker's"], permit_ms=60_000)
                assert taken.granted == 1
        return found

    monkeypatch.setattr(MessageStore, "claim", claim)
    queue = broker.queue("orders")
    await queue.create()
    await queue.send_many([{"wanted": False}, {"wanted": True}])
    async with serve(crowd.elsewhere) as worker:
        await eventually(lambda: claims == 2, what="it waits for a permit")
        source = next(source for source in worker._sources if source.resource.kind == "queue")
        await eventually(lambda: len(worker._engine.keeper.holding(source.resource)) == 1)
        await queue.purge()
        worker._lost(source.resource, sorted(worker._engine.keeper.holding(source.resource)))
        await broker.core.permits.release_of_function(function, ["another worker's"])
        await asyncio.sleep(0.2)
        assert crowd.ran == []
        await queue.send({"wanted": True})
        await crowd.all_gone()
        assert crowd.ran == ["elsewhere"]
