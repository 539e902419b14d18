"""How many bytes one claim may ask for, so that they arrive long before its leases end."""

from __future__ import annotations

from typing import Final

from broker.limits import CLAIM_BYTES, KIB
from broker.store.values import Claim

_FIRST_BYTES: Final = 16 * KIB
_LEAST_BYTES: Final = KIB
_SHARE: Final = 1 / 8
"""Of a lease: what a claim may take until its reply is there, as the first renewal comes after a quarter."""


class Reach:
    """Of one resource in one process. On a link of 10 kB/s a reply of a thousand events takes longer than their leases
    last: all of them would be somebody else's before they are here, each time.

    Begins small, doubles with each claim that was filled and came in time, and sinks to what would have.
    """

    def __init__(self, lease_ms: int) -> None:
        self.bytes = _FIRST_BYTES
        """What the next claim may ask for."""
        self._in_time_s: Final = lease_ms / 1000 * _SHARE

    def took(self, claim: Claim, seconds: float) -> None:
        """A claim has brought something, so many seconds after it was sent."""
        if seconds > self._in_time_s:
            self.bytes = min(self.bytes, max(_LEAST_BYTES, int(claim.size * self._in_time_s / seconds)))
        elif self.bytes < CLAIM_BYTES and claim.size >= self.bytes:
            self.bytes = min(CLAIM_BYTES, 2 * self.bytes)
