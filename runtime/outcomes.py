"""How one call ended. Returned as values: the invoker never raises for a handler's fault."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import ClassVar, Final, TypeAlias

import msgspec

_HIDDEN_FRAMES: Final = ("runtime/invoker.py", "runtime/yielding.py", "concurrent/futures/thread.py")
_MAX_MESSAGE_CHARACTERS: Final = 64 * 1024
_BRIEF_CHARACTERS: Final = 300


class Exited(Exception):
    """`sys.exit` in a task of a handler; ``code`` as given there."""

    def __init__(self, code: object) -> None:
        super().__init__(f"exit status {code}")
        self.code: Final = code


class Completed(msgspec.Struct, frozen=True):
    """The handler returned; its result as JSON."""

    result: bytes


class Failed(msgspec.Struct, frozen=True):
    """The handler raised, or its event or result was unusable; Lambda's error object as JSON."""

    error: bytes
    error_type: str
    message: str
    at: str = ""
    """Where it was raised, in one line."""


class TimedOut(msgspec.Struct, frozen=True):
    """The handler ran longer than its timeout; Lambda's error object as JSON."""

    error_type: ClassVar[str] = "Sandbox.Timedout"
    at: ClassVar[str] = ""

    error: bytes
    message: str


class Throttled(msgspec.Struct, frozen=True):
    """There was no room to run it: no try is used up."""


class Abandoned(msgspec.Struct, frozen=True):
    """The worker stopped before it ended, or its lease was lost: no try is used up."""


class ResultTooLarge(Exception):
    """What a handler yields is over the limit of what may be answered."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"more than {limit_bytes} bytes")
        self.limit_bytes: Final = limit_bytes


Outcome: TypeAlias = Completed | Failed | TimedOut | Throttled | Abandoned


def response_of(outcome: Outcome) -> bytes | None:
    """What a call answered, as JSON; None where it did not end by itself."""
    match outcome:
        case Completed(result):
            return result
        case Failed(error) | TimedOut(error):
            return error
        case _:
            return None


def error_json(error_type: str, message: str, request_id: str, stack: list[str] | None = None) -> bytes:
    """Lambda's error object (spec: function error objects); the message is cut at 64 Ki characters."""
    fields: dict[str, object] = {
        "errorMessage": _storable(message),
        "errorType": error_type,
        "requestId": request_id,
    }
    if stack is not None:
        fields["stackTrace"] = [_storable(frame) for frame in stack]
    return msgspec.json.encode(fields)


def _storable(text: str) -> str:
    """The text, cut, and with lone halves of surrogate pairs spelled out: whatever an error says can be told."""
    return text[:_MAX_MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def brief(text: str) -> str:
    """The text as a log line has it. Of a long one the end, too: an error that quotes others has their cause there."""
    half = _BRIEF_CHARACTERS // 2
    return text if len(text) <= _BRIEF_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def exit_error(cause: str | None, request_id: str) -> bytes:
    """Lambda's error object for an event that took its process down; ``cause`` is what the supervisor saw."""
    reason = f"Runtime exited with error: {cause}" if cause else "Runtime exited without providing a reason"
    return error_json("Runtime.ExitError", f"RequestId: {request_id} Error: {reason}", request_id)


def failed(error_type: str, message: str, request_id: str, stack: list[str] | None = None) -> Failed:
    """A failure with Lambda's error object."""
    at = stack[-1].strip().partition("\n")[0] if stack else ""
    return Failed(error_json(error_type, message, request_id, stack), error_type, _storable(message), at)


def failed_with(error: BaseException, request_id: str) -> Failed:
    """The failure that an exception of the handler is: class name, text, and the frames from the handler on."""
    if isinstance(error, SystemExit | Exited):
        status = int(error.code) if isinstance(error.code, int) else 0 if error.code is None else 1
        with_status = f"Runtime exited with error: exit status {status}"
        reason = with_status if status else "Runtime exited without providing a reason"
        return failed("Runtime.ExitError", f"RequestId: {request_id} Error: {reason}", request_id)
    return failed(type(error).__name__, text_of(error), request_id, _stack(error.__traceback__))


def text_of(error: BaseException) -> str:
    """What an exception of the user's code says. Its own ``__str__`` may do anything, exit too."""
    try:
        return str(error)
    except BaseException as unprintable:  # noqa: BLE001 - and ends nothing but this try
        return f"<error text unavailable: {type(unprintable).__name__}>"


def too_large(limit_bytes: int, request_id: str) -> Failed:
    """A result over a limit, in Lambda's words."""
    message = f"Response payload size exceeded maximum allowed payload size ({limit_bytes} bytes)."
    return failed("Function.ResponseSizeTooLarge", message, request_id)


def timed_out(timeout_s: float, request_id: str) -> TimedOut:
    """The timeout in Lambda's words; seconds always with two decimals."""
    message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    return TimedOut(error_json(TimedOut.error_type, message, request_id), message)


def _stack(trace: TracebackType | None) -> list[str]:
    frames = [
        frame for frame in traceback.extract_tb(trace) if not frame.filename.replace("\\", "/").endswith(_HIDDEN_FRAMES)
    ]
    return traceback.format_list(frames)
