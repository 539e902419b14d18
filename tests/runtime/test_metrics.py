"""What a worker counts of its calls, and how it comes to its supervisor."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.errors import CallThrottled
from broker.exposition import exposition, families
from broker.figures import Figures, LoopLag
from runtime import App, Context
from runtime.metrics import WORKER
from runtime.monitor import Monitor
from runtime.reporting import Report, Reporter, State
from tests.conftest import Clock
from tests.gateway.scraping import Scraped
from tests.runtime.scene import Serve, Shop, empty, eventually, waiting


def read(figures: Figures) -> Scraped:
    return Scraped(exposition(families(figures, {}))[1].decode())


async def counted(figures: Figures, look: Callable[[Scraped], object]) -> Scraped:
    await eventually(lambda: look(read(figures)), what="it is counted")
    return read(figures)


class Boom(Exception):
    pass


async def test_each_way_in_which_a_call_ends_is_counted(serve: Serve, broker: Broker, clock: Clock) -> None:
    app, figures = App(), Figures(WORKER)

    @app.function(retries=1, retry_delays=(30,), timeout=0.2)
    async def job(event: Any, context: Context) -> str:
        if event == "slow":
            await asyncio.sleep(30)
        if event == "bad":
            raise Boom
        return "done"

    async with serve(app, figures=figures):
        await broker.invoke_many("job", ["good", "good", "bad"])
        await waiting(broker, "job")
        await clock.advance(30)
        await empty(broker, "job")
        assert await broker.call("job", "good") == "done"
        await broker.invoke("job", "slow")
        await waiting(broker, "job")
    found = read(figures)
    calls = {"function": "job", "source": "event"}
    ended = {
        outcome: found.sum("penstock_worker_calls_total", outcome=outcome, **calls)
        for outcome in ("succeeded", "failed", "timed_out")
    }
    assert ended == {"succeeded": 2, "failed": 2, "timed_out": 1}
    assert found.one("penstock_worker_calls_total", source="call", outcome="succeeded") == 1
    failures = "penstock_worker_failures_total"
    assert (found.one(failures, error_type="Boom"), found.one(failures, error_type="Sandbox.Timedout")) == (2, 1)
    assert found.one("penstock_worker_retries_total", **calls) == 2
    assert found.one("penstock_worker_given_up_total", condition="RetriesExhausted") == 1
    assert found.one("penstock_worker_call_duration_seconds_count", **calls) == 5
    assert found.one("penstock_worker_call_duration_seconds_bucket", le="0.1", **calls) == 4
    assert found.one("penstock_worker_wait_seconds_count", **calls) == 4, "of first tries alone"
    assert found.one("penstock_worker_wait_seconds_sum", **calls) < 20


async def test_the_wait_of_an_event_counts_from_its_acceptance(serve: Serve, broker: Broker, clock: Clock) -> None:
    shop, figures = Shop(), Figures(WORKER)
    shop.gate.set()
    async with serve(shop.app):
        pass
    await broker.invoke("job", 1)
    await clock.advance(40)
    async with serve(shop.app, figures=figures):
        await empty(broker, "job")
    assert 40 <= read(figures).one("penstock_worker_wait_seconds_sum") < 60


async def test_batches_are_counted_with_their_size_and_what_they_put_back(serve: Serve, broker: Broker) -> None:
    app, figures = App(), Figures(WORKER)

    @app.queue("orders", batch_size=10, partial_failures=True)
    async def job(event: Any, context: Context) -> Any:
        bad = [record["messageId"] for record in event["Records"] if record["body"] == "bad"]
        return {"batchItemFailures": [{"itemIdentifier": each} for each in bad]}

    await broker.queue("orders").create()
    await broker.queue("orders").send_many(["good", "bad", "good"])
    async with serve(app, figures=figures):
        found = await counted(figures, lambda now: now.sum("penstock_worker_batch_messages_sum") == 3)
    batch = {"function": "job", "source": "batch"}
    assert found.one("penstock_worker_batch_messages_count", function="job", queue="orders") <= 3
    assert found.one("penstock_worker_retries_total", **batch) == 1
    assert found.one("penstock_worker_wait_seconds_count", **batch) == 3
    assert found.one("penstock_worker_calls_total", outcome="succeeded", **batch) >= 1


async def test_work_that_finds_no_place_is_counted(serve: Serve, broker: Broker) -> None:
    shop, figures = Shop(concurrency=1), Figures(WORKER)
    async with serve(shop.app, figures=figures):
        await broker.invoke("job", 1)
        await eventually(lambda: shop.gauge.now == 1, what="one runs")
        with pytest.raises(CallThrottled):
            await broker.call("job", 2)
        described = await broker.core.directory.describe(broker.core.resource("function", "job"))
        assert described is not None
        assert described.counters["throttled"] >= 1
        async with serve(shop.app, figures=figures):  # another worker, which wants to claim
            await broker.invoke("job", 3)
            await counted(figures, lambda now: now.sum("penstock_worker_throttles_total", reason="limit"))
        shop.gate.set()


async def test_lost_leases_are_counted(serve: Serve, broker: Broker) -> None:
    shop, figures = Shop(), Figures(WORKER)
    async with serve(shop.app, figures=figures):
        event = await broker.invoke("job", 1)
        await eventually(lambda: shop.gauge.now == 1, what="it runs")
        await broker.cancel(event)
        await counted(figures, lambda now: now.sum("penstock_worker_leases_lost_total", kind="function", name="job"))


async def test_error_types_are_bounded(serve: Serve, broker: Broker) -> None:
    app, figures = App(), Figures(WORKER)

    @app.function(retries=0)
    async def job(event: int, context: Context) -> None:
        raise type(f"Error{event}" + "x" * 200, (Exception,), {})

    async with serve(app, figures=figures):
        await broker.invoke_many("job", range(30))
        found = await counted(figures, lambda now: now.sum("penstock_worker_failures_total") == 30)
    samples = [each for each in found.samples if each.name == "penstock_worker_failures_total"]
    assert len(samples) == 21
    assert found.one("penstock_worker_failures_total", error_type="other") == 10
    assert max(len(each.labels["error_type"]) for each in samples) == 100


async def test_nothing_is_counted_where_nobody_asked(serve: Serve, broker: Broker) -> None:
    shop = Shop()
    shop.gate.set()
    async with serve(shop.app) as worker:
        await broker.invoke("job", 1)
        await empty(broker, "job")
        assert worker._engine.figures is None
        states = [worker.state]
    assert [*states, worker.state] == ["polling", "stopping"]


# -- from a process to its supervisor ---------------------------------------------------------------------------------


def state(*, lag_s: float = 0.0) -> State:
    return State("polling", 1, lag_s, 1000)


async def test_reports_tell_what_was_counted_since_the_last_one_and_the_last_one_the_rest() -> None:
    ours, theirs = socket.socketpair()
    figures = Figures(WORKER)
    figures.count("penstock_worker_deaths", "early")
    reporter = Reporter(theirs, figures, state)
    with ours, theirs, ours.makefile("rb") as lines:
        reporter.start()
        first = lines.readline()
        figures.count("penstock_worker_deaths", "late", by=2)
        figures.histogram("penstock_worker_wait_seconds", "f", "event").observe(0.3)
        reporter.stop()
        second = lines.readline()
    reports = [msgspec.json.decode(line, type=Report) for line in (first, second)]
    assert reports[0].counts == [(("penstock_worker_deaths", "early"), 1)]
    assert reports[1].counts == [(("penstock_worker_deaths", "late"), 2)]
    assert reports[1].histograms[0][2] == 0.3


def test_what_ended_processes_have_counted_stays_and_their_gauges_go() -> None:
    monitor = Monitor()
    line = msgspec.json.encode(Report(state(lag_s=3), [(("penstock_worker_deaths", "x"), 2)], []))
    for pid in (1, 2):
        monitor.started(pid, alone=False)
        monitor.heard(pid, line)
    monitor.ended(1, "signal: killed")
    monitor.heard(1, line)  # what was still on its way
    found = Scraped(exposition(families(monitor.figures, monitor.gauges()))[1].decode())
    assert found.one("penstock_worker_deaths_total", cause="x") == 6
    assert found.one("penstock_worker_deaths_total", cause="signal: killed") == 1
    assert found.one("penstock_worker_processes", state="polling") == 1
    assert found.one("penstock_worker_running_calls") == 1
    assert found.one("penstock_worker_loop_lag_seconds") == 3


async def test_a_blocked_loop_is_seen_while_it_is_blocked_and_for_a_minute_after() -> None:
    lag = LoopLag()
    lag.start()
    during: list[float] = []

    def block() -> None:
        time.sleep(0.6)
        during.append(lag.worst_s())  # as another thread would see it

    asyncio.get_running_loop().call_soon(block)
    await eventually(lambda: during and lag.worst_s() >= 0.3, what="the block is noticed")
    assert during[0] >= 0.3
    lag.stop()
