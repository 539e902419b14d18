"""Wake-ups on a cluster: each channel is heard at the node that serves its slot, and follows it to another.

A cluster passes on what is published at any node, but an answer to PUBLISH counts only those who listen at the same
node, and what is passed on may get lost. So publishers and listeners of a channel meet at the node of its slot.
While a channel moves, it is heard at both nodes for a moment: what must not be heard twice is known by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from redis import exceptions as failures

from broker.store.addresses import Place
from broker.store.channels import REPLACED_PING_S, Channels, Listener
from broker.store.cluster import ClusterLink

_CLOSE_S: Final = 1.0


class ClusterChannels:
    """As :class:`Channels`, with a connection to each node that has any of the channels."""

    def __init__(self, link: ClusterLink) -> None:
        self._link: Final = link
        self._lines: Final[dict[Place, Channels]] = {}
        self._homes: Final[dict[str, Place]] = {}
        self._listeners: Final[dict[str, list[Listener]]] = {}
        self._moving: asyncio.Task[None] | None = None
        self._again = False
        link.on_moved = self._follow

    @property
    def steady_since(self) -> float | None:
        """When the last of the connections came back, by the monotonic clock; None while one is lost."""
        since = [line.steady_since for line in self._lines.values()]
        return None if None in since else max((when for when in since if when is not None), default=float("-inf"))

    @property
    def lost_at(self) -> float:
        """When one was lost last, by the same clock."""
        return max((line.lost_at for line in self._lines.values()), default=float("-inf"))

    def hears(self, channel: str) -> bool:
        """Whether Redis has confirmed that this channel is listened to."""
        place = self._homes.get(channel)
        return place is not None and place in self._lines and self._lines[place].hears(channel)

    def steadiness_of(self, channel: str) -> tuple[float | None, float]:
        """``steady_since`` and ``lost_at`` of the connection on which this channel is heard, or would be."""
        place = self._homes.get(channel) or self._link.place_of(channel)
        line = self._lines.get(place) if place else None
        return (line.steady_since, line.lost_at) if line else (float("-inf"), float("-inf"))

    def renew(self) -> None:
        """Makes the connections anew: the addresses may lead elsewhere by now."""
        for line in self._lines.values():
            line.renew()

    async def listen(self, listeners: Mapping[str, Listener]) -> None:
        """Adds listeners; returns when Redis has confirmed every channel (or will have, once it is back)."""
        by_place: dict[Place, dict[str, Listener]] = {}
        for channel, listener in listeners.items():
            self._listeners.setdefault(channel, []).append(listener)
            place = self._homes.get(channel) or await self._home(channel)
            self._homes[channel] = place
            by_place.setdefault(place, {})[channel] = listener
        await asyncio.gather(*(self._line(place).listen(group) for place, group in by_place.items()))

    async def listen_all(self, listeners: Mapping[str, Sequence[Listener]]) -> None:
        """The same with several listeners a channel."""
        deepest = max((len(group) for group in listeners.values()), default=0)
        for depth in range(deepest):
            await self.listen({name: group[depth] for name, group in listeners.items() if depth < len(group)})

    async def unlisten(self, channel: str, listener: Listener) -> None:
        """Removes one listener; the last one of a channel ends the subscription."""
        remaining = self._listeners.get(channel, [])
        if listener not in remaining:
            return
        remaining.remove(listener)
        place = self._homes[channel]
        if not remaining:
            del self._listeners[channel], self._homes[channel]
        await self._line(place).unlisten(channel, listener)

    async def leave(self, channel: str, listener: Listener) -> None:
        """The same for the only listener of a channel, who first hears whatever was published until then."""
        if channel in self._homes:
            del self._listeners[channel]
            await self._line(self._homes.pop(channel)).leave(channel, listener)

    async def close(self) -> None:
        """Ends the connections."""
        self._link.on_moved = lambda: None
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        await asyncio.gather(*(line.close() for line in self._lines.values()))

    # -- where ---------------------------------------------------------------------------------------------------------

    async def _home(self, channel: str) -> Place:
        place = self._link.place_of(channel)
        if place is None:
            with contextlib.suppress(failures.RedisError, OSError):
                await self._link.refresh()
            # Where nobody serves the slot, any node passes on what is published, until slots move again.
            nodes = self._link.primaries()
            place = self._link.place_of(channel) or (nodes[0].place if nodes else self._link.first_place)
        return place

    def _line(self, place: Place) -> Channels:
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = Channels(
                self._link.node_at(place).client, ping_s=REPLACED_PING_S, on_lost=self._link.doubt
            )
        return line

    def _follow(self) -> None:
        if self._moving is None or self._moving.done():
            self._moving = asyncio.create_task(self._move(), name="penstock-channels-move")
        else:
            self._again = True

    async def _move(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            moved: dict[Place, dict[str, Place]] = {}
            for channel, home in self._homes.items():
                place = self._link.place_of(channel)
                if place is not None and place != home:
                    moved.setdefault(place, {})[channel] = home
            await asyncio.gather(*(self._move_to(place, homes) for place, homes in moved.items()))
            serving = set(self._homes.values())
            for place in self._lines.keys() - serving:
                await self._end(self._lines.pop(place))

    async def _move_to(self, place: Place, homes: Mapping[str, Place]) -> None:
        """Hears at the new node first. The listeners are told that something may have been missed."""
        listeners = {channel: tuple(self._listeners[channel]) for channel in homes}
        self._homes.update(dict.fromkeys(homes, place))
        await self._line(place).listen_all(listeners)
        for channel, old in homes.items():
            for listener in listeners[channel] if old in self._lines else ():
                await self._leave(self._lines[old], channel, listener)

    async def _leave(self, line: Channels, channel: str, listener: Listener) -> None:
        with contextlib.suppress(TimeoutError):  # a node that does not read any more
            async with asyncio.timeout(_CLOSE_S):
                await line.unlisten(channel, listener)

    async def _end(self, line: Channels) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await line.close()
