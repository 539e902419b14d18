"""What stands between a client and Redis, from one unix socket to another. How it relays a connection is its own."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from pathlib import Path
from typing import Final, Self, TypeAlias

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay(ABC):
    """Listens on a unix socket and relays to the unix socket of a Redis; ``url`` is what clients are given."""

    read_ahead = 2**16
    """So many bytes are taken from who sends, at the least, before they can be passed on."""

    def __init__(self, upstream: Path, socket: Path) -> None:
        self._upstream: Final = upstream
        self._socket: Final = socket
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @abstractmethod
    async def relay(self, client: Stream, redis: Stream) -> None:
        """One connection; both sides of it end when this returns."""

    def cut_all(self) -> None:
        """Ends every connection there is, both sides."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._socket, limit=self.read_ahead)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        ends = {writer}
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                redis = await asyncio.open_unix_connection(self._upstream, limit=self.read_ahead)
                ends.add(redis[1])
                self._writers.add(redis[1])
                await self.relay((reader, writer), redis)
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()
            self._tasks.discard(task)


async def until_one_ends(*ways: Coroutine[None, None, None]) -> None:
    """Runs them beside each other, and ends the others with the first that ends."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
