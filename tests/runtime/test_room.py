"""Room in one process: who is next where it is full, and that it is never more than full."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from broker import Broker
from broker.records import FunctionSettings
from runtime import App, Context
from runtime.handlers import HandlerFunction
from runtime.invoker import Invoker
from runtime.room import Room
from tests.runtime.scene import Gauge, Serve, empty, eventually


async def on_loop(event: Any, context: Context) -> None: ...


def in_thread(event: Any, context: Context) -> None: ...


LOOP = HandlerFunction(on_loop, name="loop", settings=FunctionSettings())
THREAD = HandlerFunction(in_thread, name="thread", settings=FunctionSettings())


class Full:
    """A process with so many calls, that all run, and no thread that is free."""

    def __init__(self, calls: int) -> None:
        self.running = set(range(calls))
        self.free_threads = 0
        self.woken: list[str] = []
        self._told: list[Callable[[], None]] = []
        self.room = Room(cast("Invoker", self), max_calls=calls, alone=False)

    def when_freed(self, tell: Callable[[], None]) -> None:
        if tell not in self._told:
            self._told.append(tell)

    def end(self, calls: int, *, threads: int = 0) -> list[str]:
        """Ends some; answers who has been woken by that."""
        for _ in range(calls):
            self.running.pop()
        self.free_threads += threads
        told, self._told, self.woken = self._told, [], []
        for tell in told:
            tell()
        return self.woken

    def wait(self, *names: str, function: HandlerFunction = LOOP, idle: bool = True) -> None:
        for name in names:
            self.room.wait_for(name, function, lambda name=name: self.woken.append(name), idle=idle)  # type: ignore[misc]


def test_who_waits_in_line_is_woken_in_turn_and_left_one_call() -> None:
    full = Full(9)
    full.wait("a", "b", "c")
    assert full.end(1) == ["a"]
    assert [full.room.free_for(name, LOOP) for name in ("a", "b", "c", "other")] == [1, 0, 0, 0]
    assert full.end(1) == ["b"], "a has been told"
    assert full.end(2) == ["c"]
    assert [full.room.free_for(name, LOOP) for name in ("a", "b", "c", "other")] == [2, 2, 2, 1]
    full.room.leave_line("a")
    assert full.room.free_for("a", LOOP) == 2
    full.wait("a", "b")
    full.room.leave_line("c")
    assert full.room.free_for("other", LOOP) == 2


def test_who_has_calls_that_run_is_woken_by_what_the_line_leaves() -> None:
    full = Full(9)
    full.wait("busy", idle=False)
    full.wait("a", "b")
    assert full.end(2) == ["a", "b"]
    full.woken.clear()
    full.room.leave_line("b")  # it has found nothing
    assert full.woken == ["busy"]


def test_who_waits_for_a_thread_keeps_no_call_from_others() -> None:
    full = Full(3)
    full.wait("a", "b", function=THREAD)
    full.wait("c")
    assert full.end(1) == ["c"]
    assert full.room.free_for("other", LOOP) == 0
    assert full.end(1, threads=1) == ["a"]
    assert [full.room.free_for(name, THREAD) for name in ("a", "b", "other")] == [1, 0, 0]
    full.room.leave_line("c")
    assert full.room.free_for("other", LOOP) == 1
    assert full.end(1, threads=1) == ["b"]


async def test_what_was_claimed_while_others_took_the_room_starts_with_the_next(broker: Broker, serve: Serve) -> None:
    app, ran = App(), list[str]()

    async def job(event: str, context: Context) -> None:
        await asyncio.sleep(0.05)
        ran.append(event)

    names = ["a", "b", "c", "d"]
    for name in names:
        app.function(name=name)(job)
    async with serve(app, max_calls=2):
        for done in range(5):
            await asyncio.gather(*(broker.invoke(name, name) for name in names))
            await eventually(lambda: len(ran) == 4 * (done + 1), what="all have run")  # noqa: B023


@pytest.mark.parametrize("max_calls", [1, 2, 4])
async def test_many_functions_with_much_queued_take_turns(broker: Broker, serve: Serve, max_calls: int) -> None:
    app, ran = App(), list[str]()

    async def job(event: str, context: Context) -> None:
        ran.append(event)
        await asyncio.sleep(0.002)

    names = [f"job-{number}" for number in range(8)]
    for name in names:
        app.function(name=name)(job)
    async with serve(app, max_calls=max_calls):
        for name in names:
            await broker.invoke_many(name, [name] * 1_000)
        await eventually(lambda: set(ran) == set(names), timeout_s=20, what="all have run once")
        begun = len(ran)
        await eventually(lambda: len(ran) >= begun + 400, timeout_s=20, what="400 more have run")
        taken = ran[begun : begun + 400]
        assert {name: taken.count(name) for name in names if taken.count(name) < 20} == {}
        for name in names:
            await broker.function(name).purge()


async def test_who_has_its_turn_keeps_it_until_what_it_has_claimed_starts(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it waits for its turn again, and where calls are long gives back what it has claimed, again and again."""
    monkeypatch.setattr("runtime.sources.invocation.HELD_S", 0.005)
    app, ran = App(), list[str]()

    async def job(event: Any, context: Context) -> None:
        await asyncio.sleep(0.01)
        ran.append(context.function_name)

    names = [f"job-{number}" for number in range(5)]
    for name in names:
        app.function(name=name)(job)
    app.queue("orders", name="orders", batch_size=1, concurrency=1)(job)
    await broker.queue("orders").create()
    await broker.queue("orders").send_many(["x"] * 1_000)
    async with serve(app, max_calls=1):
        for name in names:
            await broker.invoke_many(name, range(1_000))
        begun = len(ran)
        await eventually(lambda: len(ran) >= begun + 240, timeout_s=20, what="240 have run")
        for name in (*names, "orders"):
            assert ran[begun : begun + 240].count(name) >= 20, name
        for name in names:
            await broker.function(name).purge()


async def test_plain_functions_that_wait_for_threads_leave_the_calls_to_coroutines(
    broker: Broker, serve: Serve
) -> None:
    app, release, ran = App(), threading.Event(), list[int]()

    def plain(event: Any, context: Context) -> None:
        release.wait(30)

    for number in range(8):
        app.function(name=f"plain-{number}", timeout=60)(plain)

    @app.function()
    async def job(event: int, context: Context) -> None:
        ran.append(event)

    async with serve(app, max_calls=8, threads=2) as worker:
        for number in range(8):
            await broker.invoke(f"plain-{number}", {})
        await eventually(lambda: worker.running_calls == 2)
        await asyncio.sleep(0.2)  # so that the others have found no thread
        await broker.invoke_many("job", range(100))
        try:
            await eventually(lambda: sorted(ran) == list(range(100)))
        finally:
            release.set()


async def test_who_waits_for_a_permit_leaves_the_room_to_others(broker: Broker, serve: Serve) -> None:
    app, gate, ran = App(), asyncio.Event(), list[int]()

    @app.function()
    async def blocker(event: Any, context: Context) -> None:
        await gate.wait()

    @app.function(concurrency=1, partitions=4)
    async def limited(event: Any, context: Context) -> None: ...

    @app.function()
    async def job(event: int, context: Context) -> None:
        ran.append(event)

    async with serve(app, max_calls=2) as worker:
        await broker.invoke_many("blocker", range(2))
        await eventually(lambda: worker.running_calls == 2)
        resource = broker.core.resource("function", "limited")
        grant = await broker.core.permits.take_of_function(resource, ["another worker's"], permit_ms=60_000)
        assert grant.granted == 1
        await broker.invoke_many("limited", range(16))
        await asyncio.sleep(0.3)  # so that its partitions have found no room
        gate.set()
        await eventually(lambda: not worker.running_calls)
        await asyncio.sleep(0.1)
        await broker.invoke_many("job", range(20))
        await eventually(lambda: sorted(ran) == list(range(20)))
        await broker.core.permits.release_of_function(resource, ["another worker's"])
        await empty(broker, "limited")


@pytest.mark.parametrize("window", [0, 0.2])
async def test_mapped_queues_never_run_more_than_there_is_room_for(broker: Broker, serve: Serve, window: float) -> None:
    app, gauge = App(), Gauge()
    queues = [f"orders-{number}" for number in range(4)]

    async def job(event: Any, context: Context) -> None:
        async with gauge:
            await asyncio.sleep(0.01)

    for queue in queues:
        app.queue(queue, name=queue, batch_size=1 if not window else 10, batch_window=window)(job)
        await broker.queue(queue).create()
    app.function(name="direct")(job)
    async with serve(app, max_calls=1):
        for _ in range(3):
            await asyncio.gather(
                *(broker.queue(queue).send_many(["x"] * 5) for queue in queues), broker.invoke_many("direct", range(5))
            )

            async def done() -> bool:
                counts = [await broker.queue(queue).counts() for queue in queues]
                return not any(each.total for each in counts)

            await eventually(done, timeout_s=20, what="all have run")
        await empty(broker, "direct")
    assert gauge.most == 1


async def test_no_batch_waits_for_a_thread_while_its_time_runs(broker: Broker, serve: Serve) -> None:
    app, ran = App(), list[str]()

    def job(event: Any, context: Context) -> None:
        time.sleep(0.4)
        ran.append(context.function_name)

    queues = [f"orders-{number}" for number in range(6)]
    for queue in queues:
        app.queue(queue, name=queue, batch_size=1, timeout=1)(job)
        await broker.queue(queue).create()
    async with serve(app, threads=1):
        await asyncio.gather(*(broker.queue(queue).send("x") for queue in queues))
        await eventually(lambda: sorted(ran) == queues, timeout_s=20, what="each has run, within its time")


async def test_calls_have_their_turn_beside_much_that_is_queued(broker: Broker, serve: Serve) -> None:
    app, ran = App(), list[int]()

    @app.function()
    async def greedy(event: int, context: Context) -> None:
        ran.append(event)
        await asyncio.sleep(0.002)

    @app.function()
    async def called(event: Any, context: Context) -> int:
        return len(ran)

    async with serve(app, max_calls=2):
        await broker.invoke_many("greedy", range(30_000))
        await eventually(lambda: len(ran) > 100, what="all room is taken")
        for _ in range(50):
            before = len(ran)
            assert await broker.call("called", {}, timeout=30) - before < 500, "of those that were queued, meanwhile"
        calls = [broker.call("called", {}, timeout=30) for _ in range(20)]
        await asyncio.gather(*calls)
        await broker.function("greedy").purge()


async def test_calls_whose_events_come_later_find_out_whether_there_is_still_room(broker: Broker, serve: Serve) -> None:
    app, gauge = App(), Gauge()

    @app.function()
    async def called(event: str, context: Context) -> int:
        async with gauge:
            await asyncio.sleep(0.01)
        return len(event)

    async with serve(app, max_calls=1):
        calls = [broker.call("called", "x" * 100_000, timeout=30) for _ in range(10)]
        assert await asyncio.gather(*calls) == [100_000] * 10
    assert gauge.most == 1


async def test_what_was_prefetched_before_calls_became_long_is_for_others(broker: Broker, serve: Serve) -> None:
    gate, fast, long = asyncio.Event(), list[str](), list[str]()

    def app_of(worker: str) -> App:
        app = App()

        @app.function(timeout=60)
        async def job(event: str, context: Context) -> None:
            if event == "fast":
                fast.append(worker)
            else:
                long.append(worker)
                await gate.wait()

        return app

    async with serve(app_of("first"), max_calls=20) as worker:
        await broker.invoke_many("job", ["fast"] * 20_000)
        await eventually(lambda: len(fast) > 10_000, timeout_s=20, what="it knows a rate")
        await broker.invoke_many("job", ["long"] * 100)
        await eventually(lambda: worker.running_calls == 20 and len(long) == 20, timeout_s=20, what="it is full")
        async with serve(app_of("second")):
            try:
                await eventually(lambda: len(long) == 100, what="the other worker runs the rest")
            finally:
                gate.set()
        await empty(broker, "job")
    assert long.count("first") == 20
