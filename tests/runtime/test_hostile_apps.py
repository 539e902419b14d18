"""Apps and neighbours that misbehave: each is contained and named, and whoever works beside it goes on."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker, FunctionError, Queue
from broker.errors import CallTimeout
from runtime import App, Context, Record
from tests.runtime.scene import Serve, empty, eventually, lines, received


class Camera(msgspec.Struct):
    """A type that refuses some events with an error of its own, which no decoder expects."""

    name: str

    def __post_init__(self) -> None:
        if self.name == "broken":
            raise KeyError("no such camera")
        if self.name == "stolen":
            sys.exit("no camera, no work")


async def test_an_event_that_its_type_refuses_in_its_own_way_is_unreadable(broker: Broker, serve: Serve) -> None:
    app, seen = App(), list[str]()

    @app.function(retries=0, concurrency=2, on_failure=Queue("failed"))
    async def shoot(event: Camera, context: Context) -> str:
        seen.append(event.name)
        return event.name

    async with serve(app):
        await broker.invoke_many("shoot", [{"name": "broken"}, {"name": "good"}, {"name": "stolen"}])
        records = await received(broker, "failed", 2)
        answers = [record.json()["responsePayload"] for record in records]
        assert [answer["errorType"] for answer in answers] == ["Runtime.UnmarshalError"] * 2
        said = "".join(answer["errorMessage"] for answer in answers)
        assert "KeyError" in said
        assert "SystemExit" in said
        for _ in range(3):  # more than there are permits
            with pytest.raises(FunctionError, match="no such camera"):
                await broker.call("shoot", {"name": "broken"}, timeout=5)
        assert await broker.call("shoot", {"name": "called"}, timeout=5) == "called"
        await empty(broker, "shoot")
    assert sorted(seen) == ["called", "good"]


async def test_a_record_that_its_type_refuses_in_its_own_way_fails_alone(broker: Broker, serve: Serve) -> None:
    app, seen = App(), list[str]()

    @app.queue("films", batch_size=10, partial_failures=True)
    async def develop(event: list[Record[Camera]], context: Context) -> None:
        seen.extend(record.body.name for record in event)

    async with serve(app):
        await broker.queue("films").send_many([{"name": "broken"}, {"name": "good"}])
        await eventually(lambda: seen == ["good"])

        async def refused_one_waits() -> bool:
            return (await broker.queue("films").counts()).retrying == 1

        await eventually(refused_one_waits)


async def test_what_no_release_of_ours_sends_does_not_make_a_worker_deaf(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app, seen = App(), list[int]()

    @app.function()
    async def job(event: int, context: Context) -> int:
        seen.append(event)
        return event

    async with serve(app) as worker:
        assert await broker.call("job", 1, timeout=5) == 1
        for notice in (b"\xc1", b"", json.dumps({"kind": "unheard of"}).encode()):
            await broker.core.parcels.tell(worker.process, notice)
        assert await broker.call("job", 2, timeout=5) == 2
        await broker.invoke("job", 3)
        await eventually(lambda: seen == [1, 2, 3])
    assert len(lines(logs, "notice_unreadable")) == 3


@pytest.mark.parametrize("way", ["event", "batch", "thread"])
async def test_a_function_with_much_queued_leaves_room_for_the_others(broker: Broker, serve: Serve, way: str) -> None:
    app, greedy, others = App(), list[int](), list[int]()

    async def on_loop(event: int, context: Context) -> None:
        greedy.append(event)
        await asyncio.sleep(0.002)

    def in_thread(event: int, context: Context) -> None:
        greedy.append(event)
        time.sleep(0.002)

    app.function(name="greedy")(in_thread if way == "thread" else on_loop)

    @app.function()
    async def modest(event: Any, context: Context) -> None:
        others.append(len(greedy))

    @app.function()
    def modest_in_thread(event: Any, context: Context) -> None:
        others.append(len(greedy))

    @app.queue("orders", batch_window=0.1)
    async def place(event: Any, context: Context) -> None:
        others.append(len(greedy))

    async def bring_one() -> None:
        if way == "batch":
            await broker.queue("orders").send("x")
        else:
            await broker.invoke("modest" if way == "event" else "modest_in_thread", {})

    await broker.queue("orders").create()
    async with serve(app, max_calls=100 if way == "thread" else 2, threads=2):
        await broker.invoke_many("greedy", range(30_000))
        await eventually(lambda: len(greedy) > 100, what="all room is taken")
        for done in range(20):
            before = len(greedy)
            await bring_one()
            await eventually(lambda: len(others) == done + 1, timeout_s=30, what="the other one has its turn")  # noqa: B023
            assert others[-1] - before < 1_500, "of those that were queued first, what ran meanwhile"
        await broker.function("greedy").purge()


async def test_impatient_callers_do_not_make_a_healthy_worker_drain(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app, release = App(), threading.Event()

    @app.function(timeout=20)
    def slow(event: Any, context: Context) -> str:
        release.wait(10)
        return "done"

    async with serve(app, threads=4) as worker:
        calls = [broker.call("slow", number, timeout=0.2) for number in range(3)]
        assert all(isinstance(answer, CallTimeout) for answer in await asyncio.gather(*calls, return_exceptions=True))
        release.set()
        assert await broker.call("slow", 0, timeout=5) == "done"
        assert not worker.exhausted
    assert not lines(logs, "handler_does_not_stop")


async def test_calls_that_do_not_stop_count_also_when_their_callers_had_gone_before(
    broker: Broker, serve: Serve
) -> None:
    app, release = App(), threading.Event()

    @app.function(timeout=1)
    def slow(event: Any, context: Context) -> None:
        release.wait(30)

    async with serve(app, threads=2) as worker:
        calls = [broker.call("slow", number, timeout=0.2) for number in range(2)]
        assert all(isinstance(answer, CallTimeout) for answer in await asyncio.gather(*calls, return_exceptions=True))
        assert not worker.exhausted
        try:
            await eventually(lambda: worker.exhausted)
        finally:
            release.set()


async def test_a_handler_that_cancels_itself_has_failed_and_leaves_its_slot(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(retries=0, concurrency=1, on_failure=Queue("failed"))
    async def job(event: Any, context: Context) -> str:
        task = asyncio.current_task()
        if event == "cancel" and task is not None:
            task.cancel()
            await asyncio.sleep(0)
        return "done"

    async with serve(app):
        await broker.invoke("job", "cancel")
        (record,) = await received(broker, "failed")
        assert record.json()["responsePayload"]["errorType"] == "CancelledError"
        await empty(broker, "job")
        assert await broker.call("job", "go on", timeout=5) == "done"


async def test_an_open_window_holds_no_permit_of_the_function(broker: Broker, serve: Serve) -> None:
    app, batches = App(), list[int]()

    @app.queue("orders", batch_size=10, batch_window=2, concurrency=1)
    async def job(event: dict[str, Any], context: Context) -> str:
        batches.append(len(event.get("Records", ())))
        return "done"

    async with serve(app):
        await broker.queue("orders").send("first")

        async def gathering() -> bool:
            return (await broker.queue("orders").counts()).in_flight == 1

        await eventually(gathering)
        assert await broker.call("job", {}, timeout=5) == "done"
        assert batches == [0]
        await broker.queue("orders").send("second")
        await eventually(lambda: batches == [0, 2])


async def test_a_deleted_mapping_is_not_polled_any_more(broker: Broker, serve: Serve) -> None:
    app, seen = App(), list[str]()

    @app.queue("orders")
    async def job(event: dict[str, Any], context: Context) -> None:
        seen.extend(record["body"] for record in event["Records"])

    async with serve(app):
        orders = broker.queue("orders")
        await orders.send("before")
        await eventually(lambda: seen == ["before"])
        assert await broker.core.directory.delete_mapping("orders->job", queue=orders.resource)
        await broker.invoke("job", {"Records": [{"body": "a direct event is served"}]})
        await eventually(lambda: len(seen) == 2)
        await orders.send("after")
        await broker.invoke("job", {"Records": [{"body": "and this one"}]})
        await eventually(lambda: len(seen) == 3)
        assert (await orders.counts()).visible == 1
