"""One call at a time: whatever a handler does, its call ends in an outcome, and its slot is given back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import pytest

from broker.records import FunctionSettings
from runtime.context import Context
from runtime.handlers import HandlerFunction
from runtime.invoker import Call, Invoker
from runtime.outcomes import Abandoned, Completed, Failed, Outcome, Throttled, TimedOut
from tests.runtime.scene import eventually

TIMEOUT_S = 0.05
LONG_S = 30.0


class Watched:
    """One call and what it told."""

    def __init__(self, handler: Callable[..., Any], timeout_s: float = LONG_S) -> None:
        settings = FunctionSettings(timeout_s=timeout_s)
        self.function = HandlerFunction(handler, name="watched", settings=settings)
        deadline = time.monotonic() + timeout_s
        context = Context(
            identity="req", function_name="watched", invoked_function_arn="", log_stream_name="", deadline=deadline
        )
        self.outcomes: list[Outcome | None] = []
        self.freed = 0
        self.call = Call(self.function, {"n": 1}, context, deadline, self._on_outcome, self._on_free, None)

    def _on_outcome(self, call: Call) -> None:
        self.outcomes.append(call.outcome)

    def _on_free(self, call: Call) -> None:
        self.freed += 1

    async def outcome(self) -> Outcome:
        await eventually(lambda: self.outcomes, what="an outcome")
        assert len(self.outcomes) == 1
        (found,) = self.outcomes
        assert found is not None
        return found

    async def end(self) -> Outcome:
        """The outcome, once the slot is free, too."""
        await eventually(lambda: self.freed, what="the slot is free")
        assert self.freed == 1
        return await self.outcome()


def run(handler: Callable[..., Any], timeout_s: float = LONG_S, *, invoker: Invoker | None = None) -> Watched:
    watched = Watched(handler, timeout_s)
    (invoker or Invoker(threads=4)).start(watched.call)
    return watched


def error_of(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Failed | TimedOut), outcome
    found: dict[str, Any] = msgspec.json.decode(outcome.error)
    return found


# -- results ----------------------------------------------------------------------------------------------------------


async def echo(event: Any, context: Context) -> Any:
    return [event, context.aws_request_id]


def echo_in_thread(event: Any, context: Context) -> Any:
    return [event, context.aws_request_id, threading.current_thread().name.startswith("penstock-handler")]


async def test_a_coroutine_and_a_plain_function_give_their_result_as_json() -> None:
    assert await run(echo).end() == Completed(b'[{"n":1},"req"]')
    assert await run(echo_in_thread).end() == Completed(b'[{"n":1},"req",true]')


@pytest.mark.parametrize("value", [{1, 2}, float, "\ud800"])
async def test_a_result_that_is_no_json_is_a_marshal_error(value: Any) -> None:
    async def handler(event: Any, context: Context) -> Any:
        return object() if value is float else value if isinstance(value, str) else (x for x in value)

    found = error_of(await run(handler).end())
    assert found["errorType"] == "Runtime.MarshalError"
    assert found["errorMessage"].startswith("Unable to marshal response: ")


async def test_a_result_over_the_limit_is_too_large() -> None:
    async def handler(event: Any, context: Context) -> str:
        return "x" * 6_291_555  # with its quotes one byte more than is allowed

    assert error_of(await run(handler).end()) == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        "requestId": "req",
    }


async def test_a_result_at_the_limit_is_fine() -> None:
    async def handler(event: Any, context: Context) -> str:
        return "x" * 6_291_554

    assert isinstance(await run(handler).end(), Completed)


# -- errors -----------------------------------------------------------------------------------------------------------


class Unprintable(Exception):
    """Its text ends the process of whoever asks for it."""

    def __str__(self) -> str:
        return str(sys.exit(9))


async def raise_on_loop(error: BaseException, event: Any, context: Context) -> None:
    await asyncio.sleep(0)
    raise error


def raise_in_thread(error: BaseException, event: Any, context: Context) -> None:
    raise error


@pytest.mark.parametrize("where", [raise_on_loop, raise_in_thread])
@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (KeyError("x"), "KeyError"),
        (SystemExit(3), "Runtime.ExitError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("leaked"), "CancelledError"),
        (ExceptionGroup("two", [ValueError(), TypeError()]), "ExceptionGroup"),
        (ValueError("half a pair: \ud800"), "ValueError"),
        (GeneratorExit("leaked"), "GeneratorExit"),
        (Unprintable(), "Unprintable"),
    ],
)
async def test_whatever_a_handler_raises_is_its_outcome(
    where: Callable[..., Any], error: BaseException, error_type: str
) -> None:
    found = error_of(await run(functools.partial(where, error)).end())
    assert found["errorType"] == error_type


async def test_the_stack_begins_in_the_handler() -> None:
    async def handler(event: Any, context: Context) -> None:
        raise ValueError

    (frame,) = error_of(await run(handler).end())["stackTrace"]
    assert f'File "{__file__}"' in frame


# -- timeouts ---------------------------------------------------------------------------------------------------------


async def sleeping(event: Any, context: Context) -> None:
    await asyncio.sleep(LONG_S)


async def swallowing(event: Any, context: Context) -> str:
    try:
        await asyncio.sleep(LONG_S)
    except asyncio.CancelledError:
        return "as if nothing had happened"
    return ""


async def turning(event: Any, context: Context) -> None:
    try:
        await asyncio.sleep(LONG_S)
    except asyncio.CancelledError as error:
        raise RuntimeError("cleaned up") from error


@pytest.mark.parametrize("handler", [sleeping, swallowing, turning])
async def test_a_coroutine_over_its_time_is_ended_and_timed_out_whatever_it_makes_of_it(
    handler: Callable[..., Any],
) -> None:
    found = error_of(await run(handler, TIMEOUT_S).end())
    assert found == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: req Error: Task timed out after 0.05 seconds",
        "requestId": "req",
    }


async def test_a_coroutine_that_goes_on_after_its_cancellation_is_settled_and_keeps_its_slot() -> None:
    released = asyncio.Event()

    async def handler(event: Any, context: Context) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    invoker = Invoker()
    watched = run(handler, TIMEOUT_S, invoker=invoker)
    assert isinstance(await watched.outcome(), TimedOut)
    assert (watched.freed, len(invoker.running), watched.call.stuck) == (0, 1, True)
    released.set()
    assert isinstance(await watched.end(), TimedOut)
    assert not invoker.running


async def test_a_plain_function_over_its_time_is_settled_and_keeps_its_slot_until_it_returns() -> None:
    released = threading.Event()

    def handler(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    invoker = Invoker(threads=4)
    watched = run(handler, TIMEOUT_S, invoker=invoker)
    assert isinstance(await watched.outcome(), TimedOut)
    assert (watched.freed, invoker.free_threads) == (0, 3)
    released.set()
    await watched.end()
    assert invoker.free_threads == 4


async def test_a_call_for_which_no_thread_can_be_had_goes_back_without_using_a_try() -> None:
    invoker = Invoker(threads=4)
    invoker.close()  # what an operating system out of threads answers, too
    watched = run(echo_in_thread, invoker=invoker)
    assert isinstance(await watched.end(), Throttled)
    assert invoker.free_threads == 4


async def test_too_many_that_do_not_stop_are_reported() -> None:
    released, reported = threading.Event(), asyncio.Event()

    def handler(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    invoker = Invoker(threads=4, on_exhausted=reported.set)
    first = run(handler, TIMEOUT_S, invoker=invoker)
    await first.outcome()
    assert not reported.is_set()
    second = run(handler, TIMEOUT_S, invoker=invoker)
    await second.outcome()
    assert reported.is_set()
    released.set()
    await first.end()
    await second.end()


async def test_what_waits_for_a_thread_does_not_run_after_its_time() -> None:
    released, ran = threading.Event(), []

    def blocker(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    invoker = Invoker(threads=1)
    first = run(blocker, invoker=invoker)
    second = run(lambda event, context: ran.append(1), TIMEOUT_S, invoker=invoker)
    assert isinstance(await second.outcome(), TimedOut)
    released.set()
    await first.end()
    await second.end()
    assert not ran


# -- abandoned calls --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [sleeping, turning])
async def test_an_abandoned_coroutine_is_ended_without_using_a_try(handler: Callable[..., Any]) -> None:
    invoker = Invoker()
    watched = run(handler, invoker=invoker)
    await asyncio.sleep(0)
    invoker.abandon(watched.call)
    assert await watched.end() == Abandoned()


async def test_a_call_that_is_abandoned_before_it_has_begun_ends_all_the_same() -> None:
    invoker = Invoker()
    watched = run(sleeping, invoker=invoker)
    invoker.abandon(watched.call)
    assert await watched.end() == Abandoned()
    assert not invoker.running


async def test_an_abandoned_call_that_has_its_result_keeps_it() -> None:
    invoker = Invoker()
    watched = run(swallowing, invoker=invoker)
    await asyncio.sleep(0)
    invoker.abandon(watched.call)
    assert isinstance(await watched.end(), Completed)


async def test_an_abandoned_plain_function_is_handed_back_at_once() -> None:
    released = threading.Event()

    def handler(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    invoker = Invoker(threads=4)
    watched = run(handler, invoker=invoker)
    invoker.abandon(watched.call)
    assert watched.outcomes == [Abandoned()]
    assert watched.freed == 0
    released.set()
    await watched.end()
    assert watched.outcomes == [Abandoned()]


async def test_ended_waits_for_those_that_stop_and_not_for_those_that_do_not() -> None:
    released = threading.Event()

    def stuck(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    invoker = Invoker(threads=4)
    first, second = run(sleeping, TIMEOUT_S, invoker=invoker), run(stuck, TIMEOUT_S, invoker=invoker)
    await asyncio.wait_for(invoker.ended(), 5)
    assert first.freed
    assert not second.freed
    released.set()
    await second.end()


async def test_whoever_waits_for_room_is_told_once_of_the_next_end() -> None:
    told: list[str] = []
    invoker = Invoker()
    first, second = run(sleeping, TIMEOUT_S, invoker=invoker), run(sleeping, 2 * TIMEOUT_S, invoker=invoker)
    invoker.when_freed(lambda: told.append("freed"))
    await first.end()
    assert told == ["freed"]
    await second.end()
    assert told == ["freed"]


# -- what surrounds a call --------------------------------------------------------------------------------------------

_request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="nobody's")


async def test_context_variables_of_a_call_are_its_own() -> None:
    async def sets(event: Any, context: Context) -> str:
        before = _request.get()
        _request.set("mine")
        await asyncio.sleep(0)
        return before

    def sets_in_thread(event: Any, context: Context) -> str:
        before = _request.get()
        _request.set("mine")
        return before

    token = _request.set("the worker's")
    try:
        for handler in (sets, sets, sets_in_thread, sets_in_thread):
            assert await run(handler).end() == Completed(b'"the worker\'s"')
        assert _request.get() == "the worker's"
    finally:
        _request.reset(token)


async def test_the_log_names_what_does_not_stop(logs: list[MutableMapping[str, Any]]) -> None:
    released = threading.Event()

    def handler(event: Any, context: Context) -> None:
        released.wait(LONG_S)

    watched = run(handler, TIMEOUT_S)
    await watched.outcome()
    assert [(line["event"], line["function"]) for line in logs] == [("handler_does_not_stop", "watched")]
    released.set()
    await watched.end()
