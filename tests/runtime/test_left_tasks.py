"""Tasks that handlers start and leave behind: told by the function's name, ended at a stop, harmless to all others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker import Broker, FunctionError, Queue
from runtime import App, Context
from runtime import left_tasks as module
from tests.runtime.scene import Neighbour, Serve, empty, eventually, lines, received

Logs = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)


async def for_ever() -> None:
    await asyncio.sleep(600)


class Leaving:
    """A function and a batch handler that leave one task behind at each call, and a neighbour."""

    def __init__(self, work: Callable[[], Any] = for_ever) -> None:
        self.app = App()
        self.left: list[asyncio.Task[Any]] = []
        self._work = work
        self.app.function(timeout=5, on_success=Queue("done"))(self.leaves)
        self.app.queue("orders", timeout=5)(self.takes)
        self.app.function()(self.neighbour)

    async def leaves(self, event: Any, context: Context) -> str:
        return await self._leave()

    async def takes(self, event: Any, context: Context) -> str:
        return await self._leave()

    async def neighbour(self, event: Any, context: Context) -> str:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return "unharmed"

    async def _leave(self) -> str:
        await asyncio.sleep(0)  # not in its first step
        self.left.append(asyncio.create_task(self._work(), name="straggler"))
        return "done"


@asynccontextmanager
async def leaving(broker: Broker, serve: Serve, shop: Leaving, calls: int = 1) -> AsyncIterator[None]:
    """With the worker, after so many synchronous calls, one event and one batch."""
    async with serve(shop.app):
        for _ in range(calls):
            assert await broker.call("leaves", {}, timeout=5) == "done"
        await broker.invoke("leaves", {})
        await received(broker, "done")
        await broker.queue("orders").send("x")
        await eventually(lambda: len(shop.left) == calls + 2, what="the batch")
        await empty(broker, "leaves")
        assert await broker.call("neighbour", {}, timeout=5) == "unharmed"
        yield


async def test_they_hold_neither_call_nor_event_nor_batch_and_the_log_names_their_functions(
    broker: Broker, serve: Serve, logs: Logs
) -> None:
    shop = Leaving()
    async with leaving(broker, serve, shop):
        await eventually(lambda: len({line["function"] for line in lines(logs, "tasks_left_behind")}) == 2)
        assert [task.done() for task in shop.left] == [False] * 3
    said = {line["function"]: line for line in lines(logs, "tasks_left_behind")}
    assert said.keys() == {"leaves", "takes"}
    assert (said["takes"]["tasks"], said["takes"]["oldest"]) == (1, "straggler")
    ended = {line["function"]: (line["tasks"], line["going_on"]) for line in lines(logs, "left_tasks_ended")}
    assert ended == {"leaves": (2, 0), "takes": (1, 0)}
    assert [task.cancelled() for task in shop.left] == [True] * 3


async def test_they_are_told_again_only_when_they_are_twice_as_many(broker: Broker, serve: Serve, logs: Logs) -> None:
    shop = Leaving()
    async with serve(shop.app):
        for number in range(1, 10):
            await broker.call("leaves", {}, timeout=5)
            told = [count for count in (1, 2, 4, 8) if count <= number]
            await eventually(lambda: len(lines(logs, "tasks_left_behind")) >= len(told))  # noqa: B023 - at once
    assert [line["tasks"] for line in lines(logs, "tasks_left_behind")] == [1, 2, 4, 8]


async def test_what_ends_soon_is_not_told(broker: Broker, serve: Serve, logs: Logs) -> None:
    async def brief() -> None:
        await asyncio.sleep(0)

    shop = Leaving(brief)
    async with leaving(broker, serve, shop, calls=5):
        await eventually(lambda: all(task.done() for task in shop.left))
        await asyncio.sleep(0.05)  # the look, which must find nothing
    assert not lines(logs, "tasks_left_behind")
    assert not lines(logs, "left_tasks_ended")


async def fails_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("left behind")


async def exits_later() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def breaks_later() -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("work", "error_type"),
    [(fails_later, "ValueError"), (exits_later, "Runtime.ExitError"), (breaks_later, "Runtime.ExitError")],
)
async def test_what_they_end_with_is_told_by_the_name_of_their_function(
    broker: Broker, serve: Serve, logs: Logs, work: Callable[[], Any], error_type: str
) -> None:
    shop = Leaving(work)
    async with leaving(broker, serve, shop):
        await eventually(lambda: len(lines(logs, "left_task_failed")) == 3, what="all three are told")
    said = lines(logs, "left_task_failed")
    assert sorted(line["function"] for line in said) == ["leaves", "leaves", "takes"]
    assert {(line["task"], line["error_type"]) for line in said} == {("straggler", error_type)}


@pytest.mark.parametrize("first_step", [True, False])
async def test_an_exit_in_a_task_that_is_waited_for_fails_its_call_and_no_other(
    broker: Broker,
    serve: Serve,
    first_step: bool,  # noqa: FBT001 - a table
) -> None:
    app = App()
    neighbour = Neighbour(app)

    @app.function(timeout=5)
    async def exits(event: Any, context: Context) -> None:
        if not first_step:
            await asyncio.sleep(0)
        await asyncio.gather(exits_later(), for_ever())

    async with serve(app):
        neighbour.begin(broker)
        with pytest.raises(FunctionError, match="Runtime exited with error: exit status 3") as error:
            await broker.call("exits", {}, timeout=5)
        assert error.value.error_type == "Runtime.ExitError"
        await neighbour.end()


async def test_tasks_of_tasks_count_too(broker: Broker, serve: Serve, logs: Logs) -> None:
    async def starts_another() -> None:
        await asyncio.sleep(0)
        kept.append(asyncio.create_task(for_ever(), name="grandchild"))

    kept: list[Any] = []
    shop = Leaving(starts_another)
    async with serve(shop.app):
        await broker.call("leaves", {}, timeout=5)
        await eventually(lambda: kept)
        assert await broker.call("neighbour", {}, timeout=5) == "unharmed"
    assert kept[0].cancelled()


async def test_one_that_does_not_stop_does_not_hold_the_worker(broker: Broker, serve: Serve, logs: Logs) -> None:
    released = asyncio.Event()

    async def swallows() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    shop = Leaving(swallows)
    async with serve(shop.app):
        await broker.call("leaves", {}, timeout=5)
    (line,) = lines(logs, "left_tasks_ended")
    assert (line["function"], line["tasks"], line["going_on"]) == ("leaves", 1, 1)
    released.set()
    await shop.left[0]


async def test_the_loop_gets_its_own_way_of_making_tasks_back(serve: Serve, broker: Broker) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    async with serve(Leaving().app):
        assert loop.get_task_factory() != before
    assert loop.get_task_factory() == before
