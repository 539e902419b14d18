"""The worker that runs what was set apart: one event at a time, the next claim goes out with the last settle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Broker
from broker.functions import register_function
from broker.names import Resource
from broker.records import FunctionSettings
from broker.store.messages import MessageStore
from broker.store.pipe import _Line
from broker.store.values import Settlement
from runtime import App, Context
from tests.conftest import Clock
from tests.runtime.scene import Serve, eventually

FEW = 20
EVENTS = 200


async def set_apart(broker: Broker, clock: Clock, resource: Resource, count: int) -> None:
    """What a worker that died over so many events has left."""
    claim = await broker.core.messages.claim(resource, token="wdeadbeef00001", lease_ms=1_000, room=count, mode="work")
    assert len(claim.messages) == count
    await clock.advance(2)

    async def all_apart() -> bool:
        again = await broker.core.messages.claim(resource, token="wdeadbeef00002", lease_ms=1_000, room=1, mode="work")
        return again.suspects == count

    await eventually(all_apart, what="they are set apart")


class Seen:
    """What the events of a function have seen of one another."""

    def __init__(self, broker: Broker) -> None:
        self.app = App()
        self.in_flight: list[int] = []
        self.ran: list[Any] = []
        self._broker = broker
        self.app.function(timeout=30)(self.look)

    async def look(self, event: Any, context: Context) -> None:
        self.in_flight.append((await self._broker.function("look").counts()).in_flight)
        self.ran.append(event)


@pytest.mark.parametrize("settle_s", [0, 0.02])
async def test_no_other_event_is_leased_while_one_runs(
    broker: Broker, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch, settle_s: float
) -> None:
    seen, finish = Seen(broker), MessageStore.finish

    async def slow(*args: Any, **options: Any) -> Settlement:
        await asyncio.sleep(settle_s)
        return await finish(*args, **options)

    monkeypatch.setattr(MessageStore, "finish", slow)
    await register_function(broker.core, "look", FunctionSettings(timeout_s=30))
    await broker.invoke_many("look", range(FEW))
    await set_apart(broker, clock, broker.core.resource("function", "look"), FEW)
    async with serve(seen.app, alone=True):
        await eventually(lambda: len(seen.ran) == FEW, what="all have run")
    assert seen.in_flight == [1] * FEW


async def test_an_event_costs_one_round_trip(
    broker: Broker, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, ran = App(), list[int]()
    writes, flush = list[int](), _Line._flush

    def counted(line: _Line) -> None:
        writes.append(len(ran))
        flush(line)

    @app.function(timeout=30)
    async def job(event: Any, context: Context) -> None:
        ran.append(event)

    await register_function(broker.core, "job", FunctionSettings(timeout_s=30))
    await broker.invoke_many("job", range(EVENTS))
    await set_apart(broker, clock, broker.core.resource("function", "job"), EVENTS)
    monkeypatch.setattr(_Line, "_flush", counted)
    async with serve(app, alone=True):
        await eventually(lambda: len(ran) == EVENTS, what="all have run")
    assert len(set(ran)) == EVENTS
    between = [after for after in writes if 0 < after < EVENTS]
    assert len(between) < 1.5 * EVENTS, "the claim goes out with the settle of the one before"
