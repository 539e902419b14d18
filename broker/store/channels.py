"""Wake-ups: one connection a process listens on all its channels. Hints; a missed one costs time, never work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from redis import exceptions as failures

from broker.log import log
from broker.store.connection import Client
from broker.store.pipe import Subscription

Listener: TypeAlias = Callable[[bytes | None], None]
"""Called with what was published; None after a (re)connection, when something may have been missed."""

_PING_S: Final = 10.0
REPLACED_PING_S: Final = 3.0
"""Where another server may take over while a silent one keeps the connection open."""
_PONG_S: Final = 5.0
_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LOST: Final = (failures.RedisError, OSError, EOFError)


class Channels:
    """Listens on any number of channels over one connection that is checked, and made again when it is lost."""

    def __init__(self, client: Client, *, ping_s: float = _PING_S, on_lost: Callable[[], None] = lambda: None) -> None:
        self._client: Final = client
        self._ping_s: Final = ping_s
        self._on_lost: Final = on_lost
        self._listeners: Final[dict[bytes, list[Listener]]] = {}
        self._confirmed: Final[dict[bytes, asyncio.Event]] = {}
        self._leaving: Final[dict[bytes, asyncio.Event]] = {}
        self._pubsub: Subscription | None = None
        self._reader: asyncio.Task[None] | None = None
        self._adding: Final[set[asyncio.Task[None]]] = set()
        self.steady_since: float | None = float("-inf")
        """When the connection came back after it was lost, by the monotonic clock; None while it is lost."""
        self.lost_at = float("-inf")
        """When it was lost last, by the same clock."""

    async def listen(self, listeners: Mapping[str, Listener]) -> None:
        """Adds listeners; returns when Redis has confirmed every channel (or will have, once it is back)."""
        new: list[bytes] = []
        for channel, listener in listeners.items():
            name = channel.encode()
            self._listeners.setdefault(name, []).append(listener)
            if name not in self._confirmed:
                self._confirmed[name] = asyncio.Event()
                new.append(name)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_for_ever(), name="penstock-channels")
        elif new and self._pubsub is not None:
            # Not to be cancelled with this listener: those that came meanwhile wait for the same confirmation.
            adding = asyncio.create_task(self._add(self._pubsub, new), name="penstock-subscribe")
            self._adding.add(adding)
            adding.add_done_callback(self._adding.discard)
            await asyncio.shield(adding)
        for channel in listeners:
            event = self._confirmed.get(channel.encode())
            if event is not None:
                try:
                    async with asyncio.timeout(_PONG_S):
                        await event.wait()
                except TimeoutError:
                    return

    async def _add(self, pubsub: Subscription, channels: Sequence[bytes]) -> None:
        with contextlib.suppress(*_LOST):  # the reader notices and subscribes again to everything
            await pubsub.subscribe(*channels)

    async def listen_all(self, listeners: Mapping[str, Sequence[Listener]]) -> None:
        """The same with several listeners a channel."""
        deepest = max((len(group) for group in listeners.values()), default=0)
        for depth in range(deepest):
            await self.listen({name: group[depth] for name, group in listeners.items() if depth < len(group)})

    async def unlisten(self, channel: str, listener: Listener) -> None:
        """Removes one listener; the last one of a channel ends the subscription."""
        name = channel.encode()
        remaining = self._listeners.get(name, [])
        if listener in remaining:
            remaining.remove(listener)
        if not remaining and name in self._listeners:
            del self._listeners[name]
            self._confirmed.pop(name, None)
            if self._pubsub is not None:
                with contextlib.suppress(*_LOST):
                    await self._pubsub.unsubscribe(name)

    async def leave(self, channel: str, listener: Listener) -> None:
        """The same for the only listener of a channel, who first hears whatever was published until Redis knows of it;
        who publishes afterwards is told that nobody listens. Where the connection is lost meanwhile, what it held is.
        """
        name = channel.encode()
        if self._pubsub is None or not self.hears(channel):
            await self.unlisten(channel, listener)
            return
        left = self._leaving[name] = asyncio.Event()
        try:
            with contextlib.suppress(*_LOST):
                await self._pubsub.unsubscribe(name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PONG_S):
                    await left.wait()
        finally:
            del self._leaving[name]
            self._listeners.pop(name, None)
            self._confirmed.pop(name, None)

    def renew(self) -> None:
        """Makes the connection anew: the address may lead elsewhere by now."""
        if self._pubsub is not None:
            self._pubsub.close()  # the reader notices

    def hears(self, channel: str) -> bool:
        """Whether Redis has confirmed that this channel is listened to."""
        confirmed = self._confirmed.get(channel.encode())
        return confirmed is not None and confirmed.is_set()

    def steadiness_of(self, channel: str) -> tuple[float | None, float]:  # noqa: ARG002 - there is one connection
        """``steady_since`` and ``lost_at`` of the connection on which this channel is heard."""
        return self.steady_since, self.lost_at

    async def close(self) -> None:
        """Ends the connection."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None

    async def _read_for_ever(self) -> None:
        failed = 0
        while self._listeners:
            pubsub = self._client.pubsub()
            try:
                await self._subscribe(pubsub)
                if self.steady_since is None:
                    self.steady_since = time.monotonic()
                if failed:
                    log.info("channels_back", after_attempts=failed)
                failed = 0
                await self._read(pubsub)
            except _LOST as error:
                if self.steady_since is not None:
                    self.steady_since, self.lost_at = None, time.monotonic()
                self._on_lost()
                if not failed:
                    log.warning("channels_lost", reason=str(error) or type(error).__name__)
                await asyncio.sleep(_BACKOFF_S[min(failed, len(_BACKOFF_S) - 1)])
                failed += 1
            finally:
                self._pubsub = None
                for event in self._confirmed.values():
                    event.clear()
                for name, left in self._leaving.items():
                    self._listeners.pop(name, None)
                    left.set()
                pubsub.close()
        self._reader = None  # nobody listens; the next one starts it anew (no await since the loop's condition)

    async def _subscribe(self, pubsub: Subscription) -> None:
        """Subscribes to everything, also to what is added while that takes its time."""
        subscribed: set[bytes] = set()
        while missing := self._listeners.keys() - subscribed:
            await pubsub.subscribe(*missing)
            subscribed |= missing
        self._pubsub = pubsub

    async def _read(self, pubsub: Subscription) -> None:
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=min(_PONG_S, self._ping_s) if pinged else self._ping_s)
            if message is None:
                if pinged:
                    raise ConnectionError("no answer to PING")
                await pubsub.ping()
                pinged = True
                continue
            pinged = False
            self._dispatch(*message)

    def _dispatch(self, kind: bytes, channel: bytes, data: bytes = b"") -> None:
        if kind == b"subscribe":
            event = self._confirmed.get(channel)
            if event is not None:
                event.set()
        if kind == b"unsubscribe" and channel in self._leaving:
            self._leaving[channel].set()
        if kind in {b"subscribe", b"message"}:
            for listener in tuple(self._listeners.get(channel, ())):
                try:
                    listener(data if kind == b"message" else None)
                except Exception:  # noqa: BLE001 - one that fails must not make the process deaf for the others
                    log.exception("listener_failed", channel=channel.decode())
