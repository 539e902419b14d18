"""One worker process: draining in two stages, losing Redis, losing leases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import MutableMapping
from typing import Any

import pytest

from broker import Broker, Queue
from broker.errors import CallError, StoreUnavailable
from broker.records import Facts
from broker.settings import Settings
from broker.store.directory import DirectoryStore
from broker.store.values import member_of
from runtime import App, Context, Worker
from tests.conftest import Clock
from tests.runtime.scene import Gauge, Serve, Shop, empty, eventually, lines, prefetched, received, serving

LEASE_MS = 600


async def facts(broker: Broker, name: str = "job") -> list[Facts]:
    return [item.facts for item in await broker.core.messages.peek(broker.core.resource("function", name), 100)]


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_stop_waits_for_running_calls_and_claims_nothing_new(broker: Broker, serve: Serve) -> None:
    shop = Shop(on_success=Queue("done"))
    worker = Worker(shop.app, broker.core.address.url, settings=broker.core.settings, max_calls=2)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await broker.invoke_many("job", range(4))
    await eventually(lambda: shop.gauge.now == 2, what="two run")
    worker.stop()

    async def left() -> bool:
        return not await broker.core.directory.live_workers()

    await eventually(left, what="it has left the registry")
    await broker.invoke("job", "late")
    with pytest.raises(CallError):
        await broker.call("job", 1, timeout=5)
    shop.gate.set()
    await asyncio.wait_for(running, 10)
    assert len(shop.done) == 2
    assert not shop.cancelled
    counts = await broker.function("job").counts()
    assert (counts.visible, counts.in_flight) == (3, 0)
    assert len(await received(broker, "done", 2)) == 2, "what ended in the grace period is settled and delivered"


async def test_what_was_prefetched_is_back_at_once_while_running_calls_have_their_grace(
    broker: Broker, serve: Serve
) -> None:
    async with prefetched(broker, serve) as ahead:
        ahead.worker.stop()
        await ahead.given_back()
        ahead.gate.set()
    counts = await broker.function("job").counts()
    assert (counts.visible, counts.in_flight) == (ahead.AHEAD, 0)


@pytest.mark.parametrize("stops", [1, 2], ids=["after the grace period", "at the second stop"])
async def test_what_cannot_finish_is_cancelled_and_handed_back_without_a_try(
    broker: Broker, serve: Serve, stops: int, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop(concurrency=5)
    worker = Worker(shop.app, broker.core.address.url, settings=broker.core.settings, grace=0.1 if stops == 1 else 600)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await broker.invoke_many("job", range(3))
    await eventually(lambda: shop.gauge.now == 3, what="all run")
    for _ in range(stops):
        worker.stop()
    await asyncio.wait_for(running, 5)
    assert sorted(shop.cancelled) == [0, 1, 2]
    counts = await broker.function("job").counts()
    assert (counts.visible, counts.in_flight, counts.running) == (3, 0, 0)
    assert {(fact.tries, fact.crashes) for fact in await facts(broker)} == {(0, 0)}
    assert lines(logs, "worker_stopped")[0]["handed_back"] == 3


async def test_a_worker_whose_task_is_cancelled_hands_everything_back(broker: Broker, serve: Serve) -> None:
    shop = Shop()
    worker = Worker(shop.app, broker.core.address.url, settings=broker.core.settings)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await broker.invoke_many("job", range(3))
    await eventually(lambda: shop.gauge.now == 3, what="all run")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    counts = await broker.function("job").counts()
    assert (counts.visible, counts.in_flight) == (3, 0)
    assert {(fact.tries, fact.crashes) for fact in await facts(broker)} == {(0, 0)}


async def test_a_plain_function_that_does_not_return_is_handed_back_and_does_not_hold_the_stop(
    broker: Broker, serve: Serve
) -> None:
    app, released, started = App(), threading.Event(), threading.Event()

    @app.function(timeout=60)
    def job(event: Any, context: Context) -> None:
        started.set()
        released.wait(30)

    try:
        async with serve(app, threads=8):
            await broker.invoke("job", 1)
            await eventually(started.is_set, what="it runs")
        counts = await broker.function("job").counts()
        assert (counts.visible, counts.in_flight) == (1, 0)
    finally:
        released.set()


async def test_a_worker_with_too_many_calls_that_do_not_stop_drains(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app, released = App(), threading.Event()

    @app.function(timeout=0.05, retries=0)
    def job(event: Any, context: Context) -> None:
        released.wait(30)

    try:
        worker = Worker(app, broker.core.address.url, settings=broker.core.settings, threads=2)
        running = asyncio.create_task(worker.run())
        await worker.ready.wait()
        await broker.invoke("job", 1)
        await eventually(lambda: bool(lines(logs, "handler_does_not_stop")))
        assert not worker.exhausted  # one of two may happen
        await broker.invoke("job", 2)
        await asyncio.wait_for(running, 10)
        assert lines(logs, "worker_exhausted")
    finally:
        released.set()


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_leases_are_renewed_for_as_long_as_a_call_runs(
    broker: Broker, redis_url: str, settings: Settings
) -> None:
    shop = Shop(concurrency=1)
    short = Settings(prefix=settings.prefix, test_clock=True, lease_ms=LEASE_MS)
    async with serving(shop.app, redis_url, short), serving(shop.app, redis_url, short):
        await broker.invoke("job", 1)
        await eventually(lambda: shop.gauge.total, what="it runs")
        await asyncio.sleep(2.5 * LEASE_MS / 1000)
        counts = await broker.function("job").counts()
        assert (counts.in_flight, counts.running) == (1, 1)
        shop.gate.set()
        await empty(broker, "job")
    assert shop.gauge.total == 1


async def take_over(broker: Broker, worker: Worker, clock: Clock) -> str:
    """The lease of the one running event ends, and somebody else gets it. Answers the new member."""
    resource = broker.core.resource("function", "job")
    await clock.advance(broker.core.settings.lease_ms / 1000 + 1)
    token = "rsomebodyelse1"
    keep = {"lease_ms": 60_000, "room": 1}
    claim = await broker.core.messages.claim(resource, token=token, mode="receive", **keep)  # type: ignore[arg-type]
    (claimed,) = claim.messages
    return member_of(claimed.entry, token)


async def test_a_call_whose_lease_is_lost_is_ended_and_cannot_settle(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop(on_success=Queue("done"))
    async with serve(shop.app, housekeeping_every=600) as worker:
        await broker.invoke("job", 1)
        await eventually(lambda: shop.gauge.now, what="it runs")
        member = await take_over(broker, worker, clock)
        assert await worker._engine.keeper.renew_now(broker.core.resource("function", "job"))
        await eventually(lambda: shop.cancelled, what="the call is ended")
        await worker._engine.settled()
        assert lines(logs, "leases_lost")[0]["count"] == 1
        resource = broker.core.resource("function", "job")
        assert (await broker.core.messages.finish(resource, [member], counter="done")).settled == 1
    assert (await broker.queue("done").counts()).total == 0


async def test_a_late_settle_is_refused(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop(on_success=Queue("done"))
    async with serve(shop.app) as worker:
        await broker.invoke("job", 1)
        await eventually(lambda: shop.gauge.now, what="it runs")
        member = await take_over(broker, worker, clock)
        shop.gate.set()
        await eventually(lambda: shop.done, what="it ends, before it hears that its lease is lost")
        await worker._engine.settled()
        assert lines(logs, "lease_lost")[0]["fenced"] == 1
        resource = broker.core.resource("function", "job")
        assert await broker.core.messages.extend(resource, [member], lease_ms=1_000) == [], "the new lease holds"
    assert (await broker.queue("done").counts()).total == 0


async def test_a_prefetched_event_whose_lease_is_lost_does_not_run(broker: Broker, serve: Serve) -> None:
    app, gate, gauge, seen = App(), asyncio.Event(), Gauge(), []

    @app.function(timeout=30)
    async def job(event: Any, context: Context) -> None:
        async with gauge:
            seen.append(event)
            if event == "wait":
                await gate.wait()

    async with serve(app, max_calls=1) as worker:
        await broker.invoke_many("job", range(2_000))
        await eventually(lambda: gauge.total == 2_000, what="warmed up")
        await broker.invoke_many("job", ["wait", "lost", "kept"])
        source: Any = worker._sources[0]
        await eventually(lambda: len(source._prefetched) == 2, what="both are prefetched")
        resource = broker.core.resource("function", "job")
        lost = source._prefetched[0].member
        await broker.core.messages.finish(resource, [lost], counter="done")
        worker._lost(resource, [lost])
        gate.set()
        await empty(broker, "job")
    assert seen[2_000:] == ["wait", "kept"]


async def test_a_batch_goes_on_while_some_of_its_messages_are_still_its_own(broker: Broker, serve: Serve) -> None:
    app, gate, ended = App(), asyncio.Event(), []

    @app.queue("orders", timeout=30)
    async def handle(event: Any, context: Context) -> None:
        try:
            await gate.wait()
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with serve(app) as worker:
        await broker.queue("orders").send_many([1, 2])
        await eventually(lambda: worker._engine.invoker.running, what="it runs")
        resource = broker.core.resource("queue", "orders")
        (call,) = worker._engine.invoker.running
        first, second = call.work.members
        worker._lost(resource, [first])
        await asyncio.sleep(0.01)
        assert not ended
        worker._lost(resource, [second])
        await eventually(lambda: ended, what="nothing is its own any more")
        gate.set()
        assert ended == ["cancelled"]


async def test_a_window_sends_only_what_is_still_its_own(broker: Broker, serve: Serve) -> None:
    app, bodies = App(), []

    @app.queue("orders", batch_size=3, batch_window=60)
    async def handle(event: Any, context: Context) -> None:
        bodies.append([record["body"] for record in event["Records"]])

    async with serve(app) as worker:
        await broker.queue("orders").send_many([1, 2])
        resource = broker.core.resource("queue", "orders")
        keeper = worker._engine.keeper
        await eventually(lambda: len(keeper.holding(resource)) == 2, what="the window is open")
        worker._lost(resource, [min(keeper.holding(resource))])
        await broker.queue("orders").send(3)
        await eventually(lambda: bodies, what="the window closes")
    assert bodies[0] == ["2", "3"]


async def test_a_sign_of_life_that_redis_did_not_take_is_given_again_soon(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage of half a minute all workers fall silent; they must not wait for their next turn to count again."""
    monkeypatch.setattr("runtime.presence.HEARTBEAT_S", 0.01)
    given = DirectoryStore.heartbeat
    tries: list[int] = []

    async def heartbeat(self: DirectoryStore, process: str, serves: bytes, *, ttl_ms: int) -> list[str]:
        tries.append(ttl_ms)
        if len(tries) == 1:
            monkeypatch.setattr("runtime.presence.HEARTBEAT_S", 3_600)
            raise StoreUnavailable("away")
        return await given(self, process, serves, ttl_ms=ttl_ms)

    app = App()
    app.function(name="job")(idle)
    async with serve(app):
        monkeypatch.setattr(DirectoryStore, "heartbeat", heartbeat)
        await eventually(lambda: len(tries) >= 2, what="it is given again")


async def idle(event: object, context: Context) -> None:
    """Does nothing."""
