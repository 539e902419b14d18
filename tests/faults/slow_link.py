"""A relay that is a bad network: every piece of a stream comes late, no faster than so many bytes a second, and now and
then the connection ends. Order is kept, as in TCP."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path
from typing import Final, Self

_PIECE: Final = 16 * 1024


class SlowLink:
    """Listens on a unix socket, relays to that of a Redis. ``resets`` is how many connections it has ended."""

    def __init__(
        self,
        upstream: Path,
        socket: Path,
        *,
        chance: random.Random,
        delay_s: tuple[float, float] = (0.0, 0.0),
        reset_share: float = 0.0,
        bytes_a_second: float = float("inf"),
    ) -> None:
        self._upstream: Final = upstream
        self._socket: Final = socket
        self._chance: Final = chance
        self._delay_s: Final = delay_s
        self.reset_share = reset_share
        self._bytes_a_second: Final = bytes_a_second
        self._server: asyncio.Server | None = None
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self.resets = self.pieces = 0

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_writer: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
            ways = [asyncio.create_task(self._carry(*way)) for way in ((reader, up_writer), (up_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        for each in (writer, up_writer):
            if each is not None:
                each.transport.abort()
        self._tasks.discard(task)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """One direction: what is read is written when its time has come."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        writing = asyncio.create_task(self._write(under_way, target))
        due = 0.0
        try:
            while piece := await source.read(_PIECE):
                self.pieces += 1
                if self._chance.random() < self.reset_share:
                    self.resets += 1
                    return
                now = time.monotonic()
                due = max(due + len(piece) / self._bytes_a_second, now + self._chance.uniform(*self._delay_s))
                await under_way.put((due, piece))
        finally:
            writing.cancel()

    async def _write(self, under_way: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            target.write(piece)
            await target.drain()
