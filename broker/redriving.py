"""Redriving: dead letters go back to where each came from while the caller waits. What outlives its program is a move
task (:mod:`broker.moves`)."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core import Core
from broker.errors import FunctionNotFound, InvalidOption, QueueNotFound
from broker.message import Message
from broker.names import Function, Kind, Queue, Resource
from broker.receiving import Receive, Receiver
from broker.routing import Relay
from broker.store.values import Deferral, Onward

_BATCH: Final = 100
_LEASE_S: Final = 60
_KINDS: Final[dict[type[Queue | Function], Kind]] = {Queue: "queue", Function: "function"}


def resource_of(core: Core, target: Queue | Function) -> Resource:
    """What a target names, in this process's account and region."""
    return core.resource(_KINDS[type(target)], target.name)


class Redrive:
    """Sends what is in one queue back to where each message came from, or to one target. Errors: InvalidOption,
    NotFound, StoreError."""

    def __init__(
        self, core: Core, receiver: Receiver, relay: Relay, queue: Resource, to: Queue | Function | None
    ) -> None:
        self._core: Final = core
        self._receiver: Final = receiver
        self._relay: Final = relay
        self._queue: Final = queue
        self._to: Final = to
        self._known: Final[dict[str, bool]] = {}

    async def run(self, count: int | None) -> int:
        """Moves at most so many messages, and answers how many. One whose source is not known, or is gone, stays."""
        to = self._to
        if to == Queue(self._queue.name):
            raise InvalidOption("to", self._queue.name, "a queue cannot be redriven to itself")
        if to is not None and not await self._exists(resource_of(self._core, to)):
            raise QueueNotFound(to.name) if isinstance(to, Queue) else FunctionNotFound(to.name)
        moved = 0
        for part in await self._core.partitions.parts(self._queue):
            moved += await self._redrive_part(part, None if count is None else count - moved)
            await self._relay.deliver(part)
        return moved

    async def _redrive_part(self, part: Resource, count: int | None) -> int:
        moved, staying = 0, dict[str, Message]()
        try:
            while count is None or moved < count:
                room = _BATCH if count is None else min(_BATCH, count - moved)
                messages, _ = await self._receiver.take(part, Receive(count=room, visibility_s=_LEASE_S), wake=False)
                going = [message for message in messages if self._to is not None or await self._has_source(message)]
                # What stays is kept leased until the end, so that it does not stand before what can go.
                fresh = [message for message in messages if message not in going and message.entry not in staying]
                staying |= {message.entry: message for message in messages if message not in going}
                moved += await self._send_back(part, going)
                if not going and not fresh:
                    break
        finally:
            await self._release_all(part, list(staying.values()))
        return moved

    async def _exists(self, resource: Resource) -> bool:
        if resource.arn not in self._known:
            self._known[resource.arn] = await self._core.directory.describe(resource) is not None
        return self._known[resource.arn]

    async def _has_source(self, message: Message) -> bool:
        return bool(message.source) and await self._exists(Resource.from_arn(message.source or ""))

    async def _send_back(self, part: Resource, messages: list[Message]) -> int:
        if not messages:
            return 0
        onward = [
            Onward(index, "r", msgspec.msgpack.encode(message.redriven(self._to)))
            for index, message in enumerate(messages)
        ]
        members = [message.member for message in messages]
        done = await self._core.messages.finish(part, members, counter="deleted", onward=onward)
        return done.settled

    async def _release_all(self, part: Resource, messages: list[Message]) -> None:
        for start in range(0, len(messages), _BATCH):
            deferrals = [Deferral(message.member, 0) for message in messages[start : start + _BATCH]]
            await self._core.messages.defer(part, deferrals, counter="released")
