"""Checksums that SQS answers with, by which a client sees that nothing was changed on the way. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final

from broker.message_attributes import Attribute

_LENGTH: Final = struct.Struct(">I")
_EMPTY: Final = hashlib.md5(usedforsecurity=False)
"""A copy costs half of a new one, which looks for the algorithm each time."""
_STRING_TRANSPORT: Final = b"\x01"
_BINARY_TRANSPORT: Final = b"\x02"


def body_md5(body: bytes) -> str:
    """MD5OfMessageBody and MD5OfBody, in hexadecimal digits."""
    digest = _EMPTY.copy()
    digest.update(body)
    return digest.hexdigest()


def attributes_md5(attributes: Mapping[str, Attribute]) -> str:
    """MD5OfMessageAttributes: sorted by name; of each, name, type, value with lengths, and a transport byte."""
    digest = hashlib.md5(usedforsecurity=False)
    for name, attribute in sorted(attributes.items()):
        for part in (name.encode(), attribute.data_type.encode()):
            digest.update(_LENGTH.pack(len(part)) + part)
        digest.update(_BINARY_TRANSPORT if attribute.binary else _STRING_TRANSPORT)
        digest.update(_LENGTH.pack(len(attribute.data)) + attribute.data)
    return digest.hexdigest()
