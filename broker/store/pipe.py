"""One connection to Redis that all tasks of a process share.

What they send in one turn of the event loop goes out in one write, and Redis answers in order. So a command costs a
fraction of what it costs on a connection that is taken out of a pool for it, and a task that is cancelled while it
waits leaves nothing behind: its reply is read, and dropped. Nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

import hiredis
from redis import exceptions as failures
from redis._parsers.base import BaseParser  # the one place that knows which error text is which exception
from redis.asyncio.connection import AbstractConnection, ConnectionPool

_MANY_UNREAD: Final = 1024 * 1024
_FIRST_WORDS_S: Final = 10.0
_HELD_S: Final = 0.5
_CLOSED: Final = "the connection was closed"


class Pipe:
    """Commands in, replies out. It connects at the first command, and again at the first one after it was lost."""

    def __init__(self, pool: ConnectionPool, *, timeout_s: float) -> None:
        self._pool: Final = pool
        self._timeout_s: Final = timeout_s
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def execute(self, *command: Any) -> Any:
        """The reply of one command, raw. Raises redis-py's errors; after ConnectionError and TimeoutError nobody knows
        whether it was carried out.
        """
        packed = _packed(command)
        return await (await self._with_room()).send(packed)

    async def together(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies of commands that go one right after the other, over one connection; errors of Redis are among
        them. Raises redis-py's ConnectionError and TimeoutError, whichever of the replies is lost.
        """
        packed = [_packed(command) for command in commands]
        line = await self._with_room()
        replies = await asyncio.gather(*(line.send(each) for each in packed), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, failures.ConnectionError | failures.TimeoutError):
                raise reply
        return replies

    async def _with_room(self) -> _Line:
        while True:
            line = self._line
            if line is None or line.lost:
                line = await self._connected()
            if line.room is None:
                return line
            await line.room.wait()

    def leave(self) -> None:
        """The next command takes a new connection; those under way have their replies yet."""
        line, self._line = self._line, None
        if line is not None:
            line.close_once_answered()

    async def close(self) -> None:
        """Ends the connection; who still waits for it, or for a reply, gets a ConnectionError."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        if self._line is not None:
            self._line.lose(failures.ConnectionError(_CLOSED))

    async def _connected(self) -> _Line:
        """One connects for all who wait; a failure is everybody's."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="penstock-connect")
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # Its own would end the waiting task, and a task group all of its others, without a word.
            if connecting.cancelled() and not _is_cancelled():
                raise failures.ConnectionError(_CLOSED) from None
            raise

    async def _connect(self) -> _Line:
        try:
            self._line = _Line(await _open(self._pool), self._timeout_s)
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None
        return self._line


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _open(pool: ConnectionPool) -> asyncio.StreamWriter:
    """A new connection of the pool's kind, which has said its first words (TLS, user, database).

    Whoever has the stream that the library wrote them to owns the connection. Raises redis-py's errors.
    """
    connection = cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]  # redis-py
    try:
        async with asyncio.timeout(_FIRST_WORDS_S):  # the library's own swallow a cancellation on Python 3.11
            await connection.connect()  # type: ignore[no-untyped-call]
        reader, writer = connection._reader, connection._writer  # noqa: SLF001 - the library has no public way to them
        if reader is None or writer is None or reader.at_eof() or writer.is_closing():  # nobody would tell us later
            raise failures.ConnectionError(_CLOSED)
    except TimeoutError:
        await connection.disconnect(nowait=True)
        raise failures.TimeoutError("no reply to the first words on a new connection") from None
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    connection._reader = connection._writer = None  # noqa: SLF001 - else it would close what is ours now
    return writer


def _new_reader() -> hiredis.Reader:
    """What takes replies apart; errors become the library's exceptions."""
    return hiredis.Reader(protocolError=failures.InvalidResponse, replyError=BaseParser.parse_error)


def _packed(command: tuple[Any, ...]) -> bytes:
    return cast("bytes", hiredis.pack_command(command))


class _Line(asyncio.Protocol):
    """One connection, from its first command to its end."""

    def __init__(self, stream: asyncio.StreamWriter, timeout_s: float) -> None:
        self.lost = False
        self._left = False
        self.room: asyncio.Event | None = None
        """To be waited for before more is sent: Redis has not read what is on its way."""
        self._stream: Final = stream
        self._transport: Final = cast("asyncio.Transport", stream.transport)
        self._timeout_s: Final = timeout_s
        self._loop: Final = asyncio.get_running_loop()
        self._reader: Final = _new_reader()
        self._unsent: Final[list[bytes]] = []
        self._waiting: Final[deque[tuple[float, asyncio.Future[Any]]]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._looks_again = False
        self._transport.set_write_buffer_limits(high=_MANY_UNREAD)
        self._transport.set_protocol(self)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Sends a command with all others of this turn of the loop; the future is its reply."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self.lost:  # since it was connected, and before who waited for that went on
            reply.set_exception(failures.ConnectionError(_CLOSED))
            return reply
        self._waiting.append((self._loop.time(), reply))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look_for_silence)
        return reply

    def _flush(self) -> None:
        if not self.lost:
            # Not writelines: that of Python 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 never asks for a pause.
            self._transport.write(self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Replies, in the order of the commands."""
        reader, waiting = self._reader, self._waiting
        self._heard_at = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if not waiting:
                    self.lose(failures.ConnectionError(f"a reply that nobody asked for: {reply!r:.100}"))
                    return
                _, future = waiting.popleft()
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except failures.InvalidResponse as error:
            self.lose(failures.ConnectionError(f"not a reply of Redis: {error}"))
        if self._left and not waiting:
            self.lose(failures.ConnectionError(_CLOSED))

    def close_once_answered(self) -> None:
        """Nothing more is sent: it ends with the last reply."""
        self._left = True
        if not self._waiting:
            self.lose(failures.ConnectionError(_CLOSED))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or the way to it, has gone."""
        self.lose(failures.ConnectionError(f"connection closed by the server{f': {exc}' if exc else ''}"))

    def pause_writing(self) -> None:
        """More is on its way than Redis has read."""
        self.room = asyncio.Event()

    def resume_writing(self) -> None:
        """There is room again."""
        room, self.room = self.room, None
        if room is not None:
            room.set()

    def _look_for_silence(self) -> None:
        """A server that says nothing for too long is the end of the connection: what follows could not be told from
        the reply that is due. A loop that was held by somebody has to read first what has come meanwhile.
        """
        self._watch = None
        if not self._waiting:
            return
        left_s = max(self._waiting[0][0], self._heard_at) + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._looks_again = False
        elif left_s < -_HELD_S and not self._looks_again:
            self._looks_again, left_s = True, _HELD_S
        else:
            self.lose(failures.TimeoutError(f"no reply within {self._timeout_s:g} s"))
            return
        self._watch = self._loop.call_later(left_s, self._look_for_silence)

    def lose(self, error: failures.ConnectionError | failures.TimeoutError) -> None:
        """Ends the connection, and so whatever waits for it."""
        if self.lost:
            return
        self.lost = True
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(type(error)(*error.args))
        self.resume_writing()


class Subscription(asyncio.Protocol):
    """One connection that listens on channels. Raises redis-py's ConnectionError once it is lost."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool: Final = pool
        self._reader: Final = _new_reader()
        self._stream: asyncio.StreamWriter | None = None
        self._told: Final[deque[list[Any]]] = deque()
        self._news: asyncio.Future[None] | None = None
        self._lost = ""

    async def subscribe(self, *channels: str | bytes) -> None:
        """Asks for channels; Redis confirms each with a message. Connects at the first time."""
        if self._stream is None and not self._lost:
            self._stream = await _open(self._pool)
            self._stream.transport.set_protocol(self)
        self._send("SUBSCRIBE", *channels)

    async def unsubscribe(self, *channels: str | bytes) -> None:
        """Asks for no more of some channels."""
        self._send("UNSUBSCRIBE", *channels)

    async def ping(self) -> None:
        """Asks for a message of the kind ``pong``."""
        self._send("PING")

    async def get_message(self, *, timeout: float | None) -> list[Any] | None:
        """Kind, channel and data of the next message; None when there was none for so many seconds."""
        if not self._told and not self._lost:
            self._news = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._news
            except TimeoutError:
                return None
            finally:
                self._news = None
        if not self._told:
            raise failures.ConnectionError(self._lost)
        return self._told.popleft()

    def close(self) -> None:
        """Ends the connection, also under whoever waits for a message: that is a lost one then."""
        self._lose(_CLOSED)

    def data_received(self, data: bytes) -> None:
        """Messages."""
        try:
            self._reader.feed(data)
            while (message := self._reader.gets()) is not False:
                if isinstance(message, Exception):
                    self._lose(str(message))
                    return
                self._told.append(message)
        except failures.InvalidResponse as error:
            self._lose(f"not a message of Redis: {error}")
        if self._told:  # a large message comes in several reads
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or the way to it, has gone."""
        self._lose(f"connection closed by the server{f': {exc}' if exc else ''}")

    def _send(self, *command: str | bytes) -> None:
        if self._stream is None:
            raise failures.ConnectionError(self._lost or _CLOSED)
        self._stream.transport.write(_packed(command))

    def _lose(self, why: str) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._lost = why
            stream.transport.abort()
            self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
