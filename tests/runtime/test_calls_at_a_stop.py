"""Synchronous calls and a worker that stops: what had reached its inbox is refused, what ran is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Broker
from broker.errors import StoreUnavailable
from broker.store.permits import CallStatus
from runtime import App, Context, Worker
from tests.runtime.scene import Serve, eventually, socket_of

CALL_S = 30.0


def app_of(name: str, ran: list[str]) -> App:
    app = App()

    @app.function(timeout=30)
    async def who(event: Any, context: Context) -> str:
        ran.append(name)
        return name

    return app


async def left(broker: Broker, worker: Worker) -> bool:
    return worker.process not in await broker.core.directory.live_workers()


@pytest.mark.parametrize("event", ["x", "x" * 200_000], ids=["inline", "as a parcel"])
async def test_a_call_that_a_stopping_worker_has_not_read_is_handed_to_another_one(
    broker: Broker, serve: Serve, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    handed, hand_over = asyncio.Event(), broker.core.permits.call

    async def noted(*args: Any, **options: Any) -> CallStatus:
        status = await hand_over(*args, **options)
        if status == "sent":
            handed.set()
        return status

    monkeypatch.setattr(broker.core.permits, "call", noted)
    async with serve(app_of("first", ran)) as first:
        socket = socket_of(first._engine.core, first.process)
        socket.pause_reading()
        call = asyncio.create_task(broker.call("who", event, timeout=CALL_S))
        await asyncio.wait_for(handed.wait(), 10)
        async with serve(app_of("second", ran)):
            first.stop()
            await eventually(lambda: left(broker, first), what="it stops")
            await asyncio.sleep(0.3)  # it has nothing to do, and has not heard of the call
            if not socket.is_closing():
                socket.resume_reading()
            assert await call == "second"
    assert ran == ["second"]


async def test_a_large_call_whose_payload_comes_while_the_worker_stops_is_handed_to_another_one(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    asked, let_go = asyncio.Event(), asyncio.Event()
    async with serve(app_of("first", ran)) as first:
        parcels = first._engine.core.parcels
        take = parcels.take

        async def slow(name: str) -> bytes | None:
            asked.set()
            await let_go.wait()
            return await take(name)

        monkeypatch.setattr(parcels, "take", slow)
        call = asyncio.create_task(broker.call("who", "x" * 200_000, timeout=CALL_S))
        await asyncio.wait_for(asked.wait(), 10)
        async with serve(app_of("second", ran)):
            first.stop()
            await eventually(lambda: left(broker, first), what="it stops")
            let_go.set()
            assert await call == "second"
    assert ran == ["second"]


async def test_an_answer_that_nobody_hears_yet_has_the_rest_of_the_grace_period(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    worker = Worker(app_of("only", ran), broker.core.address.url, settings=broker.core.settings, grace=20)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    parcels = worker._engine.core.parcels
    tell, deaf_until = parcels.tell, asyncio.get_running_loop().time() + 2.5  # longer than a core waits at its end

    async def unheard(process: str, notice: bytes) -> int:
        return await tell(process, notice) if asyncio.get_running_loop().time() > deaf_until else 0

    monkeypatch.setattr(parcels, "tell", unheard)
    call = asyncio.create_task(broker.call("who", 1, timeout=CALL_S))
    await eventually(lambda: ran, what="it has run")
    worker.stop()
    assert await call == "only"
    await asyncio.wait_for(running, 20)


async def test_a_large_answer_waits_for_redis_as_a_small_one_does(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, failures = App(), [StoreUnavailable("away"), StoreUnavailable("away")]

    @app.function(timeout=30)
    async def large(event: int, context: Context) -> str:
        return "x" * event

    async with serve(app) as worker:
        put = worker._engine.core.parcels.put

        async def sometimes(*args: Any, **options: Any) -> None:
            if failures:
                raise failures.pop()
            await put(*args, **options)

        monkeypatch.setattr(worker._engine.core.parcels, "put", sometimes)
        assert await broker.call("large", 200_000, timeout=10) == "x" * 200_000
    assert not failures
