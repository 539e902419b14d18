"""A relay that is a bad network: every piece of a stream comes late, no faster than so many bytes a second, and now and
then the connection ends. Order is kept, as in TCP."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

from tests.faults.relay import Relay, Stream, until_one_ends

_PIECE: Final = 16 * 1024


class SlowLink(Relay):
    """``resets`` is how many connections it has ended."""

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
        super().__init__(upstream, socket)
        self._chance: Final = chance
        self._delay_s: Final = delay_s
        self.reset_share = reset_share
        self._bytes_a_second: Final = bytes_a_second
        self.resets = self.pieces = 0

    async def relay(self, client: Stream, redis: Stream) -> None:
        await until_one_ends(self._carry(client[0], redis[1]), self._carry(redis[0], client[1]))

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
