"""Customers of one queue who do at random what a program may do, over connections that fail them, and keep the books.

Every message has a text of its own. What raised, or was cancelled, has an unknown outcome: it happened once or not at
all. ``Books.faults`` holds what is in the queue at the end against what was answered.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Final, TypeVar

from broker import Message
from broker.errors import StoreUnavailable
from broker.queues import QueueClient

HIDDEN_S: Final = 600.0
_PAGE: Final = 1_000
_Answer = TypeVar("_Answer")


@dataclass
class Books:
    """What the queue has answered."""

    accepted: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    """Sent, and nobody knows whether it arrived."""
    deleted: set[str] = field(default_factory=set)
    perhaps_deleted: set[str] = field(default_factory=set)
    held: dict[str, Message] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    def faults(self, left: list[str]) -> dict[str, int]:
        """How many messages are lost, are there twice, have come back, or were never sent; ``left`` is in the queue."""
        there = Counter(left)
        return {
            "lost": len(self.accepted - self.deleted - self.perhaps_deleted - set(there)),
            "stored twice": sum(count > 1 for count in there.values()),
            "came back": len(self.deleted & set(there)),
            "never sent": len(set(there) - self.accepted - self.unknown),
        }


class Customer:
    """Acts on one queue; ``shaken`` runs each of its calls."""

    def __init__(self, queue: QueueClient, books: Books, chance: random.Random, name: str) -> None:
        self._queue, self._books, self._chance, self._name = queue, books, chance, name
        self._sent = 0

    def next_call(self) -> Coroutine[Any, Any, None]:
        """One call, chosen by chance."""
        if self._books.held and self._chance.random() < 0.5:
            message = self._books.held.pop(self._chance.choice(sorted(self._books.held)))
            return self._chance.choice((self._delete, self._delete, self._delete_many, self._extend, self._release))(
                message
            )
        return self._chance.choice((self._send, self._send, self._send_many, self._send_delayed, self._receive))()

    async def _send(self) -> None:
        await self._sending(1, self._queue.send(self._text()))

    async def _send_delayed(self) -> None:
        await self._sending(1, self._queue.send(self._text(), delay=HIDDEN_S / 2))

    async def _send_many(self) -> None:
        count = self._chance.randint(2, 30)
        await self._sending(count, self._queue.send_many([self._text() for _ in range(count)]))

    def _text(self) -> str:
        self._sent += 1
        return f"{self._name}-{self._sent}"

    async def _sending(self, count: int, call: Coroutine[Any, Any, object]) -> None:
        texts = {f"{self._name}-{number}" for number in range(self._sent - count + 1, self._sent + 1)}
        self._books.unknown |= texts
        await call
        self._books.unknown -= texts
        self._books.accepted |= texts
        self._books.done["sends"] += 1

    async def _receive(self) -> None:
        messages = await self._queue.receive(self._chance.randint(1, 10), visibility_timeout=HIDDEN_S)
        self._books.held |= {message.body: message for message in messages}
        self._books.done["receives"] += 1

    async def _delete(self, message: Message) -> None:
        self._books.perhaps_deleted.add(message.body)
        await message.delete()
        self._books.deleted.add(message.body)
        self._books.done["settles"] += 1

    async def _delete_many(self, message: Message) -> None:
        others = [self._books.held.pop(name) for name in sorted(self._books.held)[:5]]
        names = {each.body for each in (message, *others)}
        self._books.perhaps_deleted |= names
        assert await self._queue.delete_many([message, *others]) == [], "nobody else holds them"
        self._books.deleted |= names
        self._books.done["settles"] += 1

    async def _extend(self, message: Message) -> None:
        self._books.held[message.body] = message
        await message.extend(HIDDEN_S)
        self._books.done["extensions"] += 1

    async def _release(self, message: Message) -> None:
        await message.release()
        self._books.done["releases"] += 1


@coroutine
def cancelled_at(call: Coroutine[Any, Any, _Answer], step: int) -> Generator[Any, Any, _Answer]:
    """Drives a call, and cancels the task that it runs in at its ``step``-th suspension. For a task of its own."""
    task = asyncio.current_task()
    assert task is not None
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waits_for = call.send(value) if error is None else call.throw(error)
        except StopIteration as stop:
            answer: _Answer = stop.value
            return answer
        step -= 1
        if step == 0:
            task.cancel()
        value = error = None
        try:
            value = yield waits_for
        except BaseException as caught:  # noqa: BLE001 - handed on to the call
            error = caught


async def outcome_of(call: Coroutine[Any, Any, None], *, cancel_at: int = 0) -> str:
    """Runs one call to its end: 'done', 'unknown' (the store did not answer), or 'cancelled'."""

    async def run() -> None:
        await cancelled_at(call, cancel_at)

    task = asyncio.create_task(run())
    await asyncio.wait((task,))
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is not None and not isinstance(error, StoreUnavailable):
        raise error
    return "done" if error is None else "unknown"


async def everything(queue: QueueClient) -> list[str]:
    """The texts of all messages that can be received now; they are hidden afterwards."""
    found: list[str] = []
    while messages := await queue.receive(_PAGE, visibility_timeout=HIDDEN_S):
        found += [message.body for message in messages]
    return found
