"""The connection to Redis: every option set by us, errors translated once, the server checked before it is trusted."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from weakref import WeakSet

import redis
import redis.asyncio
from redis import exceptions as failures
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import errors
from broker.store.addresses import hidden
from broker.store.pipe import Pipe, Subscription
from broker.store.server import CANNOT_SAVE, compatible_with, mode_of, read_info, software_of

MIN_VERSION: Final = (6, 2)
_TIMEOUT_S: Final = 10.0
_IN_A_SCRIPT: Final = re.compile(r"^Error running script .*@user_script: \d+: -?")
"""What Redis 6.2 puts before the error of a command in a script."""
_CONNECT_TIMEOUT_S: Final = 5.0


Execute: TypeAlias = Callable[..., Awaitable[Any]]
"""Sends one command, its words one by one, and answers the raw reply."""


class Client:
    """Redis for the tasks of one event loop: one connection for commands, and others that listen."""

    def __init__(self, pool: redis.asyncio.ConnectionPool, *, timeout_s: float) -> None:
        self.pool: Final = pool
        """Makes the connections; none of its own is used."""
        self._pipe: Final = Pipe(pool, timeout_s=timeout_s)
        self._subscriptions: Final[WeakSet[Subscription]] = WeakSet()
        self._others: Final[set[Pipe]] = set()
        self.execute: Final = self._pipe.execute
        self.together: Final = self._pipe.together

    def another_pipe(self, *, waits_s: float) -> Pipe:
        """A connection for commands of its own, which may block it for so long."""
        pipe = Pipe(self.pool, timeout_s=_TIMEOUT_S + waits_s)
        self._others.add(pipe)
        return pipe

    def pubsub(self) -> Subscription:
        """A connection that listens on channels."""
        subscription = Subscription(self.pool)
        self._subscriptions.add(subscription)
        return subscription

    def leave(self) -> None:
        """The next command takes a new connection, which may lead to another server."""
        self._pipe.leave()

    async def drop(self) -> None:
        """Ends all connections at once: whoever waits for something hears that it is lost."""
        for pipe in (self._pipe, *self._others):
            await pipe.close()
        for subscription in tuple(self._subscriptions):
            subscription.close()

    async def aclose(self) -> None:
        """Ends the connection for commands."""
        await self._pipe.close()


def connect(url: str, *, timeout_s: float | None = None) -> Client:
    """A client that never re-sends a command by itself: after a lost reply the outcome is the caller's to settle."""
    timeout_s = timeout_s or _TIMEOUT_S
    try:
        options = _options(url, timeout_s) | {"socket_timeout": None}  # the pipe has its own
        pool = redis.asyncio.ConnectionPool.from_url(
            url, retry=AsyncRetry(NoBackoff(), 0), retry_on_timeout=False, **options
        )
    except ValueError as error:
        raise errors.InvalidOption("url", hidden(url), str(error)) from error
    return Client(pool, timeout_s=timeout_s)


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


def server_at(url: str) -> str:
    """A server as messages name it, without its password."""
    return f"Redis at {hidden(url)}"


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
        raise _from_lost(error, url, chosen_by) from error
    except failures.InvalidResponse as error:
        raise errors.StoreUnsuitable(f"what answers at {hidden(url)} ({chosen_by}) is no Redis: {error}") from error
    except failures.NoScriptError:
        raise
    except (failures.ClusterDownError, failures.TryAgainError, failures.AskError) as error:  # AskError: also MOVED
        raise errors.StoreUnavailable(f"Redis at {hidden(url)} cannot serve at the moment: {error}") from error
    except failures.ResponseError as error:
        raise _from_reply(str(error), url) from error


def _from_lost(error: Exception, url: str, chosen_by: str) -> errors.StoreError:
    # What the server answered to the first words on a new connection comes wrapped as a lost connection.
    if isinstance(error.__cause__, failures.AuthenticationError | failures.NoPermissionError):
        return errors.StoreDenied(f"Redis at {hidden(url)} refused: {error.__cause__}")
    if isinstance(error, failures.BusyLoadingError):
        return errors.StoreUnavailable(f"Redis at {hidden(url)} cannot serve at the moment: {error}")
    return errors.StoreUnavailable(
        f"no answer from Redis at {hidden(url)} ({chosen_by}): {str(error) or type(error).__name__}"
    )


def _from_reply(text: str, url: str) -> errors.StoreError:
    """The error for a reply that reaches us through a script, where redis-py knows only the text."""
    place = f"Redis at {hidden(url)}"
    text = _IN_A_SCRIPT.sub("", text)
    if "OOM command not allowed" in text:
        return errors.StoreFull(f"{place} has reached its maxmemory; nothing was stored")
    if "READONLY" in text:
        return errors.StoreReadOnly(f"{place} is a read-only replica")
    if any(
        word in text
        for word in (
            "LOADING",
            "BUSY",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "TRYAGAIN",
            CANNOT_SAVE,
            "NOREPLICAS",
            "UNBLOCKED",
        )
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
    found = read_info(info)
    place = f"Redis at {hidden(url)}"
    if compatible_with(found) < MIN_VERSION:
        version = software_of(found).version
        raise errors.StoreUnsuitable(f"{place} is version {version}; Penstock needs 6.2 or newer (or Valkey 7.2)")
    _check_mode(mode_of(found), mode, url)
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
