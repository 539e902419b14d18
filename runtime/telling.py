"""What a caller is told of its call: published to its inbox, and again while nobody listens there, or when it asks.

A caller whose subscription is lost makes it anew within moments; what is published meanwhile is heard by nobody. Redis
counts a connection that is dead for some seconds more: who waits behind it asks again, and the answer was kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from broker.core import Core
from broker.errors import StoreError
from broker.limits import MIB

_DEAF_S: Final = 5.0
_PAUSE_S: Final = 0.1
_MOST_KEPT_BYTES: Final = 16 * MIB
_ENTRY_BYTES: Final = 400


async def tell_caller(core: Core, process: str, notice: bytes, *, still: Callable[[], bool] = lambda: True) -> bool:
    """Whether somebody has heard it; False when nobody listened for five seconds in which Redis was there, or as soon
    as it is not ``still`` wanted. May be heard twice, where the reply of Redis was lost.
    """
    loop = asyncio.get_running_loop()
    deaf_since = loop.time()
    while still():
        try:
            if await core.parcels.tell(process, notice):
                return True
        except StoreError:
            deaf_since = loop.time()
        if loop.time() - deaf_since > _DEAF_S:
            return False
        await asyncio.sleep(_PAUSE_S)
    return False


async def keep_for_caller(
    core: Core, name: str, payload: bytes, *, ttl_ms: int, still: Callable[[], bool] = lambda: True
) -> None:
    """Stores an answer that is too large to be published; again while Redis is away and it is ``still`` wanted. Raises
    StoreError after that."""
    while True:
        try:
            await core.parcels.put(name, payload, ttl_ms=ttl_ms)
        except StoreError:
            if not still():
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


class KeptAnswers:
    """The latest answers of a process, in so many bytes. Those that are asked for are kept longer."""

    def __init__(self, most_bytes: int = _MOST_KEPT_BYTES) -> None:
        self._most_bytes: Final = most_bytes
        self._answers: Final[OrderedDict[str, tuple[str, bytes]]] = OrderedDict()
        self._bytes = 0

    def keep(self, call_id: str, process: str, notice: bytes) -> None:
        """Keeps what the caller in a process is told of a call, instead of what it was told before."""
        if (before := self._answers.pop(call_id, None)) is not None:
            self._bytes -= len(before[1]) + _ENTRY_BYTES
        self._answers[call_id] = (process, notice)
        self._bytes += len(notice) + _ENTRY_BYTES
        while self._bytes > self._most_bytes:
            _, (_, oldest) = self._answers.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY_BYTES

    def again(self, call_id: str) -> tuple[str, bytes] | None:
        """The process and what it was told; None where it has not been told, or too much else since."""
        found = self._answers.get(call_id)
        if found is not None:
            self._answers.move_to_end(call_id)
        return found
