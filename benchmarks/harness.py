"""What every family of figures stands on: a private Redis, child processes that answer, the rate at which work ends."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.limits import MAX_SEND_MESSAGES
from broker.mappings import register_mapping
from broker.names import Resource
from broker.outgoing import event_message
from broker.store.values import NewMessage
from runtime import App

ROOT: Final = Path(__file__).resolve().parent.parent
EVENT_BYTES: Final = 100
_LOOK_S: Final = 0.01
_WARM_SHARE: Final = 0.1
_PATIENCE_S: Final = 120.0
_LINE_BYTES: Final = 16 * 1024 * 1024
_texts: Final = random.Random(0)
_EMPTY_EVENT: Final = len('{"n":100000,"text":""}')


class Bed(msgspec.Struct, frozen=True):
    """A running private Redis, and an open broker on it."""

    url: str
    directory: Path
    broker: Broker

    async def info(self, section: str) -> dict[str, str]:
        """One section of Redis's INFO."""
        reply: bytes = await self.broker.core.runner.fetch("INFO", section)
        return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)

    async def register(self, app: App) -> None:
        """Registers an app's functions and mappings as its worker would, so that work can be queued before."""
        for function in app.functions.values():
            await register_function(self.broker.core, function.name, function.settings)
            if function.mapping is not None:
                await register_mapping(self.broker.core, function.mapping)

    async def fill(self, resource: Resource, count: int) -> None:
        """Queues so many events of 100 bytes."""
        for start in range(0, count, MAX_SEND_MESSAGES):
            step = [packed(index) for index in range(start, min(count, start + MAX_SEND_MESSAGES))]
            token = f"fill{time.monotonic_ns():x}"
            await self.broker.core.messages.send(resource, step, token=token, bucket="fill")

    async def done(self, resource: Resource) -> int:
        """How many messages of it were ever finished with success."""
        described = await self.broker.core.directory.describe(resource)
        return described.counters["done"] if described else 0


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """How a family is to measure, and whom it tells what it is doing."""

    aof: bool
    quick: bool
    say: Callable[[str], None]

    @property
    def rounds(self) -> int:
        """How often each figure and its ceiling are measured, in turn."""
        if self.quick:
            return 1
        return 3 if self.aof else 5

    def size(self, full: int) -> int:
        """How many of something: a third when it has to be quick."""
        return full // 3 if self.quick else full

    @asynccontextmanager
    async def bed(self) -> AsyncIterator[Bed]:
        """A fresh private Redis in a temporary directory."""
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
            directory = Path(name)
            server = EmbeddedRedis(directory / "redis", append_only=self.aof)
            await asyncio.to_thread(server.start)
            try:
                async with Broker(server.url) as broker:
                    yield Bed(server.url, directory, broker)
            finally:
                await asyncio.to_thread(server.stop)


def event(index: int) -> dict[str, object]:
    """An event of exactly 100 bytes of JSON, unlike all others.

    Its text is random, because Redis's Lua hashes only every fourth byte of a string this long: bodies that differ in
    a counter alone collide, which doubles what a claim costs Redis, lowers the ceiling and so flatters every ratio.
    """
    digits = EVENT_BYTES - _EMPTY_EVENT
    return {"n": 100_000 + index, "text": f"{_texts.getrandbits(4 * digits):0{digits}x}"}


def packed(index: int) -> NewMessage:
    """The same, ready for the send script."""
    return event_message("ready-packed", event(index))


# -- child processes --------------------------------------------------------------------------------------------------


class Child:
    """A child process that has said that it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process: Final = process
        self._log: Final = log

    async def ask(self, question: str) -> str:
        """Its answer to one of the questions that it knows. Raises ChildFailed with the end of its log."""
        if self._process.stdin is None:
            raise ChildFailed(question, self._log)
        self._process.stdin.write(f"{question}\n".encode())
        return await self._read(question)

    async def become_ready(self) -> None:
        """Returns when it says so."""
        await self._read("start")

    async def _read(self, what: str) -> str:
        if self._process.stdout is None:
            raise ChildFailed(what, self._log)
        async with asyncio.timeout(_PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(what, self._log)
        return line.decode().rstrip("\n")

    async def end(self) -> None:
        """Ends it by the end of its input; by force when it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _PATIENCE_S / 4)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class ChildFailed(RuntimeError):
    """A child process ended by itself."""

    def __init__(self, what: str, log: Path) -> None:
        tail = log.read_text(errors="replace")[-2_000:]
        super().__init__(f"a child process ended at {what!r}; its log ends with:\n{tail}")


@asynccontextmanager
async def child(bed: Bed, module: str, *arguments: str) -> AsyncIterator[Child]:
    """Runs ``python -m benchmarks.<module> <url> <arguments>`` until the end of the block."""
    log = bed.directory / f"{module}-{time.monotonic_ns()}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"benchmarks.{module}", bed.url, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            limit=_LINE_BYTES,
        )
    running = Child(process, log)
    try:
        await running.become_ready()
        yield running
    finally:
        await running.end()


# -- rates ------------------------------------------------------------------------------------------------------------


async def rate(bed: Bed, resource: Resource, count: int, module: str, *arguments: str) -> float:
    """Messages a second that a process finishes, of so many queued before it starts.

    Counted from outside, and only after the first tenth: neither its start nor what warms up counts.
    """
    before = await bed.done(resource)
    await bed.fill(resource, count)
    async with child(bed, module, *arguments):
        warm, warm_at = await reaches(bed, resource, before + int(count * _WARM_SHARE))
        ended, ended_at = await reaches(bed, resource, before + count)
    return (ended - warm) / (ended_at - warm_at)


async def reaches(bed: Bed, resource: Resource, count: int) -> tuple[int, float]:
    """Waits until so many messages of it were ever finished with success; answers how many by then, and when."""
    async with asyncio.timeout(_PATIENCE_S):
        while (done := await bed.done(resource)) < count:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(_LOOK_S)
    return done, time.monotonic()
