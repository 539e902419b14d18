"""What a caller is told of its call: published to its inbox, and again while nobody listens there.

A caller whose subscription is lost makes it anew within moments; what is published meanwhile is heard by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from broker.core import Core
from broker.errors import StoreError

_DEAF_S: Final = 5.0
_PAUSE_S: Final = 0.1


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
