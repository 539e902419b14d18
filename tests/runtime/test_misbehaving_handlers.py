"""Handlers that do what no one should: caller and record hear of it by name, and whoever runs beside goes on.

What ends or stops a whole process is in tests/faults: os._exit, signals, a blocked loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from broker import Broker, FunctionError, Queue
from runtime import App, Context
from tests.runtime.scene import Serve, empty, eventually, lines, received

MEGABYTE = 1_048_576


class Own(BaseException):
    """Not even an Exception."""


async def raises_on_loop(event: Any, context: Context) -> None:
    raise Own("mine")


def raises_in_thread(event: Any, context: Context) -> None:
    raise Own("mine")


async def exits_on_loop(event: Any, context: Context) -> None:
    sys.exit(3)


def exits_in_thread(event: Any, context: Context) -> None:
    sys.exit("no status but a text")


async def swallows(event: Any, context: Context) -> str:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return "as if nothing had happened"
    return ""


def sleeps_on(event: Any, context: Context) -> None:
    time.sleep(1.5)


async def answers_no_json(event: Any, context: Context) -> object:
    return object()


MISDEEDS: list[tuple[Callable[..., Any], str, str]] = [
    (raises_on_loop, "Own", "mine"),
    (raises_in_thread, "Own", "mine"),
    (exits_on_loop, "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 3"),
    (exits_in_thread, "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 1"),
    (swallows, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 0.50 seconds"),
    (sleeps_on, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 0.50 seconds"),
    (answers_no_json, "Runtime.MarshalError", "Unable to marshal response: "),
]


@pytest.mark.parametrize(
    ("misdeed", "error_type", "message"), MISDEEDS, ids=[misdeed.__name__ for misdeed, *_ in MISDEEDS]
)
async def test_caller_and_record_hear_of_it_and_others_go_on(
    broker: Broker,
    serve: Serve,
    logs: list[MutableMapping[str, Any]],
    misdeed: Callable[..., Any],
    error_type: str,
    message: str,
) -> None:
    app, gate = App(), asyncio.Event()
    app.function(name="bad", timeout=0.5, retries=0, on_failure=Queue("failed"))(misdeed)

    @app.function(timeout=20)
    async def neighbour(event: Any, context: Context) -> str:
        await gate.wait()
        return "unharmed"

    async with serve(app):
        beside = asyncio.ensure_future(broker.call("neighbour", {}, timeout=20))
        with pytest.raises(FunctionError) as error:
            await broker.call("bad", {}, timeout=10)
        assert error.value.error_type == error_type
        assert error.value.message.startswith(message.format(id=error.value.request_id))
        request_id = await broker.invoke("bad", {"n": 1})
        (record,) = await received(broker, "failed")
        payload = record.json()["responsePayload"]
        assert (payload["errorType"], payload["requestId"]) == (error_type, request_id)
        assert payload["errorMessage"].startswith(message.format(id=request_id))
        assert [line["error_type"] for line in lines(logs, "call_failed")] == [error_type]
        (said,) = lines(logs, "event_failed")
        assert (said["function"], said["error_type"]) == ("bad", error_type)
        gate.set()
        assert await beside == "unharmed"


async def test_a_megabyte_of_print_goes_to_standard_output_and_no_further(
    broker: Broker, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App()

    @app.function()
    async def on_loop(event: Any, context: Context) -> str:
        print("x" * MEGABYTE)
        return "printed"

    @app.function()
    def in_thread(event: Any, context: Context) -> str:
        for _ in range(1_024):
            print("y" * 1_023)
        return "printed"

    async with serve(app):
        answers = await asyncio.gather(*(broker.call(name, {}, timeout=10) for name in ("on_loop", "in_thread")))
        assert answers == ["printed", "printed"]
        await broker.invoke("on_loop", {})
        await empty(broker, "on_loop")
    printed = [line for line in capsys.readouterr().out.splitlines() if set(line) in ({"x"}, {"y"})]
    assert sorted(map(len, printed)) == [*[1_023] * 1_024, MEGABYTE, MEGABYTE]


@pytest.mark.parametrize("answer", [6, "six", [6], {"batchItemFailures": 6}, {"batchItemFailures": [6]}])
async def test_a_batch_handler_that_returns_six_has_failed_all_of_its_batch(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]], answer: object
) -> None:
    app = App()

    @app.queue("orders", partial_failures=True)
    async def place(event: dict[str, Any], context: Context) -> object:
        return answer

    @app.queue("others")
    async def others(event: dict[str, Any], context: Context) -> object:
        return 6

    async with serve(app):
        for queue in ("orders", "others"):
            await broker.queue(queue).send_many(["a", "b"])

        async def settled() -> bool:
            counts = [await broker.queue(queue).counts() for queue in ("orders", "others")]
            return [(c.visible, c.in_flight, c.retrying) for c in counts] == [(0, 0, 2), (0, 0, 0)]

        await eventually(settled)
        assert {line["function"] for line in lines(logs, "batch_failed")} == {"place"}
        assert all(line["problem"] for line in lines(logs, "batch_failed"))


async def test_a_call_that_returns_six_has_succeeded(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function()
    async def six(event: Any, context: Context) -> int:
        return 6

    async with serve(app):
        assert await broker.call("six", {}, timeout=10) == 6


async def test_tasks_that_are_left_behind_neither_hold_their_call_nor_the_worker(
    broker: Broker, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app, left = App(), list[asyncio.Task[None]]()

    async def goes_on() -> None:
        await asyncio.sleep(60)

    async def fails_later() -> None:
        raise ValueError("left behind")

    @app.function(timeout=5)
    async def leaves(event: Any, context: Context) -> str:
        left.append(asyncio.create_task(goes_on()))
        asyncio.create_task(fails_later(), name="left by leaves")  # noqa: RUF006 - the misdeed
        return "done"

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        async with serve(app):
            for _ in range(3):
                assert await broker.call("leaves", {}, timeout=5) == "done"
            await broker.invoke("leaves", {})
            await empty(broker, "leaves")
        assert [task.done() for task in left] == [False] * 4
        await eventually(lambda: len(caplog.records) == 4)
    for record in caplog.records:
        assert "Task exception was never retrieved" in record.getMessage()
        assert "left by leaves" in record.getMessage()
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
