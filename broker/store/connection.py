"""The connection to Redis: every option set by us, errors translated once, the server checked before it is trusted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import hiredis
import redis
import redis.asyncio
from redis import exceptions as failures
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import errors
from broker.store.addresses import hidden

MIN_VERSION: Final = (6, 2)
_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 5.0
_POOL_SIZE: Final = 64
_POOL_WAIT_S: Final = 30.0


class _Tuned(AbstractConnection):
    """What we do otherwise than the library's asyncio connections.

    hiredis writes commands too: 0.15 against 1 µs an argument, and a settle has two thousand. And there is no
    `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that comes in the moment of success.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command(args)]

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: ARG002, FBT001, FBT002 - the library's
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        text = command.encode() if isinstance(command, str) else command
        writer = self._writer
        if writer is None:
            raise failures.ConnectionError("connection closed meanwhile")
        try:
            writer.writelines([text] if isinstance(text, bytes) else text)
            async with asyncio.timeout(self.socket_timeout):
                await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise failures.TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise failures.ConnectionError(f"while writing to socket: {error}") from error
        except BaseException:  # a command that is half written leaves no connection to go on with
            await self.disconnect(nowait=True)
            raise


class _TcpConnection(_Tuned, redis.asyncio.Connection):
    pass


class _TlsConnection(_Tuned, redis.asyncio.SSLConnection):
    pass


class _UnixConnection(_Tuned, redis.asyncio.UnixDomainSocketConnection):
    pass


_TUNED: Final[dict[type[Any], type[Any]]] = {
    redis.asyncio.Connection: _TcpConnection,
    redis.asyncio.SSLConnection: _TlsConnection,
    redis.asyncio.UnixDomainSocketConnection: _UnixConnection,
}


def connect(url: str, *, pool_size: int = _POOL_SIZE, timeout_s: float | None = None) -> redis.asyncio.Redis:
    """A client that never re-sends a command by itself: after a lost reply the outcome is the caller's to settle."""
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=pool_size,
            timeout=_POOL_WAIT_S,
            retry=AsyncRetry(NoBackoff(), 0),
            retry_on_timeout=False,
            **_options(url, timeout_s or _TIMEOUT_S),
        )
    except ValueError as error:
        raise errors.InvalidOption("url", hidden(url), str(error)) from error
    pool.connection_class = _TUNED[pool.connection_class]
    client = redis.asyncio.Redis.from_pool(pool)
    client.response_callbacks.clear()  # replies as they came: the library's forms differ between its versions
    return client


def connect_in_thread(url: str, *, timeout_s: float | None = None) -> redis.Redis:
    """A blocking client for a thread of its own."""
    retry = Retry(NoBackoff(), 0)
    client = redis.Redis.from_url(url, retry=retry, retry_on_timeout=False, **_options(url, timeout_s or _TIMEOUT_S))
    client.response_callbacks.clear()
    return client


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, _CONNECT_TIMEOUT_S),
        "decode_responses": False,
        "health_check_interval": 0,
        "protocol": 2,
    }
    if not url.startswith("unix"):
        options["socket_keepalive"] = True
    return options


@contextmanager
def translated(url: str, chosen_by: str) -> Iterator[None]:
    """Turns redis errors into ours; a lost connection says which address was used and why that one."""
    try:
        yield
    except (failures.AuthenticationError, failures.NoPermissionError) as error:
        raise errors.StoreDenied(f"Redis at {hidden(url)} refused: {error}") from error
    except failures.ReadOnlyError as error:
        raise errors.StoreReadOnly(f"Redis at {hidden(url)} is a read-only replica") from error
    except failures.OutOfMemoryError as error:
        raise errors.StoreFull(f"Redis at {hidden(url)} has reached its maxmemory; nothing was stored") from error
    except (failures.ConnectionError, failures.TimeoutError, OSError) as error:
        # What the server answered to the first words on a new connection comes wrapped as a lost connection.
        if isinstance(error.__cause__, failures.AuthenticationError | failures.NoPermissionError):
            raise errors.StoreDenied(f"Redis at {hidden(url)} refused: {error.__cause__}") from error
        raise errors.StoreUnavailable(
            f"no answer from Redis at {hidden(url)} ({chosen_by}): {str(error) or type(error).__name__}"
        ) from error
    except failures.NoScriptError:
        raise
    except (failures.ClusterDownError, failures.TryAgainError, failures.AskError) as error:  # AskError: also MOVED
        raise errors.StoreUnavailable(f"Redis at {hidden(url)} cannot serve at the moment: {error}") from error
    except failures.ResponseError as error:
        raise _from_reply(str(error), url) from error


def _from_reply(text: str, url: str) -> errors.StoreError:
    """The error for a reply that reaches us through a script, where redis-py knows only the text."""
    place = f"Redis at {hidden(url)}"
    if "OOM command not allowed" in text:
        return errors.StoreFull(f"{place} has reached its maxmemory; nothing was stored")
    if "READONLY" in text:
        return errors.StoreReadOnly(f"{place} is a read-only replica")
    if any(
        word in text for word in ("LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "UNBLOCKED")
    ):
        return errors.StoreUnavailable(f"{place} cannot serve at the moment: {text}")
    if any(word in text for word in ("NOAUTH", "NOPERM", "WRONGPASS")):
        return errors.StoreDenied(f"{place} refused: {text}")
    return errors.StoreFault(f"{place} answered: {text}")


def check_server(info: bytes, url: str, *, mode: str = "standalone") -> None:
    """Raises StoreUnsuitable for a server that is too old, may evict keys or is not of that mode, StoreReadOnly for a
    replica (in a cluster these are fine).

    ``info`` is the reply of INFO.
    """
    found = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    place = f"Redis at {hidden(url)}"
    version = found.get("redis_version", "0")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < MIN_VERSION:
        raise errors.StoreUnsuitable(f"{place} is version {version}; Penstock needs 6.2 or newer (or Valkey 7.2)")
    _check_mode(found.get("redis_mode", "standalone"), mode, url)
    policy = found.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise errors.StoreUnsuitable(
            f"{place} has maxmemory-policy {policy}, which throws events away when memory is short; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
    replica = found.get("role") == "slave" and found.get("slave_read_only", "1") == "1"
    if replica and mode != "cluster":
        raise errors.StoreReadOnly(f"{place} is a read-only replica; give the address of the primary")


def _check_mode(found: str, wanted: str, url: str) -> None:
    """The address says what is meant: a single address of a cluster would be a single point at every start."""
    if found == wanted:
        return
    scheme, _, rest = hidden(url).partition("://")
    match found:
        case "cluster":
            what = f"a node of a cluster; write {scheme}+cluster://{rest}, and more nodes after it, with commas between"
        case "sentinel":
            what = (
                f"a Sentinel; write {scheme}+sentinel://{rest.rstrip('/')}/ and the name of the primary that it knows"
            )
        case _:
            what = "not a cluster (cluster-enabled no); write redis:// instead of redis+cluster://"
    raise errors.StoreUnsuitable(f"Redis at {hidden(url)} is {what}")
