"""A synchronous call as its caller sees it, from handing it over to its answer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from broker import errors
from broker.call_notices import INLINE_BYTES, CallReply
from broker.names import Resource
from broker.tracing import Trace
from broker.workers import Serves


class HandedCall:
    """One call under way."""

    def __init__(
        self,
        function: Resource,
        payload: bytes,
        timeout_s: float,
        identity: str,
        client_context: bytes | None,
        trace: Trace,
        *,
        wants_log: bool,
        window: int = 0,
    ) -> None:
        self.id: Final = identity
        self.client_context: Final = client_context
        self.trace: Final = trace
        self.wants_log: Final = wants_log
        self.window: Final = window
        self.invoked = ""
        self.function: Final = function
        self.payload = payload
        self.future: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()
        self.worker: Serves | None = None
        self.absent: Final[set[str]] = set()
        self.refused: Final[dict[str, str]] = {}
        self._timeout_s: Final = timeout_s
        self.began: Final = time.monotonic()
        self._deadline: Final = self.began + timeout_s

    @property
    def inline(self) -> bool:
        """Whether its payload goes with its notice; else it waits as a parcel."""
        return len(self.payload) <= INLINE_BYTES

    def has_had(self, reply: CallReply) -> bool:
        """Whether it is the refusal of a worker from which the call has been taken since, heard once more."""
        return bool(reply.refused) and reply.worker in self.refused

    def left_ms(self) -> int:
        """What is left until the caller's deadline; raises CallTimeout when nothing is."""
        left_ms = int((self._deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise errors.CallTimeout(self.function.name, self._timeout_s)
        return left_ms
