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

_PATIENCE_S: Final = 1.0
"""When no worker has room, one is asked once more, and may let the call wait for its turn for so long; at most for half
of its caller's time, so that who finds no room is told so, and who finds it has time to run."""


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
        self.refused: Final[dict[str, CallReply]] = {}
        self._timeout_s: Final = timeout_s
        self.began: Final = time.monotonic()
        self._deadline: Final = self.began + timeout_s
        self._patient_until: float | None = None
        self._asked_again: frozenset[str] = frozenset()

    @property
    def inline(self) -> bool:
        """Whether its payload goes with its notice; else it waits as a parcel."""
        return len(self.payload) <= INLINE_BYTES

    def has_had(self, reply: CallReply) -> bool:
        """Whether it is the refusal of a worker from which the call has been taken since, heard once more."""
        if not reply.refused or not reply.worker:
            return False
        return reply.worker in self.refused or (reply.worker in self._asked_again and not reply.waited)

    def becomes_patient(self) -> bool:
        """Whether some that refused it are to be asked once more; once. Those that stop, and those of an older build,
        who would not answer a second time, are not."""
        if self._patient_until is not None:
            return False
        self._asked_again = frozenset(process for process, reply in self.refused.items() if reply.may_wait)
        if not self._asked_again:
            return False
        now = time.monotonic()
        self._patient_until = now + min(_PATIENCE_S, (self._deadline - now) / 2)
        for process in self._asked_again:
            del self.refused[process]
        return True

    def patience_ms(self) -> int:
        """For how long it may wait for its turn; 0 as long as another worker may have room."""
        return 0 if self._patient_until is None else max(1, int((self._patient_until - time.monotonic()) * 1000))

    def left_ms(self) -> int:
        """What is left until the caller's deadline; raises CallTimeout when nothing is."""
        left_ms = int((self._deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise errors.CallTimeout(self.function.name, self._timeout_s)
        return left_ms
