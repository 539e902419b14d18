"""A function's concurrency holds exactly over all workers and all its sources; pausing and zero."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from broker import Broker, Queue
from runtime import App, Context
from tests.runtime.scene import Gauge, Serve, calls_let_through, empty, eventually, prefetched, received
from tests.store.audit import command_calls


def gauged(gauge: Gauge, work_s: float = 0.005, **options: Any) -> App:
    """An app whose function `job` measures how many of it run, called by whatever source."""
    app = App()

    @app.function(timeout=10, **options)
    async def job(event: Any, context: Context) -> None:
        async with gauge:
            await asyncio.sleep(work_s)

    return app


async def test_events_of_a_limited_function_run_up_to_its_limit_over_two_workers(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()
    app, other = gauged(gauge, concurrency=3), gauged(gauge, concurrency=3)
    async with serve(app), serve(other):
        await broker.invoke_many("job", range(150))
        await eventually(lambda: gauge.total == 150, what="all events ran")
        await empty(broker, "job")
    assert gauge.most == 3


async def test_the_limit_holds_over_events_batches_and_calls_together(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()

    def app() -> App:
        made = App()

        @made.queue("orders", batch_size=2, concurrency=4, timeout=10)
        async def job(event: Any, context: Context) -> None:
            async with gauge:
                await asyncio.sleep(0.005)

        return made

    async with serve(app()), serve(app()):
        await broker.queue("orders").send_many(range(100))
        await broker.invoke_many("job", range(100))
        calls = await asyncio.gather(calls_let_through(broker, 20), calls_let_through(broker, 20))

        async def all_done() -> bool:
            return (await broker.queue("orders").counts()).total == 0

        await eventually(all_done, what="the queue is empty")
        await empty(broker, "job")
    assert gauge.most == 4
    assert gauge.total >= 150 + sum(calls)


async def test_an_idle_limited_mapping_does_not_keep_itself_or_others_awake(broker: Broker, serve: Serve) -> None:
    """Permits given back unused wake those that want one, and nobody else: two idle workers must come to rest."""

    def app() -> App:
        made = App()

        @made.queue("orders", concurrency=1, max_concurrency=1)
        async def job(event: Any, context: Context) -> None: ...

        return made

    async def commands() -> int:
        return await command_calls(broker.core, "evalsha")

    async with serve(app()), serve(app()):
        await broker.queue("orders").send(1)

        async def idle() -> bool:
            before = await commands()
            await asyncio.sleep(0.2)
            return await commands() - before <= 2

        await eventually(idle, what="both workers are idle")


async def test_a_slot_that_another_function_frees_is_used_at_once(broker: Broker, serve: Serve) -> None:
    app, released, ran = App(), asyncio.Event(), asyncio.Event()

    @app.function(timeout=30)
    async def first(event: Any, context: Context) -> None:
        await released.wait()

    @app.function()
    async def second(event: Any, context: Context) -> None:
        ran.set()

    async with serve(app, max_calls=1) as worker:
        await broker.invoke("first", 1)
        await eventually(lambda: worker._engine.invoker.running, what="the first runs")
        await broker.invoke("second", 2)
        await asyncio.sleep(0.05)
        assert not ran.is_set()
        released.set()
        await asyncio.wait_for(ran.wait(), 5)


async def test_zero_concurrency_gives_events_up_at_once(broker: Broker, serve: Serve) -> None:
    app = gauged(gauge := Gauge(), concurrency=0, on_failure=Queue("failed"), dead_letter=Queue("dead"))
    async with serve(app):
        await broker.invoke("job", "x")
        record = (await received(broker, "failed"))[0].json()
        assert record["requestContext"]["condition"] == "ZeroReservedConcurrency"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert not {"responseContext", "responsePayload"} & record.keys()
        (dead,) = await received(broker, "dead")
        assert dead.body == '"x"'
        await empty(broker, "job")
    assert gauge.total == 0


async def test_a_function_paused_in_its_code_keeps_everything_queued(broker: Broker, serve: Serve) -> None:
    app = gauged(gauge := Gauge(), paused=True)
    async with serve(app):
        await broker.invoke_many("job", range(5))
        await asyncio.sleep(0.05)
        assert (await broker.function("job").counts()).visible == 5
        async with serve(gauged(gauge)):  # a newer registration ends it
            await eventually(lambda: gauge.total == 5, what="all ran")


async def test_pause_and_resume(broker: Broker, serve: Serve) -> None:
    gauge, app = Gauge(), App()

    @app.queue("orders", name="job")
    async def job(event: Any, context: Context) -> None:
        async with gauge:
            pass

    async with serve(app):
        await broker.function("job").pause()
        await asyncio.sleep(0.02)  # the worker hears of it
        await broker.invoke_many("job", range(3))
        await broker.queue("orders").send("in a queue")
        await asyncio.sleep(0.05)
        assert gauge.total == 0
        assert (await broker.function("job").counts()).visible == 3
        assert (await broker.queue("orders").counts()).visible == 1
        await broker.function("job").resume()
        await eventually(lambda: gauge.total == 4, what="all ran")


async def test_what_was_claimed_ahead_is_handed_back_at_a_pause(broker: Broker, serve: Serve) -> None:
    """Prefetched events have not begun: a pause, or a limit that they were claimed without, sends them back."""
    async with prefetched(broker, serve) as ahead:
        await broker.function("job").pause()
        await ahead.given_back()
        ahead.gate.set()
        await broker.function("job").resume()
        await empty(broker, "job")


async def test_a_raised_limit_is_used_while_calls_are_running(broker: Broker, serve: Serve) -> None:
    gauge, gate = Gauge(), asyncio.Event()

    def app(concurrency: int | None) -> App:
        made = App()

        @made.function(timeout=30, concurrency=concurrency)
        async def job(event: Any, context: Context) -> None:
            async with gauge:
                await gate.wait()

        return made

    async with serve(app(1)):
        await broker.invoke_many("job", range(4))
        await eventually(lambda: gauge.now == 1, what="one runs")
        async with serve(app(3)):
            await eventually(lambda: gauge.now == 3, what="three run")
            gate.set()
            await empty(broker, "job")
    assert gauge.most <= 3


async def test_a_limit_taken_away_leaves_no_permit_behind(broker: Broker, serve: Serve) -> None:
    gauge, gate = Gauge(), asyncio.Event()

    def app(concurrency: int | None) -> App:
        made = App()

        @made.queue("orders", batch_size=1, timeout=30, concurrency=concurrency)
        async def job(event: Any, context: Context) -> None:
            async with gauge:
                await gate.wait()

        return made

    async with serve(app(1)) as worker:
        await broker.queue("orders").send(1)
        await eventually(lambda: gauge.now == 1, what="one runs")
        async with serve(app(None)):
            gate.set()

            async def no_permit() -> bool:
                return (await broker.function("job").counts()).running == 0

            await eventually(no_permit, what="its permit is given back")
        assert not any(worker._engine.keeper._permits.values())


async def test_a_plain_function_that_does_not_stop_keeps_its_permit(broker: Broker, serve: Serve) -> None:
    import threading  # noqa: PLC0415 - only here

    app, released, seen = App(), threading.Event(), []

    @app.function(timeout=0.05, concurrency=1, retries=0, on_failure=Queue("failed"))
    def job(event: Any, context: Context) -> None:
        seen.append(event)
        if event == "stuck":
            released.wait(30)

    async with serve(app, threads=8):
        await broker.invoke("job", "stuck")
        record = (await received(broker, "failed"))[0].json()
        assert record["responsePayload"]["errorType"] == "Sandbox.Timedout"
        assert (await broker.function("job").counts()).running == 1
        await broker.invoke("job", "next")
        await asyncio.sleep(0.05)
        assert seen == ["stuck"]
        released.set()
        await eventually(lambda: seen == ["stuck", "next"], what="the next one runs")
        await empty(broker, "job")


async def test_a_blocked_loop_is_named_with_its_function_and_stack(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    import time  # noqa: PLC0415 - only here

    app = App()

    @app.function(timeout=30)
    async def blocks(event: Any, context: Context) -> None:
        time.sleep(2.6)  # noqa: ASYNC251 - the point

    async with serve(app):
        await broker.invoke("blocks", 1)
        await eventually(lambda: [line for line in logs if line["event"] == "loop_unblocked"], what="it goes on")
        await empty(broker, "blocks")
    (line,) = [line for line in logs if line["event"] == "loop_blocked"]
    assert line["function"] == "blocks"
    assert "time.sleep(2.6)" in line["stack"]


async def test_who_claimed_for_room_that_another_took_hears_when_it_is_free_again(broker: Broker, serve: Serve) -> None:
    app, done = App(), []

    async def handler(event: int, context: Context) -> None:
        await asyncio.sleep(0.05)
        done.append(event)

    names = [f"job-{number}" for number in range(4)]
    for name in names:
        app.function(name=name)(handler)
    async with serve(app, max_calls=1):
        for number in range(5):
            await asyncio.sleep(0.05)  # all are asleep, and wake up at once
            await asyncio.gather(*(broker.invoke(name, number) for name in names))
            await eventually(lambda: len(done) == 4 * (number + 1), what="those of all functions")  # noqa: B023
