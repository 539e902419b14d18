"""Synchronous calls whose notices and answers are lost, or come twice, on their way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import pytest

from broker import Broker, FunctionError, calls
from broker.errors import CallThrottled, StoreUnavailable
from runtime.telling import KeptAnswers
from tests.runtime.scene import Serve, Shop, eventually, socket_of
from tests.store.audit import names_under

CALL_S: Final = 60.0
Called: TypeAlias = Callable[..., Coroutine[Any, Any, object]]


async def in_one(broker: Broker, event: object) -> object:
    """The chunks of a streamed call, put together."""
    async with broker.call_stream("job", event, timeout=CALL_S) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def at_once(broker: Broker, event: object) -> object:
    return await broker.call("job", event, timeout=CALL_S)


async def no_parcels(broker: Broker) -> bool:
    return not any(b"parcel" in name for name in await names_under(broker.core, broker.core.keys.prefix))


@pytest.mark.parametrize("called", [at_once, in_one])
async def test_a_refusal_that_is_heard_twice_takes_the_call_from_nobody_else(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called
) -> None:
    full, other = Shop(), Shop()
    async with serve(full.app, max_calls=1) as refusing, serve(other.app):
        monkeypatch.setattr(random, "choice", lambda found: min(found, key=lambda one: one.process != refusing.process))
        occupying = asyncio.create_task(at_once(broker, 0))
        await eventually(lambda: full.gauge.now, what="the first one is full")
        parcels, refusals = refusing._engine.core.parcels, list[tuple[str, bytes]]()
        tell = parcels.tell

        async def noted(process: str, notice: bytes) -> int:
            refusals.append((process, notice))
            return await tell(process, notice)

        with monkeypatch.context() as patched:
            patched.setattr(parcels, "tell", noted)
            call = asyncio.create_task(called(broker, 1))
            await eventually(lambda: other.gauge.now, what="the other one runs it")
        assert await tell(*refusals[0])
        full.gate.set()
        await occupying  # its answer came behind that
        other.gate.set()
        assert await call == (b"1" if called is in_one else 1)
    assert (full.gauge.total, other.gauge.total) == (1, 1)


@pytest.mark.parametrize("event", ["x", "x" * 200_000], ids=["inline", "as a parcel"])
@pytest.mark.parametrize("asking_s", [30.0, 0.0], ids=["of a young call", "of an old call"])
@pytest.mark.parametrize("called", [at_once, in_one])
async def test_an_answer_into_a_connection_that_was_dead_already_is_sent_again(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called, event: str, asking_s: float
) -> None:
    monkeypatch.setattr(calls, "_ASKING_S", asking_s)
    shop = Shop()
    async with serve(shop.app) as worker:
        call = asyncio.create_task(called(broker, event))
        await eventually(lambda: shop.gauge.now, what="it runs")
        dead = socket_of(broker.core, broker.caller._inbox.process)
        dead.pause_reading()  # and Redis goes on counting it
        shop.gate.set()
        await eventually(lambda: worker._engine.calls_ended, what="it has run")
        await asyncio.sleep(0.2)  # it has nothing to do but to tell of that
        assert not call.done()
        dead.abort()
        answer = await call
    assert answer == (f'"{event}"'.encode() if called is in_one else event)
    assert shop.gauge.total == 1


@pytest.mark.parametrize("called", [at_once, in_one])
async def test_a_call_whose_payload_cannot_be_fetched_is_refused_also_where_its_permit_cannot_be_given_back(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    shop = Shop()
    async with serve(shop.app) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(worker._engine.core.parcels, "take", away)
            patched.setattr(worker._engine.core.permits, "release_of_function", away)
            with pytest.raises(CallThrottled, match="the payload could not be read: StoreUnavailable"):
                await called(broker, "x" * 200_000)
    assert not shop.gauge.total


@pytest.mark.parametrize("called", [at_once, in_one])
async def test_a_large_answer_whose_fetching_is_lost_is_fetched_again(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called
) -> None:
    shop, large = Shop(), "x" * 200_000
    shop.gate.set()
    fetch, lost = broker.core.runner.fetch, list[object]()

    async def losing(*command: str | bytes | int) -> Any:
        reply = await fetch(*command)
        if not lost and isinstance(reply, bytes) and len(reply) > len(large):
            lost.append(command)
            raise StoreUnavailable("the reply is lost")
        return reply

    monkeypatch.setattr(broker.core.runner, "fetch", losing)
    async with serve(shop.app):
        answer = await called(broker, large)
        assert answer == (f'"{large}"'.encode() if called is in_one else large)
        assert lost
        await eventually(lambda: no_parcels(broker), what="it is not left in Redis")
    assert shop.gauge.total == 1


@pytest.mark.parametrize("called", [at_once, in_one])
async def test_a_large_payload_that_nobody_takes_is_not_left_in_redis(
    broker: Broker, serve: Serve, called: Called
) -> None:
    shop = Shop(concurrency=0)
    async with serve(shop.app):
        with pytest.raises(CallThrottled):
            await called(broker, "x" * 200_000)
        await eventually(lambda: no_parcels(broker), what="it is deleted")


@pytest.mark.parametrize("called", [at_once, in_one])
async def test_a_worker_that_is_gone_is_told_of_also_where_its_cause_cannot_be_read(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called
) -> None:
    async def nobody(*_: object) -> int:
        return 0

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    shop = Shop()
    async with serve(shop.app):
        call = asyncio.create_task(called(broker, 1))
        await eventually(lambda: shop.gauge.now, what="it runs")
        with monkeypatch.context() as patched:
            patched.setattr(broker.core.parcels, "tell", nobody)
            patched.setattr(broker.core.parcels, "listening", nobody)
            patched.setattr(broker.core.directory, "end_of", away)
            with pytest.raises(FunctionError, match="Runtime exited without providing a reason"):
                await call


def test_answers_are_kept_in_so_many_bytes_those_asked_for_the_longest() -> None:
    kept = KeptAnswers(10_000)
    for number in range(100):
        kept.keep(str(number), "caller", bytes(600))
        assert kept.again("0") == ("caller", bytes(600))
    assert [number for number in range(100) if kept.again(str(number))] == [0, *range(91, 100)]
