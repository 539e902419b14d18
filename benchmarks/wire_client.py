"""Clients of the AWS wire that cost little: connections kept alive, each driven by a generator, and signed requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias, cast

from broker.gateway.sigv4 import signing_key

Script: TypeAlias = Generator[bytes, bytes, None]
"""What one connection does: yields requests, each after the answer's body to the one before."""

KEY_ID: Final = "AKIDBENCH"
SECRET: Final = "benchmark-secret"  # noqa: S105 - opens nothing
REGION: Final = "us-east-1"
_PATIENCE_S: Final = 60.0
_HEAD_END: Final = b"\r\n\r\n"
_SUCCESS: Final = b"20"
_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_SIGNED_FIRST: Final = ("content-type", "host", "x-amz-date")
_CONTENT_TYPE: Final = "application/x-amz-json-1.0"


class Requests:
    """Makes whole requests of one service, signed with SigV4; one object is good for fifteen minutes."""

    def __init__(self, port: int, *, service: str = "sqs") -> None:
        now = datetime.now(UTC)
        self._host: Final = f"127.0.0.1:{port}"
        self._date: Final = now.strftime("%Y%m%dT%H%M%SZ")
        self._scope: Final = f"{now:%Y%m%d}/{REGION}/{service}/aws4_request"
        self._key: Final = signing_key(SECRET, f"{now:%Y%m%d}", REGION, service)

    def make(self, action: str, body: bytes) -> bytes:
        """Head and body of one request to SQS in AWS JSON 1.0."""
        return self._post("/", "x-amz-target", f"AmazonSQS.{action}", body)

    def invoke(self, function: str, kind: str, body: bytes) -> bytes:
        """Head and body of one Invoke of Lambda; the kind is its invocation type."""
        return self._post(f"/2015-03-31/functions/{function}/invocations", "x-amz-invocation-type", kind, body)

    def _post(self, path: str, header: str, value: str, body: bytes) -> bytes:
        """``header`` is the one that differs by service; like all others it is signed."""
        names = ";".join(sorted((*_SIGNED_FIRST, header)))
        signature = self._signature(path, {"x-amz-date": self._date, header: value}, names, body)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\nuser-agent: benchmark\r\ncontent-type: {_CONTENT_TYPE}\r\n"
            f"{header}: {value}\r\nx-amz-date: {self._date}\r\nauthorization: AWS4-HMAC-SHA256 "
            f"Credential={KEY_ID}/{self._scope}, SignedHeaders={names}, "
            f"Signature={signature}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _signature(self, path: str, ours: dict[str, str], names: str, body: bytes) -> str:
        headers = "".join(f"{name}:{value}\n" for name, value in sorted(ours.items()))
        canonical = (
            f"POST\n{path}\n\ncontent-type:{_CONTENT_TYPE}\nhost:{self._host}\n"
            f"{headers}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signed = f"AWS4-HMAC-SHA256\n{self._date}\n{self._scope}\n{digest}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()


def each_of(requests: Iterator[bytes]) -> Script:
    """Sends what nobody else has sent yet: all connections may share the iterator."""
    for request in requests:  # noqa: UP028 - it has no `send`, which `yield from` would pass the answers to
        yield request


def timed(requests: Iterable[bytes], took_ms: list[float]) -> Script:
    """Sends one after another, and notes how long each took."""
    for request in requests:
        started = time.perf_counter()
        yield request
        took_ms.append(1e3 * (time.perf_counter() - started))


class WireRefused(RuntimeError):
    """A server answered something else than 200, or closed the connection."""


class _Connection(asyncio.Protocol):
    """One connection; a server that closes it after each answer (moto's does) costs the time of another one."""

    def __init__(self, port: int, script: Script) -> None:
        self._port: Final = port
        self._script: Final = script
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """Opens the connection, and sends nothing."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type

    def start(self) -> None:
        """Sends the first request."""
        self._send(next(self._script, None))

    def data_received(self, data: bytes) -> None:
        self._buffer = answer = self._buffer + data
        head = answer.find(_HEAD_END)
        length = _LENGTH.search(answer, 0, head) if head >= 0 else None
        if length is None:
            return
        body_at = head + len(_HEAD_END)
        if len(answer) < body_at + int(length[1]):
            return
        self._buffer = b""
        if answer[9:11] != _SUCCESS:
            self._fail(answer.decode(errors="replace"))
            return
        if _CLOSE.search(answer, 0, body_at):
            self._close()
        try:
            following = self._script.send(answer[body_at:])
        except StopIteration:
            following = None
        self._send(following)

    def _send(self, request: bytes | None) -> None:
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._close()
        elif self._transport is None:
            self._connecting = asyncio.get_running_loop().create_task(self._send_anew(request))
        else:
            self._transport.write(request)

    async def _send_anew(self, request: bytes) -> None:
        try:
            await self.connect()
        except OSError as error:
            self._fail(str(error))
        else:
            self._send(request)

    def _close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._fail(f"the server closed the connection: {exc}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(WireRefused(why))
        self._close()


async def run_scripts(port: int, scripts: Sequence[Script]) -> float:
    """Runs each script on a connection of its own, all at the same time; answers how many seconds that took.

    The first connecting does not count. Raises WireRefused.
    """
    connections = [_Connection(port, script) for script in scripts]
    for connection in connections:
        await connection.connect()
    started = time.perf_counter()
    for connection in connections:
        connection.start()
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*(connection.done for connection in connections))
    return time.perf_counter() - started
