"""The listening socket: uvicorn's HTTP on a port, in the caller's own event loop, with a stop that lets work end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Final

import anyio
import msgspec
from uvicorn import Config
from uvicorn.server import ServerState

from broker.errors import PenstockError
from broker.gateway.asgi import AsgiApp
from broker.gateway.protocol import Clock, GuardedProtocol, Limits
from broker.log import log

DEFAULT_GRACE_S: Final = 25.0
MAX_CONNECTIONS: Final = 10_000
_BACKLOG: Final = 2_048
_LOOK_EVERY_S: Final = 1.0
_CANCELLED_S: Final = 1.0
_HURRIED_S: Final = 0.5
_DEFAULT_LIMITS: Final = Limits()


class AddressUnusable(PenstockError):
    """Nobody can listen there: the port is taken, or the address is not this machine's."""

    code = "AddressUnusable"

    def __init__(self, host: str, port: int, reason: str, *, options: str = "--port, or --host") -> None:
        super().__init__(f"cannot listen on {host} port {port}: {reason}")
        self.host, self.port, self.reason = host, port, reason
        self.options = options
        """Those of the command that choose another address."""


class Bound(msgspec.Struct, frozen=True):
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Its address for clients, without a slash at the end."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens there: all addresses of the name are loopback ones."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


@asynccontextmanager
async def serve(
    app: AsgiApp,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    max_connections: int = MAX_CONNECTIONS,
    grace_s: float = DEFAULT_GRACE_S,
    look_every_s: float = _LOOK_EVERY_S,
) -> AsyncIterator[Bound]:
    """Serves the app while the block runs, and gives the address; port 0 is any free one.

    At the end nothing new is accepted, waits (long polls) end at once, and what runs has ``grace_s`` seconds before it
    is cancelled; a cancellation meanwhile shortens that. Raises AddressUnusable.
    """
    server = _Server(app, limits=limits, max_connections=max_connections, look_every_s=look_every_s)
    bound = await server.listen(host, port)
    looking = asyncio.create_task(server.look_around(), name="penstock-http-limits")
    try:
        yield bound
    finally:
        try:
            cut_off = await server.stop(grace_s)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await server.stop(min(grace_s, _HURRIED_S))
            raise
        finally:
            looking.cancel()
        log.info("gateway_stopped", url=bound.url, cut_off=cut_off)


class _Server:
    def __init__(self, app: AsgiApp, *, limits: Limits, max_connections: int, look_every_s: float) -> None:
        self._config: Final = Config(
            app, interface="asgi3", ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False
        )
        self._config.load()
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # below that, it tells of every bad request
        self._state: Final = ServerState()
        self._limits: Final = limits
        self._max_connections: Final = max_connections
        self._look_every_s: Final = look_every_s
        self._clock: Final = Clock()
        self._full = self._stopping = False
        self._listener: asyncio.Server | None = None
        self._tick()

    async def listen(self, host: str, port: int) -> Bound:
        """Opens the port. Raises AddressUnusable."""
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._connect, host, port, backlog=_BACKLOG)
        except (OSError, OverflowError) as error:
            raise AddressUnusable(host, port, _reason(error)) from error
        return Bound(host, self._listener.sockets[0].getsockname()[1])

    def _connect(self) -> asyncio.Protocol:
        if self._stopping:  # accepted just before: whoever stops does not know of it
            return _ClosedAtOnce()
        full = len(self._state.connections) >= self._max_connections
        if full and not self._full:
            log.warning("gateway_full", connections=self._max_connections, reason="new connections are closed at once")
        self._full = full
        if full:
            return _ClosedAtOnce()
        return GuardedProtocol(self._config, self._state, limits=self._limits, clock=self._clock)

    async def look_around(self) -> None:
        """Keeps the time, the Date header and the limits of time of all connections."""
        while True:
            await asyncio.sleep(self._look_every_s)
            self._tick()
            for connection in self._connections():
                connection.look_after()

    def _tick(self) -> None:
        self._clock.now_s = asyncio.get_running_loop().time()
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    def _connections(self) -> list[GuardedProtocol]:
        return [each for each in self._state.connections if isinstance(each, GuardedProtocol)]

    async def stop(self, grace_s: float) -> int:
        """Ends in order; answers how many requests were cancelled."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in self._connections():
            connection.shutdown()
        tasks = set(self._state.tasks)
        late: set[asyncio.Task[None]] = set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCELLED_S)
        await self._flush(grace_s if not late else _CANCELLED_S)
        return len(late)

    async def _flush(self, within_s: float) -> None:
        """Answers that were made are still on their way to clients that read slowly."""
        until_s = asyncio.get_running_loop().time() + within_s
        while self._state.connections and asyncio.get_running_loop().time() < until_s:
            if not any(connection.transport.get_write_buffer_size() for connection in self._connections()):
                break
            await asyncio.sleep(0.02)
        for connection in self._connections():
            connection.transport.abort()


class _ClosedAtOnce(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _reason(error: OSError | OverflowError) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        text = error.strerror.lower()
        return "the port is taken by another program" if "in use" in text else text
    return str(error)
