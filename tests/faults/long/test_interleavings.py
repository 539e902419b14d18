"""R20: calls are cancelled at any of their awaits, while scripts fail before and after they ran."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import StoreError
from broker.settings import Settings
from runtime import App, Context, Worker
from tests.conftest import Clock
from tests.faults.customers import HIDDEN_S, Books, Customer, everything, outcome_of
from tests.faults.proxy import Action, FaultProxy, Rule
from tests.faults.scene import SEED, judged, report, sized, until
from tests.runtime.scene import serving

CALLS = sized(400, 20_000)
TOGETHER = 4
LAST_STEP = 4
LIVES = sized(10, 200)
EVENTS = 200
ALIVE_S = 0.05


async def connections(broker: Broker) -> int:
    return len((await broker.core.runner.fetch("CLIENT", "LIST")).splitlines())


@pytest.mark.timeout(240)
async def test_calls_that_are_cancelled_anywhere_leave_no_half_of_anything(
    broker: Broker, clock: Clock, settings: Settings, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    chance, started, books, outcomes = random.Random(SEED), time.monotonic(), Books(), Counter[str]()
    queue, cuts = broker.queue("orders"), 0
    await queue.create()
    before = await connections(broker)
    async with (
        FaultProxy(Path(redis_server.url.removeprefix("unix://")), tmp_path / "proxy.sock") as proxy,
        Broker(proxy.url, settings=settings) as shaky,
    ):
        customers = [Customer(shaky.queue("orders"), books, chance, f"c{number}") for number in range(TOGETHER)]
        for _ in range(CALLS // TOGETHER):
            rule = None
            if chance.random() < 0.3:
                action: Action = chance.choice(("cut_before", "cut_after"))
                rule = proxy.add(Rule(action, command="EVALSHA", number=chance.randint(1, TOGETHER)))
            calls = [(each.next_call(), chance.randint(0, LAST_STEP)) for each in customers]
            outcomes.update(await asyncio.gather(*(outcome_of(call, cancel_at=step) for call, step in calls)))
            if rule is not None:
                cuts += rule.fired.is_set()
                if not rule.fired.is_set():
                    proxy.remove(rule)

        async def only_held() -> bool:
            return (await queue.counts()).in_flight <= len(books.held) + len(books.perhaps_deleted - books.deleted)

        await until(only_held, timeout_s=30, what="what cancelled receives leased is back")
    after = await until_connections(broker, before)
    await clock.advance(HIDDEN_S)
    left = await everything(queue)
    report(
        "R20 calls",
        seed=SEED,
        calls=CALLS,
        **{f"calls_{name}": count for name, count in sorted(outcomes.items())},
        cuts=cuts,
        accepted=len(books.accepted),
        unknown=len(books.unknown),
        of_these_stored=len(books.unknown & (set(left) | books.deleted | books.perhaps_deleted)),
        connections_before=before,
        connections_after=after,
        seconds=time.monotonic() - started,
    )
    faults = books.faults(left)
    judged(**faults)
    assert not any(faults.values()), faults


async def until_connections(broker: Broker, before: int) -> int:
    async def as_before() -> bool:
        return await connections(broker) <= before

    await until(as_before, timeout_s=20, what="no connection is left over")
    return await connections(broker)


@pytest.mark.timeout(240)
async def test_a_worker_that_is_cancelled_in_any_turn_of_its_loop_loses_nothing(
    broker: Broker, clock: Clock, settings: Settings, redis_url: str
) -> None:
    """The worker's own task is cancelled, as by a program that embeds it; another one takes what is left."""
    chance, started, done, runs = random.Random(SEED), time.monotonic(), Counter[str](), 0
    app = App()

    @app.function(max_crashes=1_000)
    async def work(event: dict[str, int], context: Context) -> None:
        nonlocal runs
        runs += 1
        for _ in range(event["turns"]):
            await asyncio.sleep(0)
        done[context.aws_request_id] += 1

    before, ids = await connections(broker), list[str]()
    async with serving(app, redis_url, settings):
        pass  # so that the function is there
    for _ in range(LIVES):
        ids += await broker.invoke_many("work", [{"turns": chance.randint(0, 20)} for _ in range(EVENTS)])
        worker = Worker(app, redis_url, settings=settings)
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(chance.uniform(0, ALIVE_S))
        for _ in range(chance.randint(1, 200)):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait((running,))
        if not running.cancelled() and (error := running.exception()) is not None:
            assert isinstance(error, StoreError), error
    done_before = len(done)
    await clock.advance(settings.lease_ms / 1000)
    async with serving(app, redis_url, settings), serving(app, redis_url, settings, alone=True):

        async def gone() -> bool:
            return (await broker.function("work").counts()).total == 0

        await until(gone, timeout_s=60, what="every event is done")
    after = await until_connections(broker, before)
    lost = len(set(ids) - set(done))
    report(
        "R20 workers",
        seed=SEED,
        workers_cancelled=LIVES,
        events=len(ids),
        lost=lost,
        done_by_those_cancelled=done_before,
        runs=runs,
        connections_before=before,
        connections_after=after,
        seconds=time.monotonic() - started,
    )
    assert not lost
