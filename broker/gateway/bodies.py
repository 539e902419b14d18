"""Reading request bodies: never more than one may have, nor more than all may have together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from broker.gateway.asgi import Receive
from broker.limits import MIB

MAX_BODY_BYTES: Final = 8 * MIB
MAX_BYTES_BEING_READ: Final = 256 * MIB
_MAX_DIGITS: Final = 18
_MAX_DISCARDED_BYTES: Final = 64 * MIB
_DISCARD_FOR_S: Final = 2.0


class BodyTooLarge(Exception):
    """A request body over the limit; ``all_read`` when nothing of it is left on the connection."""

    def __init__(self, *, all_read: bool) -> None:
        super().__init__("the request body is too large")
        self.all_read: Final = all_read


class ClientGone(Exception):
    """The client ended the connection before its request was whole."""


class ByteBudget:
    """So many bytes may be on their way into the process at a time; who comes later waits, in order."""

    def __init__(self, total_bytes: int = MAX_BYTES_BEING_READ) -> None:
        self.total_bytes: Final = total_bytes
        self.free_bytes = total_bytes
        self._waiting: Final[deque[tuple[int, asyncio.Future[None]]]] = deque()

    @asynccontextmanager
    async def reserve(self, amount: int) -> AsyncIterator[None]:
        """Holds so many bytes, or all of them where there are not so many."""
        amount = min(amount, self.total_bytes)
        if self._waiting or amount > self.free_bytes:
            await self._wait(amount)
        else:
            self.free_bytes -= amount
        try:
            yield
        finally:
            self.free_bytes += amount
            self._admit()

    async def _wait(self, amount: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (amount, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free_bytes += amount
            else:
                self._waiting.remove(place)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            amount, turn = self._waiting.popleft()
            self.free_bytes -= amount
            turn.set_result(None)


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], budget: ByteBudget, *, max_bytes: int = MAX_BODY_BYTES
) -> bytes | bytearray:
    """The whole body. What did not come together with the head waits for its place in the budget.

    Raises BodyTooLarge, from Content-Length before anything is read, and ClientGone.
    """
    if declared_bytes(headers, 0) > max_bytes:
        raise BodyTooLarge(all_read=False)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    first: bytes = message["body"]
    if len(first) > max_bytes:
        raise BodyTooLarge(all_read=not message["more_body"])
    if not message["more_body"]:
        return first
    async with budget.reserve(declared_bytes(headers, max_bytes)):
        return await _gather(receive, first, max_bytes)


def declared_bytes(headers: Mapping[bytes, bytes], otherwise: int) -> int:
    """What Content-Length says (the HTTP parser lets only digits through); ``otherwise`` where there is none."""
    length = headers.get(b"content-length")
    if length is None:
        return otherwise
    return int(length) if len(length) <= _MAX_DIGITS else 10**_MAX_DIGITS


async def _gather(receive: Receive, first: bytes, max_bytes: int) -> bytearray:
    body = bytearray(first)
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body += message["body"]
        if len(body) > max_bytes:
            raise BodyTooLarge(all_read=not message["more_body"])
        if not message["more_body"]:
            return body


async def discard_body(receive: Receive, headers: Mapping[bytes, bytes]) -> bool:
    """Reads a body that nobody wants, so that the client sees the answer instead of a connection reset.

    Answers whether it has come to its end; a client that waits for "100 Continue", or sends for too long, is not
    waited for. Raises ClientGone.
    """
    if b"expect" in headers or declared_bytes(headers, 0) > _MAX_DISCARDED_BYTES:
        return False
    read_bytes = 0
    try:
        async with asyncio.timeout(_DISCARD_FOR_S):
            while read_bytes <= _MAX_DISCARDED_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                if not message["more_body"]:
                    return True
                read_bytes += len(message["body"])
    except TimeoutError:
        pass
    return False
