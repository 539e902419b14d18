"""What a handler that yields answers: its chunks as bytes, and all of them put together where nobody takes a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from broker.errors import PayloadNotJson
from broker.limits import KIB
from broker.records import decode_json, encode_json

PIECE_BYTES: Final = 64 * KIB
"""A chunk of up to so many bytes arrives as it was yielded; a larger one in pieces of that size."""
WINDOW_BYTES: Final = 256 * KIB
"""What may be under way of one stream without having been taken by its reader."""
_CHUNK_COST: Final = 64  # what a chunk takes beside its bytes, so that tiny ones fill a window too


def chunk_bytes(value: object) -> bytes:
    """What a handler has yielded: bytes as they are, text in UTF-8, anything else as JSON (as Lambda's Node.js runtime
    writes it). Raises PayloadNotJson.
    """
    match value:
        case bytes():
            return value
        case bytearray() | memoryview():
            return bytes(value)
        case str():
            try:
                return value.encode()
            except UnicodeEncodeError as error:
                raise PayloadNotJson("chunk", str(error)) from error
        case _:
            return encode_json("chunk", value)


def pieces_of(data: bytes) -> Iterator[bytes]:
    """The bytes in pieces that fit into one notice; nothing for none."""
    if 0 < len(data) <= PIECE_BYTES:
        yield data
        return
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def cost_of(chunk: bytes) -> int:
    """How much of a window a chunk takes."""
    return len(chunk) + _CHUNK_COST


def whole_value(whole: bytes) -> Any:
    """The chunks of a stream, put together, as a value: of the JSON that they are, else the text, else the bytes."""
    try:
        return decode_json("chunks", whole)
    except PayloadNotJson:
        pass
    try:
        return whole.decode()
    except UnicodeDecodeError:
        return whole


def whole_json(whole: bytes) -> bytes:
    """The same as JSON: as it is, or a JSON text, which is base64 of what is no text, as in every result."""
    try:
        decode_json("chunks", whole)
    except PayloadNotJson:
        return encode_json("result", whole_value(whole))
    return whole
