"""Synchronous calls and wake-ups where function, worker and caller are at different nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from broker import Broker, errors
from broker.call_notices import CallNotice
from broker.settings import Settings
from broker.store.slots import slot_of
from runtime import App, Context
from tests.runtime.scene import eventually, serving
from tests.servers import RedisCluster


@pytest.fixture
async def broker(cluster: RedisCluster, prefix: str) -> AsyncIterator[Broker]:
    """One on the cluster."""
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as opened:
        yield opened


class Echo:
    """Functions at every node that answer what they were called with, and count."""

    def __init__(self) -> None:
        self.app = App()
        self.calls: list[Any] = []
        for number in range(9):
            self.app.function(name=f"echo{number}")(self._handler(number))

    def _handler(self, number: int) -> Any:
        async def handle(event: Any, context: Context) -> Any:
            self.calls.append(event)
            return [number, event]

        handle.__name__ = f"echo{number}"
        return handle


async def test_calls_of_functions_at_all_nodes_are_answered(broker: Broker) -> None:
    echo = Echo()
    async with serving(echo.app, broker.core.address.url, broker.core.settings):
        answers = await asyncio.gather(*(broker.call(f"echo{number}", number) for number in range(9)))
        assert answers == [[number, number] for number in range(9)]
        large = "x" * 200_000
        assert await broker.call("echo0", large) == [0, large]


async def test_without_a_listener_the_answer_comes_at_once_and_no_permit_is_held(broker: Broker) -> None:
    echo, core = Echo(), broker.core
    async with serving(echo.app, core.address.url, core.settings) as worker:
        function = core.resource("function", "echo0")
        assert await core.parcels.listening(worker.process)
        status = await core.permits.call(function, call_id="1", permit_ms=60_000, process="nobody", notice=b"")
        assert status == "absent"
        counts = await broker.function("echo0").counts()
        assert counts.running == 0

    async def nobody_listens() -> bool:
        return not await core.parcels.listening(worker.process)

    await eventually(nobody_listens, what="the inbox is left")
    with pytest.raises(errors.NoLiveWorker):
        async with asyncio.timeout(10):
            await broker.call("echo0", 1, timeout=60)


async def test_calls_go_on_while_the_inboxes_move_to_another_node(broker: Broker, cluster: RedisCluster) -> None:
    echo, core = Echo(), broker.core
    async with serving(echo.app, core.address.url, core.settings) as worker:
        await broker.call("echo0", "first")
        inboxes = [core.parcels.inbox(worker.process), core.keys.of(core.resource("function", "echo0")).wake]
        sent, lost = 0, set[int]()
        for channel in inboxes:
            moving = asyncio.create_task(asyncio.to_thread(_move, cluster, slot_of(channel)))
            while not moving.done() or sent < 20:
                sent += 1
                try:
                    assert await broker.call(f"echo{sent % 9}", sent, timeout=5) == [sent % 9, sent]
                except errors.CallTimeout:  # under way in the moment of the move: never tried again
                    lost.add(sent)
            await moving
        await broker.invoke("echo0", "woken")
        await eventually(lambda: "woken" in echo.calls, what="the event runs")
    answered = sorted(["first", *(number for number in range(1, sent + 1) if number not in lost), "woken"], key=str)
    assert sorted((call for call in echo.calls if call not in lost), key=str) == answered, "each ran once"
    assert len(lost) <= len(inboxes)


async def test_a_notice_that_is_heard_twice_runs_once(broker: Broker) -> None:
    """As while an inbox is heard at two nodes."""
    echo, core = Echo(), broker.core
    async with serving(echo.app, core.address.url, core.settings) as worker:
        notice = CallNotice(id="twice", function="echo0", reply_to="nobody", timeout_ms=30_000, payload=b"1")
        for _ in range(2):
            assert await core.parcels.tell(worker.process, msgspec.msgpack.encode(notice)) == 1
        await broker.call("echo0", "last")
        assert echo.calls == [1, "last"]


async def test_whoever_has_the_answer_can_call_again_at_the_limit(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, core = App(), broker.core

    @app.function(concurrency=1)
    async def one(event: Any, context: Context) -> Any:
        return event

    @app.function(concurrency=1)
    async def chunks(event: Any, context: Context) -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with serving(app, core.address.url, core.settings) as worker:
        permits = worker._engine.core.permits
        release = permits.release_of_function

        async def slow(*arguments: Any) -> None:
            await asyncio.sleep(0.1)
            await release(*arguments)

        monkeypatch.setattr(permits, "release_of_function", slow)
        for number in range(3):
            assert await broker.call("one", number) == number
            async with broker.call_stream("chunks", number) as stream:
                assert [chunk async for chunk in stream] == [b"a", b"b"]


async def test_an_inbox_that_is_opened_behind_a_publish_is_told_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, heard = broker.core, list[bytes | None]()
    look = core.runner.fetch_everywhere

    async def opened_meanwhile(*command: str | bytes | int) -> list[Any]:
        await core.channels.listen({core.parcels.inbox("late"): heard.append})
        return await look(*command)

    monkeypatch.setattr(core.runner, "fetch_everywhere", opened_meanwhile)
    assert await core.parcels.tell("late", b"notice")
    await eventually(lambda: b"notice" in heard, what="it is heard")


async def test_a_caller_that_is_cancelled_between_permit_and_worker_gives_the_permit_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, core = App(), broker.core

    @app.function(concurrency=1)
    async def one(event: Any, context: Context) -> Any:
        return event

    telling = asyncio.Event()

    async def slow(*_: object) -> int:
        telling.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(app, core.address.url, core.settings):
        with monkeypatch.context() as patched:
            patched.setattr(core.permits._parcels, "tell", slow)
            call = asyncio.create_task(broker.call("one", 1))
            await asyncio.wait_for(telling.wait(), 10)
            call.cancel()
            await asyncio.wait((call,))

        async def given_back() -> bool:
            return (await broker.function("one").counts()).running == 0

        await eventually(given_back, what="the permit is back long before it would run out")
        assert await broker.call("one", 2) == 2


def _move(cluster: RedisCluster, slot: int) -> None:
    source = cluster.primary_of(slot)
    target = next(member for member in cluster.serving() if member is not source)
    for _ in cluster.move_slot(slot, target):
        pass
