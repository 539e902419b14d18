"""Workers of several builds: who serves what, and who does not, while versions and aliases change under them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from broker import Broker
from broker.functions import change_function
from broker.records import FunctionSettings
from broker.store.channels import Listener
from broker.versions import align, read_catalogue
from broker.workers import live_workers
from runtime import App, Context
from tests.runtime.scene import Serve, eventually, lines, waiting
from tests.runtime.taken_over import TakeOver, take_over

__all__ = ["take_over"]


def build_app(build: str, seen: list[Any], **options: Any) -> App:
    app = App(build=build)

    async def orders(event: Any, context: Context) -> str:
        seen.append((event, context.function_version, context.attempt))
        if event == "fail":
            raise ValueError("no")
        return build

    app.function(timeout=20, **options)(orders)
    return app


async def served(broker: Broker, process: str) -> set[str]:
    workers = await live_workers(broker.core)
    return next((set(worker.functions) for worker in workers if worker.process == process), set())


async def test_workers_say_what_they_serve(broker: Broker, serve: Serve) -> None:
    async with serve(build_app("one", [])) as one:
        assert await served(broker, one.process) == {"orders"}
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        assert await served(broker, one.process) == {"orders", "orders:1", "orders:live"}
        async with serve(build_app("two", [])) as two:
            await broker.function("orders").publish()
            await broker.function("orders").set_alias("live", 1, weights={"2": 0.1})
            await eventually(lambda: _is(broker, one.process, {"orders:1", "orders:live"}))
            assert await served(broker, two.process) == {"orders", "orders:2", "orders:live+"}
            await broker.function("orders").set_alias("live", 2)
            assert await served(broker, two.process) == {"orders", "orders:2", "orders:live", "orders:live+"}
            await eventually(lambda: _is(broker, one.process, {"orders:1"}))
            await broker.function("orders:1").delete()
            await eventually(lambda: _is(broker, one.process, {"orders"}), what="it shares again, being no version")
        await eventually(lambda: _is(broker, one.process, {"orders"}))


async def test_a_worker_that_begins_to_serve_a_version_while_it_stops_does_not_come_back_into_the_directory(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    asked, let_go, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()
    app = build_app("one", seen)

    @app.function(timeout=20)
    async def long(event: Any, context: Context) -> None:
        seen.append(event)
        await finished.wait()

    async with serve(app) as worker:
        listen = worker._engine.core.channels.listen

        async def slow(listeners: Mapping[str, Listener]) -> None:
            asked.set()
            await let_go.wait()
            await listen(listeners)

        await broker.invoke("long", 1)
        await eventually(lambda: seen, what="it has something to do until its end")
        monkeypatch.setattr(worker._engine.core.channels, "listen", slow)
        publishing = asyncio.create_task(broker.function("orders").publish())
        await asyncio.wait_for(asked.wait(), 10)
        worker.stop()
        await eventually(lambda: _is_there(broker, worker.process, there=False), what="it has left the directory")
        let_go.set()
        await eventually(lambda: lines(logs, "served_changed"), what="it serves the version as well")
        await publishing
        assert await _is_there(broker, worker.process, there=False)
        finished.set()


async def _is_there(broker: Broker, process: str, *, there: bool) -> bool:
    return (process in await broker.core.directory.live_workers()) == there


async def _is(broker: Broker, process: str, names: set[str]) -> bool:
    return await served(broker, process) == names


async def test_builds_that_are_no_versions_share_the_work_as_ever(broker: Broker, serve: Serve) -> None:
    one, two = list[Any](), list[Any]()
    async with serve(build_app("one", one)) as first, serve(build_app("two", two)) as second:
        assert await served(broker, first.process) == await served(broker, second.process) == {"orders"}
        for _ in range(60):
            await broker.call("orders", 1, timeout=10)
        assert one
        assert two


async def test_a_retry_runs_the_version_that_the_alias_names_by_then(broker: Broker, serve: Serve) -> None:
    one, two = list[Any](), list[Any]()
    async with serve(build_app("one", one, retry_delays=(0.2,))), serve(build_app("two", two, retry_delays=(0.2,))):
        await _versions(broker, "one", "two")
        await broker.function("orders").set_alias("live", 1)
        await broker.invoke("orders:live", "fail")
        await eventually(lambda: one, what="the first try")
        await waiting(broker, "orders:live")
        await broker.function("orders").set_alias("live", 2)
        await eventually(lambda: len(two) == 2, what="the others")
    assert one == [("fail", "1", 1)]
    assert two == [("fail", "2", 2), ("fail", "2", 3)]


async def _versions(broker: Broker, *builds: str) -> None:
    """Versions of builds that are live, in this order, whichever was registered last."""
    resource = broker.core.resource("function", "orders")
    for build in builds:
        stored = await broker.function("orders").settings()
        await configure(broker, resource.name, stored, build=build)
        await broker.function("orders").publish()


async def test_what_was_claimed_for_an_alias_that_has_moved_on_is_given_back(broker: Broker, serve: Serve) -> None:
    seen: list[Any] = []
    async with serve(build_app("one", seen)) as one:
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        # The settings tell of another build, and nobody has told the worker to look at the versions.
        catalogue = await read_catalogue(broker.core, "orders")
        settings = catalogue.settings_of("live", await broker.function("orders").settings())
        await configure(broker, "orders:live", settings, build="two")
        await broker.invoke("orders:live", "not for it")
        for number in range(20):
            await broker.call("orders", number, timeout=10)
        assert "orders:live" in await served(broker, one.process)
        assert (await broker.function("orders:live").counts()).total == 1
        assert "not for it" not in [event for event, _, _ in seen]
        await align(broker.core, "orders")
        await eventually(lambda: ("not for it", "1", 1) in seen, what="it runs when the alias is its own again")


async def configure(broker: Broker, name: str, settings: FunctionSettings, **changes: Any) -> None:
    """Changes what is stored of a function, as nobody else would."""
    encoded = msgspec.json.encode(replace(settings, **changes))
    await broker.core.directory.configure(broker.core.resource("function", name), encoded, {}, mode="replace")


WHOSE = """
import os
AT_IMPORT = [os.environ["AWS_LAMBDA_FUNCTION_VERSION"], os.environ.get("TABLE")]

def handler(event, context):
    return [AT_IMPORT, context.function_version, context.environment.get("TABLE")]
"""


async def test_an_existing_handler_of_an_older_build_has_the_variables_of_its_version(
    broker: Broker, serve: Serve, take_over: TakeOver
) -> None:
    async with take_over("app.handler", WHOSE, "--build", "old"):
        resource = broker.core.resource("function", "orders")
        await change_function(broker.core, resource, lambda stored: replace(stored, environment={"TABLE": "old"}))
        await broker.function("orders").publish()
    async with serve(build_app("new", [], environment={"TABLE": "new"})):
        await broker.function("orders").publish()
        async with take_over("app.handler", WHOSE, PENSTOCK_BUILD="old"):
            assert await broker.call("orders:1", {}, timeout=10) == [["1", "old"], "1", "old"]
            assert await broker.call("orders", {}, timeout=10) == "new"
