"""Handlers under `idempotent`: one effect for a key, whoever calls, however often, whatever dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Literal, TypeAlias, get_args

import msgspec
import pytest

from broker import Broker, FunctionError
from broker.errors import InvalidOption, PenstockError
from broker.settings import Settings
from runtime import App, Context
from runtime.idempotency import idempotent
from tests.cli.shell import Shell
from tests.cli.shell import eventually as eventually_elsewhere
from tests.conftest import Clock
from tests.runtime.scene import Serve, empty, eventually, lines, serving
from tests.runtime.taken_over import TakeOver, take_over
from tests.store.audit import names_under

__all__ = ["take_over"]

Place: TypeAlias = Literal["loop", "thread"]
ORDER = {"order": {"id": "o-1", "items": [{"sku": "a"}]}, "cents": 5}


class Till:
    """A handler that notes what it charges; in a thread where it is told so."""

    def __init__(self, *, place: Place, **options: Any) -> None:
        self.app = App()
        self.charged: list[Any] = []
        self.fails: list[BaseException] = []
        self.gate, self.open = asyncio.Event(), threading.Event()
        self.options = options
        make = self._plain() if place == "thread" else self._coroutine()
        self.app.function(name="charge", timeout=20, retries=0)(make)

    def _charge(self, event: Any) -> Any:
        self.charged.append(event)
        if self.fails:
            raise self.fails.pop()
        return {"number": len(self.charged)}

    def _coroutine(self) -> Callable[..., Any]:
        @idempotent(**self.options)
        async def charge(event: Any, context: Context) -> Any:
            if event.get("waits"):
                await self.gate.wait()
            return self._charge(event)

        return charge

    def _plain(self) -> Callable[..., Any]:
        @idempotent(**self.options)
        def charge(event: Any, context: Context) -> Any:
            if event.get("waits"):
                self.open.wait(20)
            return self._charge(event)

        return charge

    def let_go(self) -> None:
        self.gate.set()
        self.open.set()


@pytest.fixture(params=get_args(Place))
def place(request: pytest.FixtureRequest) -> Place:
    """Where the handler runs: a coroutine or a plain function."""
    found: Place = request.param
    return found


async def call(broker: Broker, event: Any) -> Any:
    return await broker.call("charge", event, timeout=10)


async def failing(broker: Broker, event: Any) -> str:
    with pytest.raises(FunctionError) as error:
        await call(broker, event)
    return str(error.value)


async def test_a_second_call_with_the_same_event_gets_the_first_one_s_result(
    broker: Broker, serve: Serve, place: Place
) -> None:
    till = Till(place=place)
    async with serve(till.app):
        assert await call(broker, {"a": 1, "b": 2}) == {"number": 1}
        assert await call(broker, {"b": 2, "a": 1}) == {"number": 1}
        assert await call(broker, {"a": 1}) == {"number": 2}
    assert len(till.charged) == 2


@pytest.mark.parametrize("key", ["order.id", "order.items.0.sku", lambda event: [event["order"]["id"], 1]])
async def test_the_key_is_a_part_of_the_event(broker: Broker, serve: Serve, key: Any) -> None:
    till = Till(place="loop", key=key, payload="cents")
    async with serve(till.app):
        assert await call(broker, ORDER) == {"number": 1}
        assert await call(broker, {**ORDER, "sent": "later"}) == {"number": 1}


async def test_a_key_that_is_not_there_is_named(broker: Broker, serve: Serve) -> None:
    till = Till(place="loop", key="order.items.3.sku")
    async with serve(till.app):
        said = await failing(broker, ORDER)
        assert said == "IdempotencyKeyMissing: charge: the event has nothing at order.items.3.sku"
    assert not till.charged


async def test_another_payload_under_the_same_key_is_refused(broker: Broker, serve: Serve, place: Place) -> None:
    till = Till(place=place, key="order.id")
    async with serve(till.app):
        await call(broker, ORDER)
        said = await failing(broker, {**ORDER, "cents": 6})
        assert said == "IdempotencyPayloadChanged: charge, key 'o-1': it was used with another payload"
    assert len(till.charged) == 1


async def test_of_many_at_once_one_runs_and_the_others_hear_that_it_does(
    broker: Broker, serve: Serve, place: Place
) -> None:
    till = Till(place=place, key="id", payload="id")
    event = {"id": 1, "waits": True}
    async with serve(till.app), serve(till.app):
        calls = [asyncio.ensure_future(call(broker, event)) for _ in range(12)]

        async def the_others_have_failed() -> bool:
            return sum(waiting.done() for waiting in calls) == 11

        await eventually(the_others_have_failed)
        till.let_go()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, FunctionError)]
        assert {answer.error_type for answer in refused} == {"IdempotencyInProgress"}
        assert [answer for answer in answers if not isinstance(answer, FunctionError)] == [{"number": 1}]
        assert await call(broker, event) == {"number": 1}
    assert len(till.charged) == 1


async def test_events_in_progress_are_tried_again_by_lambda_s_rules(broker: Broker, serve: Serve) -> None:
    app, gate, charged = App(), asyncio.Event(), list[int]()

    @app.function(retries=3, retry_delays=(0,))
    @idempotent(key="id")
    async def charge(event: dict[str, Any], context: Context) -> None:
        charged.append(event["id"])
        gate.set()

    async with serve(app):
        await broker.invoke_many("charge", [{"id": 1}, {"id": 1}, {"id": 2}])
        await empty(broker, "charge")
    assert sorted(charged) == [1, 2]


@pytest.mark.parametrize("error", [ValueError("declined"), SystemExit(3), KeyboardInterrupt()])
async def test_a_first_run_that_fails_frees_the_key(
    broker: Broker, serve: Serve, place: Place, error: BaseException
) -> None:
    till = Till(place=place)
    till.fails.append(error)
    async with serve(till.app):
        await failing(broker, {"a": 1})
        assert await call(broker, {"a": 1}) == {"number": 2}


async def test_a_cancelled_run_frees_the_key(broker: Broker, serve: Serve) -> None:
    app, runs = App(), list[int]()

    @app.function(timeout=0.2)
    @idempotent()
    async def charge(event: Any, context: Context) -> int:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.sleep(30)
        return len(runs)

    async with serve(app):
        assert "Sandbox.Timedout" in await failing(broker, {})

        async def free() -> bool:
            with suppress(FunctionError):
                return bool(await call(broker, {}) == 2)
            return False

        await eventually(free)


async def test_a_result_is_forgotten_when_its_time_is_over(broker: Broker, serve: Serve, clock: Clock) -> None:
    till = Till(place="loop", expires=60)
    async with serve(till.app):
        assert await call(broker, {}) == {"number": 1}
        await clock.advance(59)
        assert await call(broker, {}) == {"number": 1}
        await clock.advance(2)
        assert await call(broker, {}) == {"number": 2}


async def test_a_result_that_is_too_large_is_told_of_and_does_not_run_again(
    broker: Broker, serve: Serve, place: Place, logs: list[MutableMapping[str, Any]]
) -> None:
    till = Till(place=place, max_result_bytes=5)
    async with serve(till.app):
        assert await call(broker, {}) == {"number": 1}
        said = await failing(broker, {})
        assert said.startswith("IdempotencyResultTooLarge: charge, key of the whole event: its result had 12 bytes")
    assert len(till.charged) == 1
    (line,) = lines(logs, "idempotent_result_too_large")
    assert (line["function"], line["size"]) == ("charge", 12)


async def test_a_result_that_is_no_json_frees_the_key(broker: Broker, serve: Serve) -> None:
    app, runs = App(), list[int]()

    @app.function()
    @idempotent()
    async def charge(event: Any, context: Context) -> Any:
        runs.append(1)
        return object() if len(runs) == 1 else "fine"

    async with serve(app):
        assert "not JSON" in await failing(broker, {})
        assert await call(broker, {}) == "fine"


async def test_the_lease_is_renewed_while_the_handler_runs(
    broker: Broker, redis_url: str, settings: Settings, place: Place
) -> None:
    till = Till(place=place, key="id", payload="id")
    async with serving(till.app, redis_url, msgspec.structs.replace(settings, lease_ms=1_000)):
        first = asyncio.ensure_future(call(broker, {"id": 1, "waits": True}))
        begun = f"{broker.core.keys.of(broker.core.resource('function', 'charge')).base}once"
        (key,) = await eventually(lambda: names_under(broker.core, begun))
        before = await broker.core.runner.fetch("HGET", key, "until")

        async def renewed() -> bool:
            return bool(await broker.core.runner.fetch("HGET", key, "until") > before)

        await eventually(renewed)
        till.let_go()
        assert await first == {"number": 1}


KILLED = """
import os, pathlib, signal
from runtime.idempotency import idempotent

@idempotent(key="id")
def handler(event, context):
    runs = pathlib.Path("runs")
    with runs.open("a") as file:
        file.write("run\\n")
    if len(runs.read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(runs.read_text().splitlines())
"""


async def test_after_a_worker_was_killed_the_next_try_runs_when_the_lease_is_over(
    broker: Broker, take_over: TakeOver, clock: Clock, redis_url: str, settings: Settings
) -> None:
    async with take_over("app.handler", KILLED) as running:
        await broker.invoke("orders", {"id": 1})
        runs = running.folder / "runs"

        async def died() -> bool:
            return "worker_died" in running.err

        await eventually_elsewhere(died)
        shell = Shell(running.folder, url=redis_url, settings=settings)
        with_lease = await shell.run("call", "orders", '{"id": 1}', status=None)
        while "no room" in with_lease.err or "live worker" in with_lease.err:  # the next process is on its way
            with_lease = await shell.run("call", "orders", '{"id": 1}', status=None)
        assert "IdempotencyInProgress" in with_lease.out
        await clock.advance(25)  # the lease has 20 s

        async def ran_again() -> bool:
            return runs.read_text().splitlines() == ["run", "run"]

        await eventually_elsewhere(ran_again)
        await empty(broker, "orders")

        async def answered() -> str:  # by a worker that may just be taken for dead: the clock has moved
            return (await shell.run("call", "orders", '{"id": 1}', status=None)).out

        assert await eventually_elsewhere(answered) == "2\n"
        assert runs.read_text() == "run\nrun\n"


async def test_a_record_of_a_batch_runs_once_too(broker: Broker, serve: Serve) -> None:
    app, charged = App(), list[Any]()

    @idempotent(key="id")
    async def charge(order: dict[str, Any], context: Context) -> None:
        charged.append(order["id"])

    @app.queue("orders")
    async def charge_all(event: dict[str, Any], context: Context) -> None:
        for record in event["Records"]:
            await charge({"id": record["body"]}, context)

    async with serve(app):
        await broker.queue("orders").send_many(["1", "2", "1"])

        async def done() -> bool:
            counts = await broker.queue("orders").counts()
            return (counts.visible, counts.in_flight) == (0, 0)

        await eventually(done)
    assert sorted(charged) == ["1", "2"]


async def test_a_plain_function_must_not_block_the_loop(broker: Broker, serve: Serve) -> None:
    app = App()

    @idempotent()
    def inner(event: Any, context: Context) -> None:
        raise AssertionError

    @app.function()
    async def charge(event: Any, context: Context) -> None:
        inner(event, context)

    async with serve(app):
        assert "inner is no coroutine function and would block the event loop" in await failing(broker, {})


async def test_outside_a_worker_the_handler_itself_is_what_tests_call() -> None:
    @idempotent()
    async def charge(event: Any, context: Any) -> str:
        return "charged"

    with pytest.raises(PenstockError, match=r"charge runs idempotently in a worker only.*__wrapped__"):
        await charge({}, None)
    assert await charge.__wrapped__({}, None) == "charged"  # type: ignore[attr-defined]  # functools.wraps adds it


@pytest.mark.parametrize("options", [{"key": ""}, {"key": 6}, {"expires": 0}, {"max_result_bytes": -1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        idempotent(**options)
