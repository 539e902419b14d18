"""Receipt handles: which lease of which message of which queue, and since when. Opaque to whoever holds one."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Final
from zlib import crc32

import msgspec

_HEAD: Final = struct.Struct(">IIQ")  # checksum, the queue's random number, ms of the receive
_MEMBER: Final = re.compile(r"\d{1,16}-\d{1,12}\|[A-Za-z0-9]{1,64}")


class Receipt(msgspec.Struct, frozen=True):
    """What a receipt handle says. ``member`` is the name of the lease; ``received_ms`` by Redis's clock."""

    nonce: int
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
        head = _HEAD.pack(0, self.nonce, self.received_ms)
        return base64.b64encode(crc32(head[4:] + rest).to_bytes(4, "big") + head[4:] + rest).decode()


def read_receipt(handle: str) -> Receipt | None:
    """The receipt of a handle; None for whatever is not one of ours."""
    try:
        raw = base64.b64decode(handle, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) <= _HEAD.size or crc32(raw[4:]) != int.from_bytes(raw[:4], "big"):
        return None
    _, nonce, received_ms = _HEAD.unpack_from(raw)
    member = raw[_HEAD.size :].decode("ascii", "replace")
    return Receipt(nonce, received_ms, member) if _MEMBER.fullmatch(member) else None
