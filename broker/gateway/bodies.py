"""Request bodies in memory: never more than one may have, nor more than all may have together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from broker.gateway.asgi import Receive
from broker.limits import KIB, MIB

MAX_BODY_BYTES: Final = 8 * MIB
MAX_WAITING_BODY_BYTES: Final = 64 * KIB
"""Of a request that may wait for long, such as a long poll."""
MAX_BYTES_HELD: Final = 256 * MIB
_FREE_BYTES: Final = 64 * KIB
_MAX_DIGITS: Final = 18
_MAX_DISCARDED_BYTES: Final = 64 * MIB
_DISCARD_FOR_S: Final = 2.0


Body: TypeAlias = bytes | bytearray


class BodyTooLarge(Exception):
    """A request body over the limit; ``all_read`` when nothing of it is left on the connection."""

    def __init__(self, limit_bytes: int, *, all_read: bool) -> None:
        super().__init__(f"the request body has more than {limit_bytes} bytes")
        self.limit_bytes: Final = limit_bytes
        self.all_read: Final = all_read


class ClientGone(Exception):
    """The client ended the connection before its request was whole."""


class ByteBudget:
    """So many bytes of requests may be in the process at a time; who comes later waits, in order."""

    def __init__(self, total_bytes: int = MAX_BYTES_HELD) -> None:
        self.total_bytes: Final = total_bytes
        self.free_bytes = total_bytes
        self._waiting: Final[deque[tuple[int, asyncio.Future[None]]]] = deque()

    async def take(self, amount: int) -> int:
        """Takes so many bytes, or all where there are not so many; answers how many are to be given back."""
        amount = min(amount, self.total_bytes)
        if self._waiting or amount > self.free_bytes:
            await self._wait(amount)
        else:
            self.free_bytes -= amount
        return amount

    def give_back(self, amount: int) -> None:
        """Frees what was taken, for whoever waits."""
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
) -> tuple[Body, int]:
    """The whole body, and what it takes of the budget until somebody gives that back.

    A small one that comes together with its head takes nothing. Raises BodyTooLarge, from Content-Length before
    anything is read, and ClientGone.
    """
    if declared_bytes(headers, 0) > max_bytes:
        raise BodyTooLarge(max_bytes, all_read=False)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    first: bytes = message["body"]
    if len(first) > max_bytes:
        raise BodyTooLarge(max_bytes, all_read=not message["more_body"])
    if not message["more_body"]:
        return first, await budget.take(len(first)) if len(first) > _FREE_BYTES else 0
    taken = await budget.take(declared_bytes(headers, max_bytes))
    kept = 0
    try:
        body = await _gather(receive, first, max_bytes)
        kept = min(len(body), taken)
    finally:
        budget.give_back(taken - kept)
    return body, kept


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
            raise BodyTooLarge(max_bytes, all_read=not message["more_body"])
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
