"""Ids: of messages (an id finds its entry without an index) and random tokens.

A message id is a UUID of version 8 made of the entry that it names::

    48 bits  milliseconds of the entry      10 bits  partition
    32 bits  sequence within them           32 bits  the resource's own random number

so it is unique over all resources, sorts by time, and costs no memory.
"""

from __future__ import annotations

import os
import uuid
from functools import lru_cache
from itertools import count
from typing import Final

TOKEN_OWNER_LENGTH: Final = 12
_VERSION: Final = 8
_VARIANT: Final = 0x8000
_SEQUENCE_LOW_BITS: Final = 20
_SEQUENCE_BITS: Final = 21
_SEQUENCE_BASE: Final = 10**19
_SEQUENCE_LOW: Final = (1 << _SEQUENCE_LOW_BITS) - 1


def message_id(entry: str, nonce: int, *, partition: int = 0) -> str:
    """The id of the entry ``"<milliseconds>-<sequence>"`` of the resource with that random number."""
    milliseconds, _, sequence_text = entry.partition("-")
    sequence = int(sequence_text)
    low = sequence & _SEQUENCE_LOW
    return (
        f"{_time_part(milliseconds)}-{_VERSION}{sequence >> _SEQUENCE_LOW_BITS:03x}"
        f"-{_VARIANT | low >> 6:04x}-{(low & 63) << 42 | partition << 32 | nonce:012x}"
    )


def message_ids(milliseconds: str, sequence: int, count: int, nonce: int) -> list[str]:
    """The ids of entries that follow each other, partition 0, as :func:`message_id` makes them one by one."""
    head = f"{_time_part(milliseconds)}-{_VERSION}"
    return [
        f"{head}{n >> _SEQUENCE_LOW_BITS:03x}-{_VARIANT | (n & _SEQUENCE_LOW) >> 6:04x}-{(n & 63) << 42 | nonce:012x}"
        for n in range(sequence, sequence + count)
    ]


@lru_cache(maxsize=64)
def _time_part(milliseconds: str) -> str:
    text = f"{int(milliseconds):012x}"
    return f"{text[:8]}-{text[8:]}"


def entry_of(identity: str, nonce: int) -> str | None:
    """The entry that :func:`message_id` made this id of; None for a caller's own id or another resource's."""
    try:
        value = uuid.UUID(identity).int
    except ValueError:
        return None
    if value >> 76 & 15 != _VERSION or value & 0xFFFFFFFF != nonce:
        return None
    sequence = (value >> 64 & 0xFFF) << _SEQUENCE_LOW_BITS | value >> 42 & _SEQUENCE_LOW
    return f"{value >> 80}-{sequence}"


def sequence_number(entry: str) -> str:
    """The SequenceNumber of a FIFO queue's message: twenty digits, rising with its entry, without an index."""
    milliseconds, _, sequence = entry.partition("-")
    return str(_SEQUENCE_BASE + (int(milliseconds) << _SEQUENCE_BITS) + int(sequence))


def new_nonce() -> int:
    """A resource's own 32 random bits, chosen when it is created."""
    return int.from_bytes(os.urandom(4), "big")


def random_token() -> str:
    """Twelve characters that no other process has: for requests whose repetition must be recognised."""
    return os.urandom(TOKEN_OWNER_LENGTH // 2).hex()


class TokenSource:
    """Tokens of one process: its own random prefix and a counter, so that each costs no system call."""

    def __init__(self) -> None:
        self.owner: Final = random_token()
        self._counter = count(1)

    def next(self) -> str:
        """A token that nobody else has or will have."""
        return f"{self.owner}{next(self._counter):x}"
