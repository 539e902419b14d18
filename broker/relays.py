"""Relaying in the background: whoever put something into an outbox kicks its relay; what could not be delivered is
looked at again."""

from __future__ import annotations

import asyncio
from typing import Final

from broker.client import Broker
from broker.errors import StoreError
from broker.log import log
from broker.names import Resource

_AGAIN_S: Final = 2.0


class Relays:
    """At most one relay a resource runs at a time in this process; a kick meanwhile makes it look once more."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Final = broker
        self._kicked: Final[set[Resource]] = set()
        self._running: Final[dict[Resource, asyncio.Task[None]]] = {}
        self._closed = False

    def close(self) -> None:
        """Starts nothing more; what is left in an outbox is another process's, or the next one's, to deliver."""
        self._closed = True

    def kick(self, resource: Resource) -> None:
        """There is something in this outbox."""
        self._kicked.add(resource)
        if resource not in self._running and not self._closed:
            work = self._relay(resource)
            self._running[resource] = self._broker.core.in_background(work, name=f"relay-{resource.name}")

    async def settled(self) -> None:
        """Returns when no relay has anything due any more."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def _relay(self, resource: Resource) -> None:
        try:
            while resource in self._kicked:
                self._kicked.discard(resource)
                try:
                    await self._broker.deliver(resource)
                    left = bool(await self._broker.core.outbox.entries(resource, 1))
                except StoreError as error:
                    log.warning("relay_failed", resource=resource.arn, code=error.code, reason=str(error))
                    left = True
                if left:
                    asyncio.get_running_loop().call_later(_AGAIN_S, self.kick, resource)
        finally:
            self._running.pop(resource, None)
