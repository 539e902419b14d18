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


def _move(cluster: RedisCluster, slot: int) -> None:
    source = cluster.primary_of(slot)
    target = next(member for member in cluster.serving() if member is not source)
    for _ in cluster.move_slot(slot, target):
        pass
