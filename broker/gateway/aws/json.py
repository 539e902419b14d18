"""The AWS JSON protocol: a body straight into the operation's input, and errors that older SDKs understand too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from broker.gateway.aws.errors import missing_parameter
from broker.gateway.aws.service import ErrorKind, ServiceError

CONTENT_TYPE_1_0: Final = b"application/x-amz-json-1.0"
CONTENT_TYPE_1_1: Final = b"application/x-amz-json-1.1"
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")
_NULL: Final = re.compile(r"Expected `[^`]*`, got `null` - at `\$.*?([A-Za-z0-9_]+)`")
_encoder: Final = msgspec.json.Encoder()


def read_input(
    decoder: msgspec.json.Decoder[Any],
    body: bytes | bytearray,
    *,
    missing: Callable[[str], ServiceError] = missing_parameter,
) -> Any:
    """The operation's input; an empty body is an empty object. Raises ServiceError, and for a required member that is
    not there what ``missing`` makes of its name."""
    try:
        return decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        text = str(error)
        if absent := _MISSING.match(text) or _NULL.match(text):
            raise missing(absent[1]) from None
        raise ServiceError("Serialization", text) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServiceError("Serialization", str(error) if _is_utf8(body) else "The body is not UTF-8.") from None
    except RecursionError:
        raise ServiceError("Serialization", "The body is nested too deeply.") from None


def _is_utf8(body: bytes | bytearray) -> bool:
    """Asked here, as releases of msgspec tell it in different ways."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def success(result: msgspec.Struct | None) -> bytes:
    """The answer of an operation."""
    return b"{}" if result is None else _encoder.encode(result)


def error(kind: ErrorKind, message: str) -> bytes:
    """The answer to a request that failed."""
    return _encoder.encode({"__type": kind.json_type, "message": message})


def query_error(kind: ErrorKind) -> bytes:
    """What ``x-amzn-query-error`` says: the code of the query protocol, and whose fault it is."""
    return f"{kind.code};{'Sender' if kind.sender else 'Receiver'}".encode()
