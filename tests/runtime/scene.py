"""What the tests of running workers share: a real worker in the test's own loop, and waiting for conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

from broker import Broker, Message
from broker.core import Core
from broker.errors import QueueNotFound
from broker.settings import Settings
from broker.store.cluster_channels import ClusterChannels
from runtime import App, Context, Worker

_LOOK_S = 0.005
_STOP_S = 20.0


class Serve(Protocol):
    """Runs a worker of an app on the test's Redis: ``async with serve(app) as worker``."""

    def __call__(self, app: App, **options: Any) -> AbstractAsyncContextManager[Worker]: ...


@asynccontextmanager
async def serving(app: App, url: str, settings: Settings, **options: Any) -> AsyncIterator[Worker]:
    """A worker that is ready, in a task of its own; at the end it is stopped at once."""
    worker = Worker(app, url, settings=settings, **options)
    running = asyncio.create_task(worker.run(), name="worker under test")
    ready = asyncio.create_task(worker.ready.wait())
    await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if running.done():
        await running
    try:
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await asyncio.wait_for(running, _STOP_S)


async def eventually(look: Callable[[], object], *, what: str = "the condition", timeout_s: float = 8.0) -> Any:
    """What ``look``, a function or a coroutine function, answers as soon as that is true. Fails after the timeout,
    saying ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = look()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s; last: {answer!r}"
        await asyncio.sleep(_LOOK_S)


async def received(broker: Broker, queue: str, count: int = 1) -> list[Message]:
    """So many messages of a queue, as soon as they, and it, are there."""
    found: list[Message] = []
    client = broker.queue(queue)

    async def take() -> bool:
        with suppress(QueueNotFound):
            found.extend(await client.receive(count))
        return len(found) >= count

    await eventually(take, what=f"{count} messages in {queue}")
    return found


async def empty(broker: Broker, function: str) -> None:
    """Returns when a function has nothing queued, running or to be sent on."""

    async def look() -> bool:
        counts = await broker.function(function).counts()
        return counts.total == 0 and counts.outbox == 0 and counts.running == 0

    await eventually(look, what=f"nothing left of {function}")


async def waiting(broker: Broker, function: str, count: int = 1) -> None:
    """Returns when so many events of a function wait for a retry and nothing else is under way."""

    async def look() -> bool:
        counts = await broker.function(function).counts()
        return counts.retrying == count and counts.in_flight == 0

    await eventually(look, what=f"{count} events of {function} wait for a retry")


class Gauge:
    """Counts what runs at a time, and remembers the most."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    async def __aenter__(self) -> None:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)

    async def __aexit__(self, *_: object) -> None:
        self.now -= 1


class Shop:
    """A function whose calls wait for a gate."""

    def __init__(self, **options: Any) -> None:
        self.app = App()
        self.gauge = Gauge()
        self.gate = asyncio.Event()
        self.done: list[Any] = []
        self.cancelled: list[Any] = []
        self.app.function(name="job", **{"timeout": 60, **options})(self.job)

    async def job(self, event: Any, context: Context) -> Any:
        try:
            async with self.gauge:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(event)
            raise
        self.done.append(event)
        return event


def socket_of(core: Core, process: str) -> Any:
    """The connection over which a process, a worker or a caller, hears what its inbox receives."""
    channels = core.channels
    if isinstance(channels, ClusterChannels):
        channels = channels._lines[channels._homes[core.parcels.inbox(process)]]
    subscription = channels._pubsub
    assert subscription is not None
    assert subscription._stream is not None
    return subscription._stream.transport


def lines(logs: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["event"] == event]
