"""What a process holds to reach its Redis, whatever the address means: where commands go, and who serves a name."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import redis
from redis import exceptions as failures

from broker.store.addresses import Place, Target, read_address
from broker.store.cluster import ClusterLink
from broker.store.cluster_thread import ClusterThreadLink
from broker.store.connection import Client, Execute, check_server, connect, connect_in_thread, server_at
from broker.store.sentinel import Finder, connect_to_primary, connect_to_primary_in_thread, demoted, was_demoted

_WATCH_S: Final = 0.2
_SILENT_S: Final = 1.0
_ASK_S: Final = 1.0
"""How often Sentinels are asked, whatever is heard of the primary."""
_THREAD_TIMEOUT_S: Final = 3.0
"""Where another server may take over, the thread that renews leases must not wait long for one that is silent."""


class SingleLink:
    """One server: commands go to its connection directly."""

    spread: Final = False

    def __init__(self, target: Target, client: Client) -> None:
        self.target: Final = target
        self.client: Final = client
        self.execute: Execute = client.execute

    def client_for(self, name: str | bytes) -> Client:  # noqa: ARG002 - there is only one
        """The connections to the server of a name."""
        return self.client

    def place_of(self, name: str | bytes) -> Place | None:  # noqa: ARG002
        """None: there is only one place."""
        return None

    def servers(self) -> list[tuple[str, Execute]]:
        """The one server, as messages name it, and what sends it commands."""
        return [(server_at(self.target.url), self.execute)]

    async def execute_at(self, place: Place, *command: str | bytes | int) -> Any:  # noqa: ARG002 - there is only one
        """The reply of the one server."""
        return await self.execute(*command)

    async def everywhere(self, *command: str | bytes | int) -> list[Any]:
        """The reply of the one server."""
        return [await self.execute(*command)]

    async def check(self) -> list[bytes]:
        """Checks the server, and answers what it says of itself. Errors: StoreUnsuitable, StoreReadOnly, or redis's."""
        info = await self.execute("INFO")
        check_server(info, self.target.url)
        return [info]

    def doubt(self) -> None:
        """There is only one server that could serve a name."""

    def leave(self) -> None:
        """The server is a replica now: the next command takes a new connection, which may lead elsewhere."""
        self.client.leave()

    async def close(self) -> None:
        """Ends the connections."""
        await self.client.aclose()


class SentinelLink(SingleLink):
    """The primary that Sentinels know; it looks to it that nobody waits long for one that was replaced."""

    def __init__(self, target: Target) -> None:
        self._finder: Final = Finder(target)
        super().__init__(target, connect_to_primary(target, self._finder))
        self._send: Final = self.execute
        self.execute = self._counted
        self._under_way = self._answered = 0
        self._watching: asyncio.Task[None] | None = None

    async def _counted(self, *command: str | bytes | int) -> Any:
        self._under_way += 1
        try:
            return await self._send(*command)
        except failures.ResponseError as error:
            if not was_demoted(error):
                raise
            self.client.leave()
            raise failures.ConnectionError(demoted(self._finder.found)) from error
        finally:
            self._answered += 1
            self._under_way -= 1

    async def check(self) -> list[bytes]:
        """As for one server; watches from then on."""
        infos = await super().check()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="penstock-sentinel-watch")
        return infos

    async def _watch(self) -> None:
        """Whoever is silent may have been replaced. Whoever answers, too: after a planned failover a primary goes on
        for ten seconds, until it is told, and what it accepts meanwhile is forgotten then."""
        primary, before = self._finder.found, 0
        heard_at = asked_at = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_S)
            now = time.monotonic()
            if not self._under_way or self._answered != before:
                before, heard_at = self._answered, now
            if now - heard_at >= _SILENT_S or now - asked_at >= _ASK_S:
                asked_at = now
                with contextlib.suppress(failures.RedisError, OSError):
                    await self._finder.primary()
            if self._finder.found != primary:
                primary = self._finder.found
                await self.client.drop()

    async def close(self) -> None:
        """Ends the connections."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await super().close()


Link: TypeAlias = SingleLink | ClusterLink


def open_link(url: str) -> Link:
    """The link for a URL; nothing is connected yet. Raises InvalidOption."""
    target = read_address(url)
    match target.kind:
        case "cluster":
            return ClusterLink(target)
        case "sentinel":
            return SentinelLink(target)
        case "single":
            return SingleLink(target, connect(url))


class ThreadLink(Protocol):
    """The same for one thread, blocking."""

    def execute(self, *command: str | bytes | int) -> Any:
        """The reply to one command. Errors: those of redis."""

    def place_of(self, name: str | bytes) -> Place | None:
        """Which server a name is on; None where there is but one, or that is not known."""

    def leave(self) -> None:
        """The server is a replica now: the next command takes a new connection."""

    def doubt(self, place: Place | None) -> None:
        """A server was lost: nobody waits for it, and whoever needs it next looks first who serves its names now."""

    def close(self) -> None:
        """Ends the connections."""


class _SingleThreadLink:
    def __init__(self, client: redis.Redis) -> None:
        self.execute: Final[Callable[..., Any]] = client.execute_command
        self.close: Final = client.close
        self.leave: Final[Callable[[], None]] = client.connection_pool.disconnect

    def doubt(self, place: Place | None) -> None:  # noqa: ARG002 - there is only one
        """The next command takes a new connection, which may lead elsewhere."""
        self.leave()

    def place_of(self, name: str | bytes) -> Place | None:  # noqa: ARG002 - there is only one
        return None


def open_thread_link(url: str) -> ThreadLink:
    """A link for a thread of its own."""
    target = read_address(url)
    match target.kind:
        case "cluster":
            return ClusterThreadLink(target, timeout_s=_THREAD_TIMEOUT_S)
        case "sentinel":
            return _SingleThreadLink(connect_to_primary_in_thread(target, timeout_s=_THREAD_TIMEOUT_S))
        case "single":
            return _SingleThreadLink(connect_in_thread(url))
