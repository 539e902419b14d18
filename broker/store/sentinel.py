"""A primary that Sentinels know: every new connection asks them where it is, so that a failover is followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import redis
from redis import exceptions as failures

from broker.store.addresses import Place, Target, written
from broker.store.connection import Client, connect, connect_in_thread

ASK_TIMEOUT_S: Final = 1.0
_COMMAND: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class Finder:
    """Asks the Sentinels, the one that answered last first. One question at a time, for all who want to know."""

    def __init__(self, target: Target) -> None:
        self._target: Final = target
        self._order: Final = list(target.places)
        self._asking: asyncio.Task[Place] | None = None
        self.found: Place | None = None
        """The primary, as it was said last."""

    async def primary(self) -> Place:
        """Where the primary is. Raises redis's ConnectionError when no Sentinel says so."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), name="penstock-sentinels")
        return await asyncio.shield(self._asking)

    async def _ask_all(self) -> Place:
        reasons: list[str] = []
        for place in tuple(self._order):
            client = connect(self._target.sentinel_url(place), timeout_s=ASK_TIMEOUT_S)
            try:
                reply = await client.execute(*_COMMAND, self._target.service)
            except (failures.RedisError, OSError) as error:
                if isinstance(error, failures.AuthenticationError | failures.NoPermissionError):
                    raise
                reasons.append(str(error) or type(error).__name__)
            else:
                if reply is not None:
                    self.found = _read(reply)
                    self._order.remove(place)
                    self._order.insert(0, place)
                    return self.found
                reasons.append(_unknown(place, self._target))
            finally:
                with contextlib.suppress(failures.RedisError, OSError):
                    await client.aclose()
        raise failures.ConnectionError(f"no Sentinel names the primary: {'; '.join(reasons)}")


class ThreadFinder:
    """The same for a thread."""

    def __init__(self, target: Target) -> None:
        self._target: Final = target

    def primary(self) -> Place:
        """As :meth:`Finder.primary`."""
        reasons: list[str] = []
        for place in self._target.places:
            client = connect_in_thread(self._target.sentinel_url(place), timeout_s=ASK_TIMEOUT_S)
            try:
                reply = client.execute_command(*_COMMAND, self._target.service)  # type: ignore[no-untyped-call]
            except (failures.RedisError, OSError) as error:
                reasons.append(str(error) or type(error).__name__)
            else:
                if reply is not None:
                    return _read(reply)
                reasons.append(_unknown(place, self._target))
            finally:
                client.close()
        raise failures.ConnectionError(f"no Sentinel names the primary: {'; '.join(reasons)}")


def _read(reply: Sequence[bytes]) -> Place:
    return reply[0].decode(), int(reply[1])


def _unknown(place: Place, target: Target) -> str:
    return f'the one at {written(place)} knows no service "{target.service}"'


class _Following:
    """What a connection does to be one to the primary, whoever that is."""

    finder: Finder
    host: str
    port: int

    async def _connect(self) -> None:
        self.host, self.port = await self.finder.primary()
        await super()._connect()  # type: ignore[misc]

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - the library's
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        # Sentinels may still name a primary that was demoted, or one that came back and has not heard of it.
        await self.send_command("ROLE")  # type: ignore[attr-defined]
        _check_role(await self.read_response(), (self.host, self.port))  # type: ignore[attr-defined]


class _ThreadFollowing:
    finder: ThreadFinder
    host: str
    port: int

    def _connect(self) -> Any:
        self.host, self.port = self.finder.primary()
        return super()._connect()  # type: ignore[misc]

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - the library's
        super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        self.send_command("ROLE")  # type: ignore[attr-defined]
        _check_role(self.read_response(), (self.host, self.port))

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except failures.ResponseError as error:
            if not was_demoted(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise failures.ConnectionError(demoted((self.host, self.port))) from error


def _check_role(reply: Sequence[Any], place: Place) -> None:
    if reply[0] != b"master":
        raise failures.ConnectionError(demoted(place))


def was_demoted(error: failures.ResponseError) -> bool:
    """Also where a script was refused: then only the text says so. Nothing was written."""
    return isinstance(error, failures.ReadOnlyError) or "READONLY" in str(error)


def demoted(place: Place | None) -> str:
    """What is said of a server that was the primary."""
    return f"{written(place) if place else 'the server'} is not the primary any more, or not yet"


def connect_to_primary(target: Target, finder: Finder) -> Client:
    """A client like any other, whose new connections go to the primary of the moment."""
    client = connect(target.node_url(target.places[0]))
    pool = client.pool
    pool.connection_class = type("_Following", (_Following, pool.connection_class), {"finder": finder})
    return client


def connect_to_primary_in_thread(target: Target, *, timeout_s: float) -> redis.Redis:
    """The same for a thread of its own."""
    client = connect_in_thread(target.node_url(target.places[0]), timeout_s=timeout_s)
    pool = client.connection_pool
    following = {"finder": ThreadFinder(target)}
    pool.connection_class = type("_ThreadFollowing", (_ThreadFollowing, pool.connection_class), following)
    return client
