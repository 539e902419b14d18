"""A worker whose Redis goes away and comes back: nothing is lost, nothing runs twice, a stop ends in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from broker import Broker, FunctionError, Queue
from broker.embedded import EmbeddedRedis
from broker.errors import StoreError, StoreFault, StoreUnavailable
from broker.settings import Settings
from broker.store.messages import MessageStore
from broker.store.values import Claim, Settlement
from runtime import Worker, engine, settler
from runtime.keeper import RETRY_S, LeaseKeeper
from tests.runtime.scene import Serve, Shop, empty, eventually, lines, received, serving

LEASE_MS = 600


@pytest.fixture
def own_redis(tmp_path: Path) -> EmbeddedRedis:
    """A server that this test may stop; it keeps what it has."""
    return EmbeddedRedis(tmp_path / "redis", fsync="always")


@pytest.fixture
async def scene(own_redis: EmbeddedRedis) -> AsyncIterator[Broker]:
    """It runs, and a broker is open on it."""
    own_redis.start()
    try:
        async with Broker(own_redis.url, settings=Settings(prefix="own", lease_ms=LEASE_MS)) as opened:
            yield opened
    finally:
        own_redis.stop()


async def test_a_worker_goes_on_when_redis_is_back(
    scene: Broker, own_redis: EmbeddedRedis, logs: list[MutableMapping[str, Any]]
) -> None:
    """Also with calls that run all the while: their leases, long over, are renewed before anybody claims."""
    shop = Shop(on_success=Queue("done"), concurrency=3)
    other = Shop(on_success=Queue("done"), concurrency=3)
    url, settings = scene.core.address.url, scene.core.settings
    async with serving(shop.app, url, settings), serving(other.app, url, settings):
        await scene.invoke_many("job", range(2))
        await eventually(lambda: shop.gauge.now + other.gauge.now == 2, what="both run")
        own_redis.stop()
        await eventually(lambda: lines(logs, "lease_renewal_failed"), what="the outage is noticed")
        await asyncio.sleep(1.5 * LEASE_MS / 1000)
        own_redis.start()
        shop.gate.set()
        other.gate.set()
        await scene.invoke("job", "after")
        records = [message.json() for message in await received(scene, "done", 3)]
        assert sorted(map(str, (record["requestPayload"] for record in records))) == ["0", "1", "after"]
        await empty(scene, "job")
    assert sorted(map(str, shop.done + other.done)) == ["0", "1", "after"], "nothing ran twice, nothing is blamed"


async def test_whoever_has_nothing_to_renew_claims_no_sooner_than_the_others_have_renewed(
    scene: Broker, own_redis: EmbeddedRedis, logs: list[MutableMapping[str, Any]]
) -> None:
    """Whoever looks for work all the while would else be the first to see Redis again, and the leases that ran out."""
    busy, idle = Shop(concurrency=1), [Shop(concurrency=1) for _ in range(4)]
    url, settings = scene.core.address.url, scene.core.settings
    async with AsyncExitStack() as workers:
        await workers.enter_async_context(serving(busy.app, url, settings))
        await scene.invoke("job", "first")
        await eventually(lambda: busy.gauge.now, what="it runs")
        for shop in idle:
            await workers.enter_async_context(serving(shop.app, url, settings))
        await scene.invoke("job", "second")
        own_redis.stop()
        await eventually(lambda: len(lines(logs, "store_lost")) >= 2, what="some have missed it")
        await asyncio.sleep(2 * LEASE_MS / 1000)
        assert not lines(logs, "store_back")
        own_redis.start()
        await asyncio.sleep(2 * RETRY_S)
        assert (await scene.function("job").counts()).set_apart == 0
        assert not any(shop.gauge.total for shop in idle), "its permit holds, too"
        for shop in (busy, *idle):
            shop.gate.set()
        await empty(scene, "job")
    assert busy.done[:1] == ["first"]


async def test_leases_are_not_renewed_where_there_are_none_and_redis_is_away(
    scene: Broker, own_redis: EmbeddedRedis
) -> None:
    keeper = LeaseKeeper(scene.core, on_lost=lambda *_: None)
    keeper.start()
    job = scene.core.resource("function", "job")
    try:
        assert await keeper.renew_now(job)
        own_redis.stop()
        assert not await keeper.renew_now(job)
        own_redis.start()
        assert await keeper.renew_now(job)
    finally:
        keeper.stop()


async def test_a_result_that_cannot_be_settled_now_is_settled_later(
    scene: Broker, own_redis: EmbeddedRedis, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop(on_success=Queue("done"))
    async with serving(shop.app, scene.core.address.url, scene.core.settings):
        await scene.invoke("job", 1)
        await eventually(lambda: shop.gauge.now, what="it runs")
        own_redis.stop()
        shop.gate.set()
        await eventually(lambda: lines(logs, "settle_failed"), what="it cannot be settled")
        own_redis.start()
        (message,) = await received(scene, "done")
        assert message.json()["responsePayload"] == 1
    assert shop.done == [1]


async def test_a_stop_while_redis_is_away_ends_in_time(scene: Broker, own_redis: EmbeddedRedis) -> None:
    shop = Shop()
    worker = Worker(shop.app, scene.core.address.url, settings=scene.core.settings, grace=0.2)
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await scene.invoke("job", 1)
    await eventually(lambda: shop.gauge.now, what="it runs")
    own_redis.stop()
    began = time.monotonic()
    worker.stop()
    await asyncio.wait_for(running, 15)
    assert time.monotonic() - began < 12
    assert shop.cancelled == [1]
    own_redis.start()

    async def there() -> bool:
        counts = await scene.function("job").counts()
        return counts.total == 1

    await eventually(there, what="the event is still there")


async def test_a_call_under_way_outlasts_a_restart_of_redis(scene: Broker, own_redis: EmbeddedRedis) -> None:
    shop = Shop()
    async with serving(shop.app, scene.core.address.url, scene.core.settings):
        call = asyncio.create_task(scene.call("job", 1, timeout=30))
        await eventually(lambda: shop.gauge.now, what="it runs")
        own_redis.stop()
        await asyncio.sleep(2)  # so that it is looked for at least once
        assert not call.done()
        own_redis.start()
        await asyncio.sleep(2)  # and found again, before it ends
        shop.gate.set()
        assert await call == 1
    assert shop.gauge.total == 1


async def test_a_call_during_an_outage_fails_by_name(scene: Broker, own_redis: EmbeddedRedis) -> None:
    shop = Shop()
    async with serving(shop.app, scene.core.address.url, scene.core.settings):
        call = asyncio.create_task(scene.call("job", 1, timeout=30))
        await eventually(lambda: shop.gauge.now, what="it runs")
        own_redis.stop()
        with pytest.raises((StoreUnavailable, FunctionError)):
            await call
        own_redis.start()
        shop.gate.set()


async def test_a_worker_cannot_start_without_redis(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nothing\.sock"):
        await Worker(Shop().app, f"unix://{tmp_path}/nothing.sock").run()


class LostClaims:
    """The reply to the first claim that brings something is lost; giving it back fails so often, and takes so long."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, failures: int = 0, error: StoreError | None = None, takes_s: float = 0
    ) -> None:
        self.tries = 0
        claim, release = MessageStore.claim, MessageStore.release_claim
        lost = list[Claim]()

        async def lossy(*args: Any, **options: Any) -> Claim:
            answer = await claim(*args, **options)
            if answer.messages and not lost:
                lost.append(answer)
                raise StoreUnavailable("the reply was lost")
            return answer

        async def failing(*args: Any) -> int:
            self.tries += 1
            if self.tries <= failures:
                raise error or StoreUnavailable("away")
            await asyncio.sleep(takes_s)
            return await release(*args)

        monkeypatch.setattr(engine, "_GIVE_BACK_PAUSES_S", (0.001,))
        monkeypatch.setattr(MessageStore, "claim", lossy)
        monkeypatch.setattr(MessageStore, "release_claim", failing)


async def test_what_a_lost_claim_has_leased_is_given_back_however_long_that_fails(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    shop.gate.set()
    lost = LostClaims(monkeypatch, failures=200)
    async with serve(shop.app):
        await broker.invoke("job", 1)
        await eventually(lambda: shop.done == [1], what="it is given back, and runs")
        await empty(broker, "job")
    assert lost.tries == 201


async def test_a_defect_ends_the_giving_back(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop()
    lost = LostClaims(monkeypatch, failures=1_000_000, error=StoreFault("no rule explains it"))
    async with serve(shop.app):
        await broker.invoke("job", 1)
        (line,) = await eventually(lambda: lines(logs, "background_work_failed"), what="it is given up")
    assert (line["work"], line["code"], lost.tries) == ("release_claim", "StoreFault", 6)


async def test_a_stop_ends_the_giving_back(broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    lost = LostClaims(monkeypatch, failures=1_000_000)
    async with serve(shop.app):
        await broker.invoke("job", 1)
        await eventually(lambda: lost.tries > 10, what="it is tried again and again")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "penstock-release_claim"]


async def test_a_stop_waits_for_what_is_being_given_back(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    lost = LostClaims(monkeypatch, takes_s=1.5)
    async with serve(shop.app):
        await broker.invoke("job", 1)
        await eventually(lambda: lost.tries, what="it is being given back")
    counts = await broker.function("job").counts()
    assert (counts.total, counts.in_flight) == (1, 0)


@pytest.mark.parametrize(("faults", "given_up"), [(5, False), (6, True)])
async def test_a_settle_is_given_up_after_six_defects_however_long_redis_was_away_before(
    broker: Broker,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    logs: list[MutableMapping[str, Any]],
    faults: int,
    given_up: bool,  # noqa: FBT001 - a table
) -> None:
    shop, finish = Shop(), MessageStore.finish
    shop.gate.set()
    errors = [StoreUnavailable("away")] * 20 + [StoreFault("no rule explains it")] * faults

    async def failing(*args: Any, **options: Any) -> Settlement:
        if errors:
            raise errors.pop(0)
        return await finish(*args, **options)

    monkeypatch.setattr(settler, "_PAUSES_S", (0.001,))
    monkeypatch.setattr(MessageStore, "finish", failing)
    async with serve(shop.app):
        await broker.invoke("job", 1)
        if given_up:
            await eventually(lambda: lines(logs, "settle_given_up"), what="it is given up")
        else:
            await empty(broker, "job")
    assert (len(lines(logs, "settle_given_up")), errors) == (int(given_up), [])
