"""Handlers that do what no one should: caller and record hear of it by name, and whoever runs beside goes on.

What ends or stops a whole process is in tests/faults: os._exit, signals, a blocked loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

import pytest

from broker import Broker, FunctionError, Queue
from runtime import App, Context
from tests.runtime.scene import Neighbour, Serve, empty, eventually, lines, received

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


async def exits_with_true(event: Any, context: Context) -> None:
    sys.exit(True)  # noqa: FBT003 - whoever does this means 1


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


async def answers_too_much(event: Any, context: Context) -> str:
    return "x" * 6_291_555  # with its quotes one byte over the limit


async def swallows_for_ever(event: Any, context: Context) -> None:
    done = time.monotonic() + 4
    while time.monotonic() < done:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(4)


MISDEEDS: list[tuple[Callable[..., Any], str, str]] = [
    (raises_on_loop, "Own", "mine"),
    (raises_in_thread, "Own", "mine"),
    (exits_on_loop, "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 3"),
    (exits_in_thread, "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 1"),
    (exits_with_true, "Runtime.ExitError", "RequestId: {id} Error: Runtime exited with error: exit status 1"),
    (swallows, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 0.50 seconds"),
    (sleeps_on, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 0.50 seconds"),
    (answers_no_json, "Runtime.MarshalError", "Unable to marshal response: "),
    (answers_too_much, "Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed payload size"),
    (swallows_for_ever, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 0.50 seconds"),
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
    app = App()
    neighbour = Neighbour(app)
    app.function(name="bad", timeout=0.5, retries=0, on_failure=Queue("failed"))(misdeed)
    app.queue("orders", name="bad_batch", timeout=0.5)(misdeed)

    async with serve(app):
        neighbour.begin(broker)
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
        await broker.queue("orders").send_many(["a", "b"])
        (said,) = await eventually(lambda: lines(logs, "batch_failed"), what="the batch has failed")
        assert (said["function"], said["error_type"]) == ("bad_batch", error_type)
        assert said["failed"] == said["messages"]
        await neighbour.end()


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

    @app.queue("orders")
    async def batch(event: Any, context: Context) -> str:
        return await on_loop(event, context)

    async with serve(app):
        answers = await asyncio.gather(*(broker.call(name, {}, timeout=10) for name in ("on_loop", "in_thread")))
        assert answers == ["printed", "printed"]
        await broker.invoke("on_loop", {})
        await empty(broker, "on_loop")
        await broker.queue("orders").send("a")

        async def taken() -> bool:
            return (await broker.queue("orders").counts()).total == 0

        await eventually(taken, what="the batch is done")
    printed = [line for line in capsys.readouterr().out.splitlines() if set(line) in ({"x"}, {"y"})]
    assert sorted(map(len, printed)) == [*[1_023] * 1_024, *[MEGABYTE] * 3]


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


@pytest.mark.parametrize("size", [6_291_554, 6_291_555])
async def test_six_megabytes_come_back_and_one_byte_more_does_not(broker: Broker, serve: Serve, size: int) -> None:
    """Two bytes are the quotes of the JSON text; the limit is that of Lambda's runtime, 6,291,556."""
    app = App()

    @app.function(timeout=20)
    async def answers(event: int, context: Context) -> str:
        return "x" * event

    async with serve(app):
        if size == 6_291_554:
            assert await broker.call("answers", size, timeout=20) == "x" * size
        else:
            with pytest.raises(FunctionError) as error:
                await broker.call("answers", size, timeout=20)
            assert error.value.error_type == "Function.ResponseSizeTooLarge"
            assert error.value.message == "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
        assert await broker.call("answers", 3, timeout=20) == "xxx"


@pytest.mark.parametrize("way", ["call", "batch"])
async def test_a_handler_that_blocks_the_loop_is_named_with_its_stack_and_the_others_come_after_it(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]], way: str
) -> None:
    app = App()

    async def blocks(event: Any, context: Context) -> str:
        time.sleep(2.6)  # noqa: ASYNC251 - the misdeed
        return "done"

    app.function(timeout=30)(blocks)
    app.queue("orders", name="blocks_batch", timeout=30)(blocks)

    @app.function(timeout=30)
    async def neighbour(event: Any, context: Context) -> str:
        await asyncio.sleep(0)
        return "unharmed"

    async with serve(app):
        if way == "call":
            assert await broker.call("blocks", {}, timeout=20) == "done"
        else:
            await broker.queue("orders").send("a")
        await eventually(lambda: lines(logs, "loop_unblocked"), what="it goes on", timeout_s=20)
        assert await broker.call("neighbour", {}, timeout=20) == "unharmed"
    (line,) = lines(logs, "loop_blocked")
    assert line["function"] == ("blocks" if way == "call" else "blocks_batch")
    assert "time.sleep(2.6)" in line["stack"]
    assert not lines(logs, "leases_lost")
