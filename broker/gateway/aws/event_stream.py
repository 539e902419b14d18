"""AWS's framing of streams (``application/vnd.amazon.eventstream``): messages with headers, a payload and two CRCs.

Lengths are four bytes, big-endian; a header is its name, its type (7: text) and its value, each behind its length.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final
from zlib import crc32

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
_PRELUDE: Final = struct.Struct("!II")
_CRC: Final = struct.Struct("!I")
_NAME: Final = struct.Struct("!B")
_TEXT: Final = struct.Struct("!BH")
_TEXT_TYPE: Final = 7
_MAX_TEXT_BYTES: Final = 32_767


def event(name: str, payload: bytes, *, content_type: str) -> bytes:
    """A message of the stream: ``PayloadChunk`` and the like."""
    headers = {":event-type": name, ":content-type": content_type, ":message-type": "event"}
    return message(headers, payload)


def error(code: str, text: str) -> bytes:
    """What ends a stream that cannot go on, outside of what its model has; SDKs raise it."""
    return message({":error-code": code, ":error-message": text, ":message-type": "error"}, b"")


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message; values over 32,767 bytes are cut."""
    head = b"".join(_header(name.encode(), _cut(value)) for name, value in headers.items())
    prelude = _PRELUDE.pack(_PRELUDE.size + 2 * _CRC.size + len(head) + len(payload), len(head))
    checked = prelude + _CRC.pack(crc32(prelude))
    whole_crc = crc32(payload, crc32(head, crc32(checked)))
    return b"".join((checked, head, payload, _CRC.pack(whole_crc)))


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()


def _header(name: bytes, value: bytes) -> bytes:
    return _NAME.pack(len(name)) + name + _TEXT.pack(_TEXT_TYPE, len(value)) + value
