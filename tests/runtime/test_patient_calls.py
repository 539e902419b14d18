"""Synchronous calls that wait for their turn in a full worker: each is told how it ended, soon, and by whom it runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
import pytest

from broker import Broker, CallThrottled, handed_calls, workers
from broker.call_notices import CallNotice, CallReply
from broker.exposition import exposition, families
from broker.figures import Figures
from runtime import Worker
from runtime.metrics import WORKER
from runtime.sources import calls
from runtime.sources.calls import CallSource
from tests.gateway.scraping import Scraped
from tests.runtime.scene import Serve, Shop, eventually

CALL_S: Final = 60.0
Called: TypeAlias = Callable[..., Coroutine[Any, Any, object]]
LARGE: Final = "x" * 200_000


async def at_once(broker: Broker, event: object, *, timeout_s: float = CALL_S) -> object:
    return await broker.call("job", event, timeout=timeout_s)


async def in_one(broker: Broker, event: object, *, timeout_s: float = CALL_S) -> object:
    """The chunks of a streamed call, put together."""
    async with broker.call_stream("job", event, timeout=timeout_s) as chunks:
        return msgspec.json.decode(b"".join([chunk async for chunk in chunks]))


either = pytest.mark.parametrize("called", [at_once, in_one])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for its turn does so for long."""
    monkeypatch.setattr(handed_calls, "_PATIENCE_S", CALL_S)


def prefer(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    """Callers ask this one first."""
    monkeypatch.setattr(random, "choice", lambda found: min(found, key=lambda one: one.process != worker.process))


async def fill(broker: Broker, shop: Shop) -> asyncio.Task[object]:
    """A call that takes all room of a worker."""
    call = asyncio.create_task(at_once(broker, "fills it"))
    await eventually(lambda: shop.gauge.now, what="it is full")
    return call


async def waits_in(worker: Worker) -> None:
    await eventually(lambda: worker._engine.room._line, what="it waits for its turn")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("event", ["x", LARGE], ids=["inline", "as a parcel"])
@either
async def test_a_call_that_waits_in_a_worker_that_stops_is_handed_on_at_once(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called, event: str
) -> None:
    stopping, other = Shop(), Shop()
    async with serve(stopping.app, max_calls=1) as first:
        filling = [await fill(broker, stopping)]
        async with serve(other.app, max_calls=1) as second:
            prefer(monkeypatch, second)
            filling.append(await fill(broker, other))
            prefer(monkeypatch, first)
            call = asyncio.create_task(called(broker, event))
            await waits_in(first)
            first.stop()
            await waits_in(second)
            other.gate.set()
            assert await call == event
            stopping.gate.set()
            await asyncio.gather(*filling)
    assert (stopping.gauge.total, other.gauge.total) == (1, 2)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("event", ["x", LARGE], ids=["inline", "as a parcel"])
@either
async def test_a_caller_that_goes_while_its_call_waits_leaves_permit_and_place(
    broker: Broker, serve: Serve, called: Called, event: str
) -> None:
    shop = Shop(concurrency=2)

    async def permits() -> int:
        return (await broker.function("job").counts()).running

    async def only_one() -> bool:
        return await permits() == 1

    async with serve(shop.app, max_calls=1) as worker:
        filling = await fill(broker, shop)
        call = asyncio.create_task(called(broker, event))
        await waits_in(worker)
        assert await permits() == 2
        call.cancel()
        await eventually(only_one, what="its permit is given back")
        assert not worker._engine.room._line
        shop.gate.set()
        await filling
    assert shop.gauge.total == 1


@either
@pytest.mark.usefixtures("patient")
async def test_a_call_waits_no_longer_than_leaves_its_caller_time(broker: Broker, serve: Serve, called: Called) -> None:
    shop = Shop()
    async with serve(shop.app, max_calls=1):
        filling = await fill(broker, shop)
        with pytest.raises(CallThrottled, match="no worker takes it now"):
            await called(broker, "x", timeout_s=4.0)
        shop.gate.set()
        await filling
    assert shop.gauge.total == 1


async def test_a_call_that_waits_in_vain_is_counted_once(broker: Broker, serve: Serve) -> None:
    shop, figures = Shop(), Figures(WORKER)
    async with serve(shop.app, max_calls=1, figures=figures):
        filling = await fill(broker, shop)
        with pytest.raises(CallThrottled):
            await at_once(broker, "x")
        shop.gate.set()
        await filling
    found = Scraped(exposition(families(figures, {}))[1].decode())
    assert found.one("penstock_worker_throttles_total", function="job", reason="room") == 1


@pytest.mark.parametrize("says", [(), ("worker",)], ids=["without a name", "with its name"])
@either
async def test_a_worker_of_an_older_build_is_not_waited_for(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called, says: tuple[str, ...]
) -> None:
    newer = ("worker", "waited", "may_wait")

    def replied(**values: Any) -> CallReply:
        return CallReply(**{name: value for name, value in values.items() if name not in newer or name in says})

    heard = CallSource.on_notice

    def on_notice(source: CallSource, data: bytes | None) -> None:
        if data is not None:  # it does not know what patience is
            notice = msgspec.msgpack.decode(data, type=CallNotice)
            data = msgspec.msgpack.encode(msgspec.structs.replace(notice, patience_ms=0))
        heard(source, data)

    shop = Shop()
    with monkeypatch.context() as patched:
        patched.setattr(calls, "CallReply", replied)
        patched.setattr(CallSource, "on_notice", on_notice)
        async with serve(shop.app, max_calls=1):
            filling = await fill(broker, shop)
            async with asyncio.timeout(CALL_S / 2):
                with pytest.raises(CallThrottled, match="no room, or stopping"):
                    await called(broker, "x")
            shop.gate.set()
            await filling
    assert shop.gauge.total == 1


@either
async def test_a_call_that_only_a_stopping_worker_could_have_run_is_throttled(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, called: Called
) -> None:
    monkeypatch.setattr(workers, "_CACHE_S", CALL_S)  # the caller does not know yet
    shop = Shop()
    async with serve(shop.app) as worker:
        filling = await fill(broker, shop)
        worker.stop()
        await eventually(partial(left, broker, worker), what="it stops")
        with pytest.raises(CallThrottled, match="no room, or stopping"):
            await called(broker, "x")
        shop.gate.set()
        await filling
    assert shop.gauge.total == 1


async def left(broker: Broker, worker: Worker) -> bool:
    return worker.process not in await broker.core.directory.live_workers()
