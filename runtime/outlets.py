"""Where the chunks of streamed calls go: to their callers' inboxes, in numbered parts, a window ahead of the reader.

What is published while a reader's subscription is lost is lost with it. So a part is kept until the reader has taken
it, and sent again when the reader asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from broker.call_notices import CallNotice, CallReply
from broker.chunks import PIECE_BYTES, cost_of, pieces_of
from broker.core import Core
from runtime.telling import tell_caller

_LOOK_S: Final = 2.0
_MISSED_LOOKS: Final = 2
_KEPT_S: Final = 60.0
"""How long what a reader has not taken is kept for it behind the handler's end."""


class _Part(msgspec.Struct, frozen=True):
    number: int
    notice: bytes
    cost: int


class Outlet:
    """Of one call. ``on_deaf`` is called when nobody listens at the caller's inbox any more."""

    def __init__(self, core: Core, notice: CallNotice, *, on_deaf: Callable[[], None]) -> None:
        self.reader: Final = notice.reply_to
        self.ended: CallReply | None = None
        self._core: Final = core
        self._call_id: Final = notice.id
        self._window: Final = notice.window
        self._on_deaf: Final = on_deaf
        self._used = 0
        self._room: Final = asyncio.Event()
        self._waiting: Final[deque[bytes]] = deque()
        self._kept: Final[deque[_Part]] = deque()
        self._made = self._sent = 0
        self._end_made = self._closed = False
        self._sending: asyncio.Task[Any] | None = None
        self._send()  # the first part says that the call has begun

    async def put(self, chunk: bytes) -> None:
        """Passes a chunk on; waits while the reader is a window behind. Raises BrokenPipeError behind the end."""
        for piece in pieces_of(chunk):
            while self._used >= self._window and not self._is_over:
                self._room.clear()
                await self._room.wait()
            if self._is_over:
                raise BrokenPipeError("nobody takes these chunks any more")
            self._used += cost_of(piece)
            self._waiting.append(piece)
            self._send()

    def end(self, reply: CallReply) -> None:
        """How the call has ended goes behind what was put before."""
        self.ended = reply
        self._room.set()
        self._send()

    def close(self) -> None:
        """Nothing more is sent."""
        self._closed = True
        self._room.set()

    def taken(self, notice: CallNotice) -> None:
        """The reader has taken some of it, or has missed some."""
        while self._kept and self._kept[0].number <= notice.taken:
            self._used -= self._kept.popleft().cost
        if notice.again_from:
            self._sent = min(self._sent, notice.again_from - 1)
        self._room.set()
        self._send()

    @property
    def done(self) -> bool:
        """Whether the reader has taken all of it, to the end."""
        return self._end_made and not self._kept

    @property
    def sending(self) -> asyncio.Task[Any] | None:
        """What sends, as long as there is something that was not sent yet."""
        return self._sending

    @property
    def _is_over(self) -> bool:
        return self._closed or self.ended is not None

    # -- sending: one part after the other, as only that keeps their order ---------------------------------------------

    def _send(self) -> None:
        if self._sending is None:
            self._sending = self._core.in_background(self._send_parts(), name="send_chunks")

    async def _send_parts(self) -> None:
        try:
            while not self._closed and (part := self._next()) is not None:
                await self._deliver(part)
        finally:
            self._sending = None

    def _next(self) -> _Part | None:
        for part in self._kept:
            if part.number > self._sent:
                return part
        finished = self._end_made if self.ended is not None else self._made
        return None if finished and not self._waiting else self._make()

    def _make(self) -> _Part:
        """What has gathered while the part before was under way."""
        chunks: list[bytes] = []
        cost = 0
        while self._waiting and (not chunks or cost + cost_of(self._waiting[0]) <= PIECE_BYTES):
            chunks.append(self._waiting.popleft())
            cost += cost_of(chunks[-1])
        self._made += 1
        reply = CallReply(id=self._call_id, part=self._made, chunks=tuple(chunks))
        if self.ended is not None and not self._waiting:
            self._end_made = True
            reply = msgspec.structs.replace(self.ended, part=self._made, chunks=tuple(chunks), last=True)
        part = _Part(self._made, msgspec.msgpack.encode(reply), cost)
        self._kept.append(part)
        return part

    async def _deliver(self, part: _Part) -> None:
        """What comes twice is known by its number."""
        if await tell_caller(self._core, self.reader, part.notice, still=lambda: not self._closed):
            if self._sent == part.number - 1:  # else the reader has asked for earlier ones meanwhile
                self._sent = part.number
        elif not self._closed:
            self._on_deaf()


class Outlets:
    """Of one worker process. ``on_gone`` is told the calls whose callers have gone."""

    def __init__(self, core: Core, *, on_gone: Callable[[str], None]) -> None:
        self._core: Final = core
        self._on_gone: Final = on_gone
        self._open: Final[dict[str, Outlet]] = {}
        self._missed: Final[Counter[str]] = Counter()
        self._looking = False

    def open(self, notice: CallNotice) -> Outlet:
        """The outlet of a call that begins."""
        outlet = Outlet(self._core, notice, on_deaf=lambda: self._gone(notice.id))
        self._open[notice.id] = outlet
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)
        return outlet

    def taken(self, notice: CallNotice) -> None:
        """What a reader says of a call."""
        outlet = self._open.get(notice.id)
        if outlet is not None:
            outlet.taken(notice)
            if outlet.done:
                self.close(notice.id)

    def end(self, call_id: str, reply: CallReply) -> bool:
        """Answers whether the call has an outlet; then the reply ends it."""
        outlet = self._open.get(call_id)
        if outlet is None:
            return False
        outlet.end(reply)
        asyncio.get_running_loop().call_later(_KEPT_S, self.close, call_id)
        return True

    def close(self, call_id: str) -> None:
        """Forgets a call: its reader has all of it, or has gone."""
        outlet = self._open.pop(call_id, None)
        if outlet is not None:
            outlet.close()

    @property
    def sending(self) -> set[asyncio.Task[Any]]:
        """What sends parts now."""
        return {outlet.sending for outlet in self._open.values() if outlet.sending is not None}

    def _gone(self, call_id: str) -> None:
        self.close(call_id)
        self._on_gone(call_id)

    # -- callers that die without a word -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Only while there are handlers to be ended, so that nothing goes on behind a worker's stop."""
        readers = {outlet.reader for outlet in self._open.values() if outlet.ended is None}
        for reader in self._missed.keys() - readers:
            del self._missed[reader]
        self._looking = bool(readers)
        if readers:
            self._core.in_background(self._look_for(readers), name="look_for_readers")
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    async def _look_for(self, readers: set[str]) -> None:
        for reader in readers:
            if await self._core.parcels.listening(reader):
                self._missed.pop(reader, None)
                continue
            self._missed[reader] += 1
            if self._missed[reader] >= _MISSED_LOOKS:
                for call_id in [call_id for call_id, outlet in self._open.items() if outlet.reader == reader]:
                    self._gone(call_id)
