"""Ids: of messages (an id finds its entry without an index) and random tokens.

A message id is a UUID of version 8 made of the entry that it names::

    48 bits  milliseconds of the entry      10 bits  partition
    32 bits  sequence within them           32 bits  the resource's own random number

so it is unique over all resources, sorts by time, and costs no memory. Partition and random number together are the
partition's *mark*; that of the first partition is the resource's random number alone.
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
_NONCE_BITS: Final = 32
_NONCE: Final = (1 << _NONCE_BITS) - 1
_MARK: Final = (1 << _NONCE_BITS + 10) - 1
_TAIL: Final = (1 << 40) - 1
_BYTES: Final = tuple(f"{value:02x}" for value in range(256))


def mark_of(nonce: int, partition: int) -> int:
    """What is the same in all ids of one partition of the resource with that random number."""
    return partition << _NONCE_BITS | nonce & _NONCE


def partition_of(mark: int) -> int:
    """The partition that a mark is of."""
    return mark >> _NONCE_BITS


def nonce_of(mark: int) -> int:
    """The resource's random number, which the marks of all its partitions hold."""
    return mark & _NONCE


def id_mark(identity: str) -> int | None:
    """The mark in an id that Penstock made; None for any other text."""
    try:
        value = uuid.UUID(identity).int
    except ValueError:
        return None
    return value & _MARK if value >> 76 & 15 == _VERSION else None


def message_id(entry: str, mark: int) -> str:
    """The id of the entry ``"<milliseconds>-<sequence>"`` of the partition with that mark."""
    milliseconds, _, sequence_text = entry.partition("-")
    sequence = int(sequence_text)
    return f"{_begin(milliseconds, sequence >> 6)}{_BYTES[(sequence & 63) << 2 | mark >> 40]}{_end(mark)}"


def message_ids(milliseconds: str, sequence: int, count: int, mark: int) -> list[str]:
    """The ids of entries that follow each other, as :func:`message_id` makes them one by one: of 64 in a row only the
    two digits differ that hold the lowest bits of the sequence, and the highest of the mark."""
    end, middles = _end(mark), _BYTES[mark >> 40 :: 4]
    ids: list[str] = []
    after = sequence + count
    for page in range(sequence & ~63, after, 64):
        begin = _begin(milliseconds, page >> 6)
        ids += [f"{begin}{middle}{end}" for middle in middles[max(sequence - page, 0) : after - page]]
    return ids


@lru_cache(maxsize=256)
def _begin(milliseconds: str, page: int) -> str:
    """What the ids of 64 entries in a row have in common before their two own digits."""
    text, sequence = f"{int(milliseconds):012x}", page << 6
    high, low = sequence >> _SEQUENCE_LOW_BITS, sequence & _SEQUENCE_LOW
    return f"{text[:8]}-{text[8:]}-{_VERSION}{high:03x}-{_VARIANT | low >> 6:04x}-"


@lru_cache(maxsize=256)
def _end(mark: int) -> str:
    """What all ids with a mark have in common behind those digits."""
    return f"{mark & _TAIL:010x}"


def entry_of(identity: str, mark: int) -> str | None:
    """The entry that :func:`message_id` made this id of; None for a caller's own id or another partition's."""
    try:
        value = uuid.UUID(identity).int
    except ValueError:
        return None
    if value >> 76 & 15 != _VERSION or value & _MARK != mark:
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
