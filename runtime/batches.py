"""Batches of a mapped queue: leased messages, and what one call carries of them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from broker import limits
from broker.receipts import handle_of
from runtime.shaping import Letter


class Held(msgspec.Struct, frozen=True, gc=False):
    """One leased message of a batch. Not for the garbage collector to look at: it can be in no circle."""

    letter: Letter
    member: str
    claimed_ms: int
    claimed_at: float
    fence: int
    nonce: int

    @property
    def receipt(self) -> str:
        """The handle by which a handler can settle the message itself, as clients of SQS do."""
        return handle_of(self.nonce, self.claimed_ms, self.member)


class Batch(msgspec.Struct, frozen=True):
    """What one call is about: its messages and its permits."""

    held: list[Held]
    permit: str

    @property
    def members(self) -> list[str]:
        """The leases that its call depends on."""
        return [item.member for item in self.held]


def not_behind(bad: AbstractSet[str], held: list[Held], *, fifo: bool) -> tuple[list[Held], list[Held]]:
    """The messages that may run, and those that may not: the bad ones (by their leases' names) and, in a FIFO queue,
    whatever stands behind one in its group."""
    groups: set[str] = set()
    good: list[Held] = []
    kept_back: list[Held] = []
    for item in held:
        if item.member in bad or (fifo and item.letter.header.group in groups):
            groups.add(item.letter.header.group)
            kept_back.append(item)
        else:
            good.append(item)
    return good, kept_back


def in_batches(held: list[Held], size: int) -> list[list[Held]]:
    """The messages in batches of at most ``size`` and 6 MB."""
    batches: list[list[Held]] = []
    current: list[Held] = []
    total = 0
    for item in held:
        length = len(item.letter.body)
        if current and (len(current) >= size or total + length > limits.MAX_BATCH_PAYLOAD_BYTES):
            batches.append(current)
            current, total = [], 0
        current.append(item)
        total += length
    if current:
        batches.append(current)
    return batches
