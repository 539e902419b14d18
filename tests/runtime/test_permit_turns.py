"""Who shares the permits of a function in one process takes turns, whatever the others have queued."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.functions import change_function
from runtime import App, Context
from tests.runtime.scene import Serve, eventually


class Shared:
    """A function with a limit, that has events of its own and a mapped queue."""

    def __init__(self, *, window: float = 0) -> None:
        self.app, self.ran = App(), list[str]()

        @self.app.queue("orders", concurrency=1, batch_size=1 if not window else 2, batch_window=window)
        async def job(event: Any, context: Context) -> None:
            self.ran.append("batch" if "Records" in event else "event")
            await asyncio.sleep(0.001)

    async def meanwhile(self, what: str, bring: Awaitable[object]) -> int:
        """How much else runs before one of these that is brought now."""
        before = len(self.ran)
        await bring
        await eventually(lambda: what in self.ran[before:], timeout_s=30, what=f"its turn of the {what}")
        return self.ran.index(what, before) - before


@pytest.mark.parametrize("window", [0, 0.1])
async def test_a_mapped_queue_has_its_turn_beside_much_that_is_queued_for_the_function(
    broker: Broker, serve: Serve, window: float
) -> None:
    shared = Shared(window=window)
    async with serve(shared.app):
        await broker.invoke_many("job", [{}] * 20_000)
        await eventually(lambda: len(shared.ran) > 50)
        for _ in range(5):
            assert await shared.meanwhile("batch", broker.queue("orders").send("x")) < 500
        await broker.function("job").purge()


async def test_an_event_has_its_turn_beside_much_in_a_mapped_queue(broker: Broker, serve: Serve) -> None:
    shared = Shared()
    async with serve(shared.app):
        await broker.queue("orders").send_many(["x"] * 10_000)
        await eventually(lambda: len(shared.ran) > 50)
        for _ in range(5):
            assert await shared.meanwhile("event", broker.invoke("job", {})) < 500
        await broker.queue("orders").purge()


@pytest.mark.parametrize("what", ["batch", "batch after its window", "event"])
async def test_who_waits_for_a_permit_hears_of_a_raised_limit(broker: Broker, serve: Serve, what: str) -> None:
    shared = Shared(window=0.1 if "window" in what else 0)
    async with serve(shared.app):
        resource = broker.core.resource("function", "job")

        async def taken() -> bool:
            grant = await broker.core.permits.take_of_function(resource, ["another worker's"], permit_ms=60_000)
            return grant.granted == 1

        await eventually(taken, what="the only permit is taken")
        await (broker.invoke("job", {}) if what == "event" else broker.queue("orders").send("x"))
        await asyncio.sleep(0.5)
        assert shared.ran == []
        await change_function(broker.core, resource, lambda old: msgspec.structs.replace(old, concurrency=3))
        await eventually(lambda: shared.ran == [what.partition(" ")[0]])


async def test_who_waits_behind_another_for_a_permit_leaves_the_room_to_others(broker: Broker, serve: Serve) -> None:
    shared, gate, ran = Shared(), asyncio.Event(), list[int]()

    @shared.app.function()
    async def blocker(event: Any, context: Context) -> None:
        await gate.wait()

    @shared.app.function()
    async def other(event: int, context: Context) -> None:
        ran.append(event)

    async with serve(shared.app, max_calls=1) as worker:
        resource = broker.core.resource("function", "job")

        async def taken() -> bool:
            grant = await broker.core.permits.take_of_function(resource, ["another worker's"], permit_ms=60_000)
            return grant.granted == 1

        await eventually(taken, what="the only permit is taken")
        await broker.invoke("blocker", {})
        await eventually(lambda: worker.running_calls == 1)
        await broker.invoke("job", {})
        await broker.queue("orders").send("x")
        await asyncio.sleep(0.3)  # so that both have found no room
        gate.set()
        await eventually(lambda: not worker.running_calls)
        await asyncio.sleep(0.1)
        await broker.invoke_many("other", range(20))
        await eventually(lambda: sorted(ran) == list(range(20)))
        await broker.core.permits.release_of_function(resource, ["another worker's"])
        await eventually(lambda: sorted(shared.ran) == ["batch", "event"])
