"""Receipt handles: which lease of which message of which queue, and since when. Opaque to whoever holds one."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Final
from zlib import crc32

import msgspec

from broker.ids import mark_of, nonce_of, partition_of

_HEAD: Final = struct.Struct(">IIQ")  # checksum, the queue's random number, partition (16 bits) and ms of the receive
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
        rest = self.member.encode()
        partition_and_ms = partition_of(self.mark) << _MS_BITS | self.received_ms
        head = _HEAD.pack(0, nonce_of(self.mark), partition_and_ms)
        return base64.b64encode(crc32(head[4:] + rest).to_bytes(4, "big") + head[4:] + rest).decode()


def read_receipt(handle: str) -> Receipt | None:
    """The receipt of a handle; None for whatever is not one of ours."""
    try:
        raw = base64.b64decode(handle, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) <= _HEAD.size or crc32(raw[4:]) != int.from_bytes(raw[:4], "big"):
        return None
    _, nonce, partition_and_ms = _HEAD.unpack_from(raw)
    member = raw[_HEAD.size :].decode("ascii", "replace")
    if not _MEMBER.fullmatch(member):
        return None
    mark = mark_of(nonce, partition_and_ms >> _MS_BITS)
    return Receipt(mark, partition_and_ms & (1 << _MS_BITS) - 1, member)
