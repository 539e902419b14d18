"""What one call prints and logs, kept for a caller that asked for it (Lambda's ``LogType=Tail``): the last 4 KB.

While such a call runs, ``sys.stdout``, ``sys.stderr`` and `logging` are watched; nothing is as long as nobody asks. A
context variable says whose output it is, so calls that run side by side are not mixed up, and what a handler gives to
``asyncio.to_thread`` is its own. A thread that a handler starts by itself does not know of its call.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final, TextIO

import msgspec

from broker import limits
from runtime.context import FUNCTION_VERSION
from runtime.outcomes import Completed, Outcome, TimedOut

TAIL_BYTES: Final = 4_096
_KIB: Final = 1_024
_KEPT_BYTES: Final = 4 * TAIL_BYTES
_NO_BREAK_SPACE: Final = "\u00a0"
_REST_OF_A_CHARACTER: Final = bytes(range(0x80, 0xC0))
"""What UTF-8 has behind a character's first byte."""


class CallLog:
    """The log of one call, in the form of Lambda's text logs."""

    def __init__(
        self, request_id: str, *, version: str = FUNCTION_VERSION, memory_mb: int = limits.DEFAULT_MEMORY_MB
    ) -> None:
        self._request_id: Final = request_id
        self._memory_mb: Final = memory_mb
        self._kept: Final = bytearray()
        self._lock: Final = threading.Lock()
        self._began: Final = time.monotonic()
        self._write(f"START RequestId: {request_id} Version: {version}\n")

    def _write(self, text: str) -> None:
        # Every character has a byte at least: what is before cannot be in the tail.
        data = text[-TAIL_BYTES:].encode("utf-8", "backslashreplace")
        with self._lock:
            self._kept.extend(data)
            if len(self._kept) > _KEPT_BYTES:
                del self._kept[:-TAIL_BYTES]

    def printed(self, text: object) -> None:
        """What was written to standard output or standard error."""
        if isinstance(text, str):
            self._write(text)

    def logged(self, record: logging.LogRecord) -> None:
        """A record of `logging`, as Lambda's Python runtime writes it, or as a formatter of the logger's own does."""
        try:
            self._write(_by_own_formatter(record) or self._line(record))
        except Exception:  # noqa: BLE001 - a record that cannot be formatted; its handlers tell of it
            self._write(f"[{record.levelname}]\t(it cannot be formatted)\n")

    def _line(self, record: logging.LogRecord) -> str:
        text = f"[{record.levelname}]\t{_timestamp(record.created)}\t{self._request_id}\t{record.getMessage()}\n"
        if record.exc_info:
            text += logging.Formatter().formatException(record.exc_info) + "\n"
        return text

    def ended(self, outcome: Outcome | None, timeout_s: float) -> bytes:
        """The tail, with the lines that end it."""
        took_ms = (time.monotonic() - self._began) * 1_000
        status = ""
        if isinstance(outcome, TimedOut):
            status = "Status: timeout\t"
            self._write(
                f"{_timestamp(time.time())} {self._request_id} Task timed out after {timeout_s:.2f} seconds\n\n"
            )
        elif outcome is not None and not isinstance(outcome, Completed):
            error = msgspec.json.decode(getattr(outcome, "error", b"{}"))
            status = f"Status: error\tError Type: {error.get('errorType', 'Runtime.ExitError')}\t"
            self._write(_error_text(error))
        self._write(
            f"END RequestId: {self._request_id}\n"
            f"REPORT RequestId: {self._request_id}\tDuration: {took_ms:.2f} ms\tBilled Duration: {ceil(took_ms)} ms\t"
            f"Memory Size: {self._memory_mb} MB\tMax Memory Used: {_memory_mib()} MB\t{status}\n"
        )
        with self._lock:
            return bytes(self._kept[-TAIL_BYTES:]).lstrip(_REST_OF_A_CHARACTER)


def _error_text(error: dict[str, Any]) -> str:
    head = f"[ERROR] {error.get('errorType', '')}: {error.get('errorMessage', '')}\n"
    frames: Iterable[str] = error.get("stackTrace") or ()
    trace = "".join(frame.replace(" ", _NO_BREAK_SPACE) for frame in frames)
    return f"{head}Traceback (most recent call last):\n{trace}" if trace else head


def _timestamp(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{int(seconds * 1_000) % 1_000:03d}Z"


def _memory_mib() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // (_KIB * _KIB if sys.platform == "darwin" else _KIB)


def _by_own_formatter(record: logging.LogRecord) -> str | None:
    """The line of a logger that writes to a standard stream in a form of its own; None for all that go by the root."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger is not logging.root:
        for handler in logger.handlers:
            if getattr(handler, "stream", None) in _standard_streams() and handler.formatter is not None:
                return f"{handler.format(record)}\n"
        logger = logger.parent if logger.propagate else None
    return None


# -- watching ---------------------------------------------------------------------------------------------------------

_current: Final[ContextVar[CallLog | None]] = ContextVar("penstock_call_log", default=None)
_in_logging: Final[ContextVar[bool]] = ContextVar("penstock_in_logging", default=False)


class _Watched:
    """A standard stream that tells the running call's log what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.watched: Final = stream

    def write(self, text: str) -> int:
        found = _current.get()
        if found is not None and not _in_logging.get():
            found.printed(text)
        return self.watched.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)

    def __iter__(self) -> Any:
        return iter(self.watched)


def _standard_streams() -> tuple[object, ...]:
    found = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    return (*found, *(each.watched for each in found if isinstance(each, _Watched)))


class _Watching:
    """Streams and `logging` are watched from the first of the calls that are asked about to the last."""

    def __init__(self) -> None:
        self._calls = 0
        self._lock: Final = threading.Lock()
        self._streams: dict[str, _Watched] = {}
        self._handle: Any = None

    def begin(self) -> None:
        with self._lock:
            self._calls += 1
            if self._calls > 1:
                return
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None and not isinstance(stream, _Watched):
                    self._streams[name] = watched = _Watched(stream)
                    setattr(sys, name, watched)
            self._handle = logging.Logger.callHandlers
            logging.Logger.callHandlers = _watched_handlers(self._handle)  # type: ignore[method-assign]

    def end(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls:
                return
            for name, watched in self._streams.items():
                if getattr(sys, name) is watched:  # else somebody has put another one there meanwhile
                    setattr(sys, name, watched.watched)
            self._streams = {}
            logging.Logger.callHandlers = self._handle  # type: ignore[method-assign]


def _watched_handlers(handle: Any) -> Any:
    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        found = _current.get()
        if found is None or _in_logging.get():
            handle(logger, record)
            return
        # What a handler writes to a watched stream is this record once more.
        token = _in_logging.set(True)
        try:
            found.logged(record)
            handle(logger, record)
        finally:
            _in_logging.reset(token)

    return call_handlers


_watching: Final = _Watching()


def begin(request_id: str, *, version: str = FUNCTION_VERSION, memory_mb: int = limits.DEFAULT_MEMORY_MB) -> CallLog:
    """Begins the log of a call. :func:`enter` must follow in the call's own context, and :func:`end`."""
    _watching.begin()
    return CallLog(request_id, version=version, memory_mb=memory_mb)


def enter(call_log: CallLog) -> None:
    """From here on, this context's output is the call's."""
    _current.set(call_log)


def end(call_log: CallLog, outcome: Outcome | None, timeout_s: float) -> bytes:
    """Ends the log of a call: its last 4 KB."""
    _watching.end()
    return call_log.ended(outcome, timeout_s)
