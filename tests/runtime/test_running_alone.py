"""The worker that runs what was set apart: one event at a time, the next claim goes out with the last settle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Broker
from broker.errors import StoreUnavailable
from broker.functions import register_function
from broker.ids import message_id
from broker.names import Resource
from broker.records import FunctionSettings
from broker.store.directory import DirectoryStore
from broker.store.messages import MessageStore
from broker.store.pipe import _Line
from broker.store.values import Claim, Settlement
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

    def __init__(self, broker: Broker, **settings: Any) -> None:
        self.app = App()
        self.in_flight: list[int] = []
        self.ran: list[Any] = []
        self._broker = broker
        self.app.function(timeout=30, **settings)(self.look)

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


async def test_nothing_runs_while_the_cause_is_looked_up_for_one_that_is_quarantined(
    broker: Broker, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one, if it ends the process, is the cause of death that the first one's record tells."""
    seen, look_up = Seen(broker, max_crashes=1), DirectoryStore.end_of

    async def slow(directory: DirectoryStore, process: str) -> str | None:
        await asyncio.sleep(0.2)
        return await look_up(directory, process)

    await register_function(broker.core, "look", FunctionSettings(timeout_s=30, max_crashes=1))
    poison, *_ = await broker.invoke_many("look", range(2))
    resource = broker.core.resource("function", "look")
    await set_apart(broker, clock, resource, 2)
    claim = await broker.core.messages.claim(resource, token="sdeadbeef00003", lease_ms=1_000, room=1, mode="alone")
    assert [message_id(item.entry, claim.nonce) for item in claim.messages] == [poison]
    await clock.advance(2)
    monkeypatch.setattr(DirectoryStore, "end_of", slow)
    async with serve(seen.app, alone=True):
        await eventually(lambda: len(seen.ran) == 1, what="the other one has run")
        assert (await broker.status(poison)).state == "failed"
    assert (seen.ran, seen.in_flight) == ([1], [1])


async def test_nothing_runs_while_one_is_given_back_whose_claim_was_answered_too_late(
    broker: Broker, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, claim, give_back = Seen(broker), MessageStore.claim, MessageStore.release_claim
    claims, claimed_again = list[int](), asyncio.Event()

    async def lossy(*args: Any, **options: Any) -> Claim:
        answer = await claim(*args, **options)
        if options["mode"] == "alone" and answer.messages:
            claims.append(len(answer.messages))
            if len(claims) == 1:
                raise StoreUnavailable("the reply was lost")
            claimed_again.set()
        return answer

    async def slow(*args: Any, **options: Any) -> int:
        await claimed_again.wait()
        await asyncio.sleep(0.2)
        return await give_back(*args, **options)

    await register_function(broker.core, "look", FunctionSettings(timeout_s=30))
    await broker.invoke_many("look", range(2))
    await set_apart(broker, clock, broker.core.resource("function", "look"), 2)
    monkeypatch.setattr(MessageStore, "claim", lossy)
    monkeypatch.setattr(MessageStore, "release_claim", slow)
    async with serve(seen.app, alone=True):
        await eventually(lambda: len(seen.ran) == 1, what="the other one has run")
    assert (seen.ran, seen.in_flight) == ([1], [1])


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
