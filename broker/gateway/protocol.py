"""HTTP/1.1 on one connection: uvicorn's, within limits of size and of time.

uvicorn's protocol reads heads of any size for any time, and queues as many pipelined requests as come. Here every
connection is looked at about once a second by its server, which spares the timers that each request would need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from broker.limits import KIB

Ending: TypeAlias = Literal["gone", "stopping"]
"""Why work for a request ends early: its client has gone, or the gateway stops."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may take; sizes in bytes, times in seconds, kept to within the server's look-around."""

    head_bytes: int = 64 * KIB
    headers: int = 200
    pipelined: int = 64
    """Requests that wait behind the one being answered."""
    head_s: float = 10.0
    """From the first byte of a head to its end."""
    body_stall_s: float = 30.0
    """Without a byte of a body that is not complete."""
    body_s: float = 10.0
    """From the end of a head to the end of its body, beside what ``body_bytes_per_s`` gives."""
    body_bytes_per_s: int = 64 * KIB
    """So many bytes of a body make its time a second longer: a slower one holds memory that others wait for."""
    write_stall_s: float = 30.0
    """Without the client reading any of an answer."""
    idle_s: float = 75.0
    """Between requests."""


_OLD: Final = "1.0"  # of HTTP
_CLOSE: Final = (b"connection", b"close")
_OFFER: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Clock:
    """The event loop's time as of the server's last look-around."""

    now_s: float = 0.0


class _Exchange(RequestResponseCycle):
    """One request and its answer. Of a ``Connection`` header it knows ``close`` alone.

    uvicorn writes head and body one after the other: two packets, two system calls here and two wake-ups of the client.
    For small answers that is most of what HTTP costs, so a whole answer leaves in one write.
    """

    _head: Any = None

    async def send(self, message: Any) -> None:
        """ASGI's ``send``. The head waits for what follows it: until then the answer has not begun."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message
            return
        head, self._head = self._head, None
        if head is None:
            await self._send_piece(message)
        elif message.get("more_body", False):
            if self.scope["http_version"] == _OLD:
                self.chunked_encoding = False  # not known there: the answer ends with the connection
            await super().send(head)
            await self._send_piece(message)
        else:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self._write_whole(head, message["body"])

    async def _send_piece(self, message: Any) -> None:
        if self.chunked_encoding is False:
            self.expected_content_length = len(message["body"])  # nobody has told how long the whole is
        await super().send(message)

    def _write_whole(self, head: Mapping[str, Any], body: bytes) -> None:
        headers = head["headers"]
        if self.more_body:  # nobody is going to read the rest
            self.keep_alive = False
        if _CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, _CLOSE]
        parts = [STATUS_LINE[head["status"]]]
        parts += [b"%b: %b\r\n" % header for header in self.default_headers]
        parts += [b"%b: %b\r\n" % header for header in headers]
        parts += (b"\r\n", b"" if self.scope["method"] == "HEAD" else body)
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.transport.write(b"".join(parts))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. ASGI scopes carry it as ``scope["state"]["connection"]``."""

    def __init__(self, config: Config, server_state: ServerState, *, limits: Limits, clock: Clock) -> None:
        super().__init__(config=config, server_state=server_state, app_state={"connection": self})
        self.access_log = False
        self._on_ending: Callable[[Ending], object] | None = None
        self.stopping = False
        """Whether the gateway stops."""
        self._limits: Final = limits
        self._clock: Final = clock
        self._running: RequestResponseCycle | None = None
        self._refusing = False
        self._status = HTTPStatus.BAD_REQUEST
        self._idle_since_s = self._read_at_s = self._head_since_s = self._body_since_s = clock.now_s
        self._in_head = False
        self._offered = False
        self._head_bytes = 0  # without the slice that it begins in
        self._bytes_without_body = 0
        self._body_bytes = 0
        self._unwritten_bytes = 0
        self._written_at_s = clock.now_s

    # -- what comes in ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parses in slices, so that a head cannot grow far over its limit before it is noticed."""
        self._read_at_s = self._clock.now_s
        size = self._limits.head_bytes
        if len(data) <= size:
            self._feed(data)
        else:
            for start in range(0, len(data), size):
                self._feed(data[start : start + size])

    def _feed(self, data: bytes) -> None:
        self._head_bytes += len(data)
        self._bytes_without_body += len(data)
        rest: bytes | None = data
        try:
            while rest and not self._refusing:
                rest = self._parse(rest)
        except httptools.HttpParserError:
            self._refuse(self._status)
            return
        if self._in_head:
            if self._head_bytes > self._limits.head_bytes or len(self.headers) > self._limits.headers:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._bytes_without_body > 2 * self._limits.head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)  # trailers, or the like

    def _parse(self, data: bytes) -> bytes | None:
        """Answers what is left to parse: behind an offer to change the protocol, the same request without it.

        The parser takes what follows such an offer for the other protocol, the request's own body too.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._without_offer() + data[offer.args[0] :]
        return None

    def _without_offer(self) -> bytes:
        self._offered = False
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in _OFFER]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_since_s = self._clock.now_s
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Trailers come here too: they are read behind the head, and nobody wants them."""
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is whole: the request begins, unless the head is over a limit."""
        limits = self._limits
        if len(self.headers) > limits.headers or (self._head_bytes and self._head_size() > limits.head_bytes):
            self._status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("head over the limit")
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("no tunnels")
            self._offered = True
            return
        if len(self.pipeline) >= limits.pipelined:
            self._status = HTTPStatus.TOO_MANY_REQUESTS
            raise ValueError("too many pipelined requests")
        self._in_head = False
        self._bytes_without_body = self._body_bytes = 0
        self._body_since_s = self._clock.now_s
        self._begin()

    def _begin(self) -> None:
        """As uvicorn does it, without root path and limit of tasks, and with an exchange of our own."""
        version, url = self.parser.get_http_version(), httptools.parse_url(self.url)
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["raw_path"] = url.path
        self.scope["path"] = unquote(url.path.decode("ascii"))
        self.scope["query_string"] = url.query or b""
        before: RequestResponseCycle | None = self.cycle
        self.cycle = _Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=version != _OLD and self.expect_100_continue,
            keep_alive=version != _OLD and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if not self._offered:
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._bytes_without_body = 0
        self._body_bytes += len(body)
        super().on_body(body)

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The next pipelined request begins, or the connection is idle from now on."""
        self.server_state.total_requests += 1
        self._idle_since_s = self._clock.now_s
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusing:
            self._close_with(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or we have closed."""
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn knows the last one that came, which may wait behind this one
            self._running.message_event.set()
        self.pipeline.clear()
        self.app_state.clear()
        self._end("gone")

    def watch(self, on_ending: Callable[[Ending], object] | None) -> None:
        """Whom to tell when the client has gone or the gateway stops; None ends that.

        For the request that is being answered, which ends its watch before its answer does.
        """
        self._on_ending = on_ending
        if on_ending is not None:
            self.flow.resume_reading()  # uvicorn pauses behind much of a body; the client's end would not be seen

    def _end(self, why: Ending) -> None:
        on_ending, self._on_ending = self._on_ending, None
        if on_ending is not None:
            on_ending(why)

    def shutdown(self) -> None:
        """Closes when idle, else behind the answer that is being made; what waits behind that is not begun."""
        self.stopping = True
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.keep_alive = False
            self._end("stopping")
        else:
            self.transport.close()

    # -- limits -------------------------------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    @property
    def _reads_body(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body and not cycle.response_complete

    def look_after(self) -> None:
        """Ends the connection when a limit of time is over; the server calls it about once a second."""
        if self.flow.read_paused:
            # Memory is short, or an answer is being made: the client is not to blame, and has its time from then on.
            self._read_at_s = self._body_since_s = self._clock.now_s
            self._body_bytes = 0
        if self._overdue():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        elif self._stalled_writing():
            self.transport.abort()
        elif not self._busy and not self._in_head and self._clock.now_s - self._idle_since_s > self._limits.idle_s:
            self.transport.close()

    def _overdue(self) -> bool:
        now_s, limits = self._clock.now_s, self._limits
        if self._refusing or self.flow.read_paused:
            return False
        if self._in_head:
            return now_s - self._head_since_s > limits.head_s
        body_s = limits.body_s + self._body_bytes / limits.body_bytes_per_s
        stalled = now_s - self._read_at_s > limits.body_stall_s or now_s - self._body_since_s > body_s
        return stalled and self._reads_body

    def _stalled_writing(self) -> bool:
        unwritten = self.transport.get_write_buffer_size()
        if unwritten == 0 or unwritten != self._unwritten_bytes:
            self._unwritten_bytes, self._written_at_s = unwritten, self._clock.now_s
            return False
        return self._clock.now_s - self._written_at_s > self._limits.write_stall_s

    def _refuse(self, status: HTTPStatus) -> None:
        """Nothing more is read. Answers that are due come first, so that the client does not take this for theirs."""
        if self._refusing or self.transport.is_closing():
            return
        self._refusing, self._status = True, status
        running = self._running
        if running is None or running.response_complete:
            self._close_with(status)
        elif running is self.cycle and running.more_body:
            self._abandon_reading(running, status)
        else:
            self._drop_unfinished()
            self.flow.pause_reading()

    def _abandon_reading(self, running: RequestResponseCycle, status: HTTPStatus) -> None:
        if running.response_started:
            self.transport.close()
        else:
            self._close_with(status)
        running.disconnected = True
        running.message_event.set()

    def _drop_unfinished(self) -> None:
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()

    def _close_with(self, status: HTTPStatus) -> None:
        body = msgspec.json.encode({"__type": "MalformedHttpRequestException", "message": status.description})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_of(scope: Any) -> GuardedProtocol | None:
    """The connection that a request came by; None under another server than ours."""
    connection = scope.get("state", {}).get("connection")
    return connection if isinstance(connection, GuardedProtocol) else None
