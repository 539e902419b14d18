"""Receipt handles: which lease of which message of which queue, and since when. Opaque to whoever holds one."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from functools import lru_cache
from typing import Final
from zlib import crc32

import msgspec

from broker.ids import mark_of, nonce_of, partition_of

_CHECKSUM: Final = struct.Struct(">I")
_RECEIVE: Final = struct.Struct(">IQ")  # the queue's random number, partition (16 bits) and ms of the receive
_HEAD_BYTES: Final = _CHECKSUM.size + _RECEIVE.size
_MS_BITS: Final = 48
_MEMBER: Final = re.compile(r"\d{1,16}-\d{1,12}\|[A-Za-z0-9]{1,64}")


class Receipt(msgspec.Struct, frozen=True):
    """What a receipt handle says. ``member`` is the name of the lease; ``received_ms`` by Redis's clock; ``mark`` is of
    the queue's partition (:mod:`broker.ids`)."""

    mark: int
    received_ms: int
    member: str

    @property
    def entry(self) -> str:
        """The entry of the message."""
        return self.member.partition("|")[0]

    @property
    def handle(self) -> str:
        """The receipt handle: text of letters, digits, ``+``, ``/`` and ``=``, as SQS's are."""
        return handle_of(self.mark, self.received_ms, self.member)


def handle_of(mark: int, received_ms: int, member: str) -> str:
    """The handle of a receipt that says this."""
    checked = _receive(mark, received_ms) + member.encode()
    return binascii.b2a_base64(_CHECKSUM.pack(crc32(checked)) + checked, newline=False).decode()


@lru_cache(maxsize=64)
def _receive(mark: int, received_ms: int) -> bytes:
    """What is the same in the receipts of all messages of one receive."""
    return _RECEIVE.pack(nonce_of(mark), partition_of(mark) << _MS_BITS | received_ms)


def read_receipt(handle: str) -> Receipt | None:
    """The receipt of a handle; None for whatever is not one of ours."""
    try:
        raw = base64.b64decode(handle, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) <= _HEAD_BYTES or crc32(raw[_CHECKSUM.size :]) != _CHECKSUM.unpack_from(raw)[0]:
        return None
    nonce, partition_and_ms = _RECEIVE.unpack_from(raw, _CHECKSUM.size)
    member = raw[_HEAD_BYTES:].decode("ascii", "replace")
    if not _MEMBER.fullmatch(member):
        return None
    mark = mark_of(nonce, partition_and_ms >> _MS_BITS)
    return Receipt(mark, partition_and_ms & (1 << _MS_BITS) - 1, member)
