"""How an event ended, as it is kept for ``keep_status`` seconds. Pure.

Kept are one letter, the time, the number of tries, and the result (where the function keeps results) or the error's
type and the beginning of its message.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from broker import limits
from broker.invocation_records import Condition

EndState: TypeAlias = Literal["succeeded", "failed", "expired", "cancelled"]

_LETTERS: Final[dict[Condition, str]] = {
    "Success": "S",
    "RetriesExhausted": "R",
    "EventAgeExceeded": "A",
    "ZeroReservedConcurrency": "Z",
    "Quarantined": "Q",
    "Cancelled": "C",
    "RecursiveInvocation": "L",
}
_CONDITIONS: Final[dict[str, Condition]] = {letter: condition for condition, letter in _LETTERS.items()}
_STATES: Final[dict[Condition, EndState]] = {
    "Success": "succeeded",
    "EventAgeExceeded": "expired",
    "Cancelled": "cancelled",
}
_RESULT, _ERROR, _TOO_LARGE = b"+", b"-", b"!"
_STAMP_END: Final = 12


class End(msgspec.Struct, frozen=True):
    """One end on its way into the store, which adds the time. ``own_id`` is '' where the caller gave none."""

    own_id: str
    letter: str
    rest: bytes


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """One end as it was kept. ``result`` and ``error`` are JSON."""

    state: EndState
    condition: Condition
    ended_ms: int
    tries: int
    result: bytes | None = None
    error: bytes | None = None
    too_large: bool = False
    """There was a result, and it was larger than the function keeps."""


class ErrorText(msgspec.Struct, rename={"error_type": "errorType", "message": "errorMessage"}, frozen=True):
    """Type and message of Lambda's error object."""

    error_type: str = ""
    message: str = ""


def how_it_ended(
    condition: Condition, tries: int, response: bytes | None, *, own_id: str, keep_result_bytes: int
) -> End | None:
    """What is to be kept; None for the usual: success at the first try, of which nothing more is kept."""
    answer = b""
    if condition != "Success":
        answer = _error(response)
    elif keep_result_bytes and response is not None:
        answer = _RESULT + response if len(response) <= keep_result_bytes else _TOO_LARGE
    elif tries == 1 and not own_id:
        return None
    return End(own_id, _LETTERS[condition], b"%d%b" % (tries, answer))


def cancelled(tries: int, last_error: bytes | None) -> bytes:
    """The rest of the end of a cancelled event."""
    return b"%d%b" % (tries, _error(last_error))


def parse_end(text: bytes) -> Ended:
    """An end from its stored form."""
    condition = _CONDITIONS[text[:1].decode()]
    rest = text[_STAMP_END:]
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    mark, answer = rest[digits : digits + 1], rest[digits + 1 :]
    return Ended(
        state=_STATES.get(condition, "failed"),
        condition=condition,
        ended_ms=int(text[1:_STAMP_END], 16),
        tries=int(rest[:digits]),
        result=answer if mark == _RESULT else None,
        error=answer if mark == _ERROR else None,
        too_large=mark == _TOO_LARGE,
    )


def error_text(response: bytes | None) -> ErrorText | None:
    """Type and message of a stored error object; None where there is none."""
    if not response:
        return None
    try:
        return msgspec.json.decode(response, type=ErrorText | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _error(response: bytes | None) -> bytes:
    found = error_text(response)
    if found is None:
        return b""
    short = ErrorText(found.error_type[:128], found.message[: limits.KEPT_ERROR_CHARACTERS])
    return _ERROR + msgspec.json.encode(short)
