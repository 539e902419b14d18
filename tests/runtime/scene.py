"""What the tests of running workers share: a real worker in the test's own loop, and waiting for conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

from broker import Broker, Message
from broker.core import Core
from broker.errors import CallThrottled, QueueNotFound
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


class Neighbour:
    """A function of an app whose call is under way while others misbehave."""

    def __init__(self, app: App) -> None:
        self._gate = asyncio.Event()
        self._call: asyncio.Future[Any] | None = None
        app.function(name="neighbour", timeout=20)(self._wait)

    async def _wait(self, event: Any, context: Context) -> str:
        await self._gate.wait()
        return "unharmed"

    def begin(self, broker: Broker) -> None:
        """Its call begins."""
        self._call = asyncio.ensure_future(broker.call("neighbour", {}, timeout=20))

    async def end(self) -> None:
        """Its call ends, and well."""
        assert self._call is not None
        self._gate.set()
        assert await self._call == "unharmed"


class Prefetched:
    """A function of which two calls run, until the gate is open, and a hundred events are claimed ahead."""

    AHEAD = 100

    def __init__(self, worker: Worker, broker: Broker, gate: asyncio.Event) -> None:
        self.worker, self._broker, self.gate = worker, broker, gate

    async def given_back(self) -> None:
        """Returns when what was claimed ahead is back, while both calls run."""

        async def look() -> bool:
            counts = await self._broker.function("job").counts()
            return (counts.visible, counts.in_flight) == (self.AHEAD, 2)

        await eventually(look, what="what has not begun is back, the others still run")


@asynccontextmanager
async def prefetched(broker: Broker, serve: Serve) -> AsyncIterator[Prefetched]:
    app, gate, gauge = App(), asyncio.Event(), Gauge()

    @app.function(timeout=30)
    async def job(event: Any, context: Context) -> None:
        async with gauge:
            if event == "wait":
                await gate.wait()

    async with serve(app, max_calls=2) as worker:
        await broker.invoke_many("job", range(2_000))  # so that it knows a rate, by which it prefetches
        await eventually(lambda: gauge.total == 2_000, what="warmed up")
        await broker.invoke_many("job", ["wait"] * 2 + list(range(Prefetched.AHEAD)))
        await eventually(lambda: gauge.now == 2, what="both slots are taken")
        await eventually(lambda: worker._sources[0]._prefetched, what="a prefetch")  # type: ignore[union-attr]
        yield Prefetched(worker, broker, gate)


async def calls_let_through(broker: Broker, of: int) -> int:
    """Calls ``job`` so often, one call after the other; answers how many found a permit."""
    done = 0
    for _ in range(of):
        with suppress(CallThrottled):
            await broker.call("job", {})
            done += 1
    return done


def lines(logs: list[MutableMapping[str, Any]], event: str) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["event"] == event]
