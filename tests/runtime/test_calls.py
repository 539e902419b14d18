"""Synchronous calls: to a live worker and back, never retried."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from broker import Broker, FunctionError
from broker.call_notices import CallNotice
from broker.calls import Caller
from broker.errors import (
    CallThrottled,
    CallTimeout,
    FunctionNotFound,
    InvalidOption,
    NoLiveWorker,
    PayloadNotJson,
    PayloadTooLarge,
)
from broker.settings import Settings
from runtime import App, Context, Record
from tests.runtime.scene import Gauge, Serve, empty, eventually
from tests.store.audit import in_transaction, names_under


class Order(msgspec.Struct):
    id: int


class Desk:
    """Functions to call, and what they have seen."""

    def __init__(self) -> None:
        self.app = App()
        self.seen: list[Any] = []
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.gauge = Gauge()
        self.app.function(timeout=30)(self.echo)
        self.app.function(timeout=0.05)(self.brief)
        self.app.function(timeout=30)(self.fail)
        self.app.function(timeout=30, concurrency=1)(self.limited)
        self.app.function(timeout=30)(self.long)
        self.app.function()(self.order)

    async def echo(self, event: Any, context: Context) -> Any:
        self.seen.append(context.aws_request_id)
        return event

    async def brief(self, event: Any, context: Context) -> None:
        await asyncio.sleep(30)

    async def fail(self, event: Any, context: Context) -> None:
        self.seen.append(context.aws_request_id)
        raise ValueError(f"no {event}")

    async def limited(self, event: Any, context: Context) -> str:
        async with self.gauge:
            await self.gate.wait()
        return "done"

    async def long(self, event: Any, context: Context) -> int:
        self.seen.append(context.get_remaining_time_in_millis())
        try:
            async with self.gauge:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return 1

    async def order(self, event: Order, context: Context) -> int:
        return event.id


@pytest.fixture
def desk() -> Desk:
    return Desk()


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [None, 0, "", [], {"a": [1, 2.5, None]}, "Grüße"])
async def test_a_call_answers_the_result(broker: Broker, serve: Serve, desk: Desk, event: Any) -> None:
    async with serve(desk.app):
        assert await broker.call("echo", event) == event


async def test_many_calls_at_a_time_each_get_their_own_answer(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        assert await asyncio.gather(*(broker.call("echo", number) for number in range(200))) == list(range(200))


async def test_large_events_and_results_go_through(broker: Broker, serve: Serve, desk: Desk) -> None:
    event = "x" * 5_000_000
    async with serve(desk.app):
        assert await broker.call("echo", event) == event
    assert not any(b":{parcel" in name for name in await names_under(broker.core, broker.core.keys.prefix))


async def test_a_failed_call_raises_lambdas_error_and_is_never_tried_again(
    broker: Broker, serve: Serve, desk: Desk
) -> None:
    async with serve(desk.app):
        with pytest.raises(FunctionError) as caught:
            await broker.call("fail", 7)
        await asyncio.sleep(0.02)
    error = caught.value
    assert (error.error_type, error.message) == ("ValueError", "no 7")
    assert "raise ValueError" in error.stack[-1]
    assert desk.seen == [error.request_id]


async def test_a_timeout_of_the_function_is_its_failure(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        with pytest.raises(FunctionError, match=r"Task timed out after 0\.05 seconds") as caught:
            await broker.call("brief", 1)
    assert caught.value.error_type == "Sandbox.Timedout"


async def test_an_event_that_does_not_decode_fails_by_name(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        assert await broker.call("order", {"id": 3}) == 3
        with pytest.raises(FunctionError, match="Unable to unmarshal input: Expected `int`, got `str`") as caught:
            await broker.call("order", {"id": "x"})
    assert caught.value.error_type == "Runtime.UnmarshalError"


async def test_an_answer_waits_for_a_caller_whose_subscription_is_lost(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(timeout=30)
    async def cut(event: int, context: Context) -> int:
        await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", "pubsub")
        return event

    async with serve(app):
        for number in range(5):
            assert await broker.call("cut", number, timeout=20) == number


async def test_a_result_that_is_too_large_fails_by_name(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function()
    def large(event: Any, context: Context) -> str:
        return "x" * 6_300_000

    async with serve(app):
        with pytest.raises(FunctionError) as caught:
            await broker.call("large", 1)
    assert caught.value.error_type == "Function.ResponseSizeTooLarge"


async def test_a_batch_handler_can_be_called_with_an_event_unless_it_takes_records(
    broker: Broker, serve: Serve
) -> None:
    app = App()

    @app.queue("orders")
    async def batch(event: dict[str, Any], context: Context) -> int:
        return len(event["Records"])

    async def records(event: list[Record[Order]], context: Context) -> None: ...

    app.queue("orders")(records)
    async with serve(app):
        assert await broker.call("batch", {"Records": [1, 2]}) == 2
        with pytest.raises(FunctionError, match="it cannot be given an event"):
            await broker.call("records", {})


# -- refusals ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_function_is_refused(broker: Broker, serve: Serve, desk: Desk) -> None:
    with pytest.raises(FunctionNotFound, match="nobody"):
        await broker.call("nobody", 1)
    async with serve(desk.app):
        with pytest.raises(FunctionNotFound, match="nobody"):
            await broker.call("nobody", 1)


async def test_without_a_live_worker_the_answer_comes_at_once(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        pass
    began = time.monotonic()
    with pytest.raises(NoLiveWorker, match='function "echo": no live worker serves it'):
        await broker.call("echo", 1, timeout=30)
    assert time.monotonic() - began < 1


async def test_a_worker_that_is_listed_but_dead_is_passed_over(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        listed = await broker.core.directory.live_workers()
    (serves,) = listed.values()
    for process in ("dead1", "dead2"):
        described = msgspec.json.encode({**msgspec.json.decode(serves), "process": process})
        await broker.core.directory.heartbeat(process, described, ttl_ms=20_000)
    began = time.monotonic()
    with pytest.raises(NoLiveWorker):
        await broker.call("echo", 1, timeout=30)
    assert time.monotonic() - began < 1
    async with serve(desk.app):
        assert [await broker.call("echo", number) for number in range(10)] == list(range(10))


async def test_the_limit_throttles_and_the_permit_comes_back(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        first = asyncio.create_task(broker.call("limited", 1))
        await eventually(lambda: desk.gauge.now, what="one runs")
        with pytest.raises(CallThrottled, match='function "limited": it is at its concurrency limit'):
            await broker.call("limited", 2)
        desk.gate.set()
        assert await first == "done"
        await empty(broker, "limited")
        assert await broker.call("limited", 3) == "done"


async def test_a_call_of_a_paused_function_is_throttled(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        await broker.function("echo").pause()
        with pytest.raises(CallThrottled, match="it is paused"):
            await broker.call("echo", 1)


async def test_a_worker_without_room_refuses_and_another_takes_it(broker: Broker, serve: Serve) -> None:
    full, free = Desk(), Desk()
    async with serve(full.app, max_calls=1), serve(free.app, max_calls=1):
        first = asyncio.create_task(broker.call("long", 1))
        await eventually(lambda: full.gauge.now + free.gauge.now, what="one is full")
        for number in range(10):
            assert await broker.call("echo", number) == number
        second = asyncio.create_task(broker.call("long", 1))
        await eventually(lambda: full.gauge.now + free.gauge.now == 2, what="both are full")
        with pytest.raises(CallThrottled, match="no worker takes it now: no room, or stopping"):
            await broker.call("echo", 1)
        full.gate.set()
        free.gate.set()
        assert await asyncio.gather(first, second) == [1, 1]  # type: ignore[comparison-overlap]  # typed as a tuple


@pytest.mark.parametrize(
    ("event", "error"),
    [({1, 2}, None), (b"{", PayloadNotJson), (object(), PayloadNotJson), ("x" * 6_291_456, PayloadTooLarge)],
)
async def test_a_bad_event_is_refused_before_anything_is_sent(
    broker: Broker, event: Any, error: type[Exception] | None
) -> None:
    with pytest.raises(error or FunctionNotFound):  # a set is an array in JSON
        await broker.call("echo", event)


@pytest.mark.parametrize("timeout", [0, -1, "1"])
async def test_a_bad_timeout_is_refused(broker: Broker, timeout: Any) -> None:
    with pytest.raises(InvalidOption, match="timeout="):
        await broker.call("echo", 1, timeout=timeout)


# -- callers that leave, workers that die -----------------------------------------------------------------------------


async def test_the_callers_deadline_ends_the_handler(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        with pytest.raises(CallTimeout, match=r'function "long" gave no answer within 0\.1 s'):
            await broker.call("long", 1, timeout=0.1)
        await asyncio.wait_for(desk.cancelled.wait(), 5)
        await empty(broker, "long")
    assert 0 < desk.seen[0] <= 100, "the context knows the caller's deadline"


async def test_a_caller_that_is_cancelled_ends_the_handler(broker: Broker, serve: Serve, desk: Desk) -> None:
    async with serve(desk.app):
        call = asyncio.create_task(broker.call("long", 1))
        await eventually(lambda: desk.gauge.now, what="it runs")
        call.cancel()
        await asyncio.wait_for(desk.cancelled.wait(), 5)


async def test_a_call_whose_caller_has_gone_before_its_payload_came_does_not_run(
    broker: Broker, serve: Serve, desk: Desk
) -> None:
    async with serve(desk.app) as worker:
        parcels = broker.core.parcels
        call = CallNotice(id="gone", function="echo", reply_to="nobody", timeout_ms=30_000)
        cancel = CallNotice(kind="cancel", id="gone")
        await parcels.put("gone", b"1", ttl_ms=10_000)
        inbox = parcels.inbox(worker.process)
        # In one transaction, so that they arrive together.
        commands = [("PUBLISH", inbox, msgspec.msgpack.encode(notice)) for notice in (call, cancel)]
        await in_transaction(broker.core.runner.link.client_for(inbox), commands)

        async def taken() -> bool:
            return await parcels.take("gone") is None

        await eventually(taken, what="the payload is fetched")
        assert await broker.call("echo", "next") == "next"
    assert "gone" not in desk.seen


async def test_a_call_whose_payload_has_expired_is_refused_not_run_with_nothing(
    broker: Broker, serve: Serve, desk: Desk
) -> None:
    caller = Caller(broker.core)
    await caller._inbox.listen()
    answers: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    caller._inbox.pending["expired"] = answers
    async with serve(desk.app) as worker:
        notice = CallNotice(id="expired", function="echo", reply_to=caller._inbox.process, timeout_ms=30_000)
        await broker.core.parcels.tell(worker.process, msgspec.msgpack.encode(notice))
        reply = await asyncio.wait_for(answers, 5)
    assert reply.refused == "the payload has expired before it was read"
    assert not desk.seen


async def test_a_stop_that_cannot_wait_answers_that_the_runtime_has_exited(
    broker: Broker, serve: Serve, desk: Desk
) -> None:
    async with serve(desk.app):
        call = asyncio.create_task(broker.call("long", 1))
        await eventually(lambda: desk.gauge.now, what="it runs")
    with pytest.raises(FunctionError) as caught:
        await call
    assert caught.value.error_type == "Runtime.ExitError"


async def test_a_plain_function_over_its_time_answers_and_keeps_its_permit(broker: Broker, serve: Serve) -> None:
    app, released = App(), threading.Event()

    @app.function(timeout=0.05, concurrency=1)
    def stuck(event: Any, context: Context) -> None:
        released.wait(30)

    async with serve(app, threads=8):
        with pytest.raises(FunctionError, match="Task timed out"):
            await broker.call("stuck", 1)
        with pytest.raises(CallThrottled):
            await broker.call("stuck", 2)
        released.set()
        await empty(broker, "stuck")


WORKER = """
import asyncio, sys
from broker.settings import Settings
from runtime import App, Worker
app = App()

@app.function(timeout=60)
async def dies(event, context):
    print("running", flush=True)
    await asyncio.sleep(60)

asyncio.run(Worker(app, sys.argv[1], settings=Settings(prefix=sys.argv[2], test_clock=True)).run())
"""


@pytest.fixture
def process(redis_url: str, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which can die."""
    path = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", WORKER, redis_url, settings.prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as child:
        yield child
        child.kill()


async def test_a_call_whose_worker_dies_hears_so_long_before_its_deadline(
    broker: Broker, process: subprocess.Popen[str]
) -> None:
    await eventually(broker.core.directory.live_workers, what="the process is there")
    await eventually(broker.functions, what="it has registered")

    async def call() -> None:
        while True:  # it is listed a moment before it listens
            try:
                await broker.call("dies", 1, timeout=60)
            except (NoLiveWorker, FunctionNotFound):
                await asyncio.sleep(0.02)

    running = asyncio.create_task(call())
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    while "running" not in line:
        line = await asyncio.to_thread(process.stdout.readline)
    began = time.monotonic()
    process.send_signal(signal.SIGKILL)
    with pytest.raises(FunctionError, match="Runtime exited without providing a reason") as caught:
        await running
    assert caught.value.error_type == "Runtime.ExitError"
    assert time.monotonic() - began < 5
