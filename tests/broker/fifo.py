"""Words for the tests of FIFO queues."""

from __future__ import annotations

from broker import Message
from broker.queues import QueueClient


async def send(queue: QueueClient, group: str, *bodies: str) -> None:
    """Sends messages of a group."""
    for body in bodies:
        await queue.send(body, group=group)


async def take(queue: QueueClient, count: int = 10, visibility_timeout: float | None = None) -> list[Message]:
    """What there is now."""
    return await queue.receive(count, wait=0, visibility_timeout=visibility_timeout)


async def bodies(queue: QueueClient, count: int = 10, visibility_timeout: float | None = None) -> list[str]:
    """What is there now, as bodies."""
    return [message.body for message in await take(queue, count, visibility_timeout)]
