"""What an event belongs to: its X-Ray trace header with the lineage, and W3C's ``traceparent`` and ``tracestate``.

It travels in the header of the stored message, or in the notice of a call; what belongs to nothing carries no byte of
it. While a handler runs, a context variable has what its sends belong to: all calls of a function that were not traced
share one value, so nothing is done for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

from broker import lineage
from broker.errors import InvalidOption
from broker.records import NO_HEADER, Header

X_RAY: Final = b"x-amzn-trace-id"
PARENT: Final = b"traceparent"
"""The HTTP headers that begin or go on with a trace, in small letters."""
_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?"
)
_STATE: Final = re.compile(r"[\x20-\x7e]{0,512}")
_MOST_PARENT: Final = 128


class Trace(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What an event belongs to; '' where it belongs to nothing of that kind."""

    header: str = ""
    """The value of ``X-Amzn-Trace-Id``: ``Root=...;Parent=...;Sampled=1;Lineage=1:a87bd80c:0``."""
    parent: str = ""
    """W3C's ``traceparent``."""
    state: str = ""
    """W3C's ``tracestate``."""


NO_TRACE: Final = Trace()

_current: Final[ContextVar[Trace]] = ContextVar("penstock_trace", default=NO_TRACE)

current: Final[Callable[[], Trace]] = _current.get
"""What is sent now belongs to."""
enter: Final = _current.set
"""From here on, what is sent in this context belongs to another trace. Answers the token for :data:`leave`."""
leave: Final = _current.reset


@contextmanager
def traced(*, trace_header: str = "", traceparent: str = "", tracestate: str = "") -> Iterator[None]:
    """What is sent, invoked or called in a ``with`` of this belongs to the trace of a request that came in.

    ``trace_header`` is the value of ``X-Amzn-Trace-Id``. Inside a handler the lineage goes on with it. Raises
    InvalidOption for a ``traceparent`` that W3C's rules would ignore, and for characters that no header has.
    """
    header = lineage.readable(trace_header)
    if trace_header and not header:
        raise InvalidOption("trace_header", trace_header, f"up to {lineage.MAX_HEADER_BYTES} printable characters")
    if traceparent and not _is_parent(traceparent):
        raise InvalidOption("traceparent", traceparent, "as W3C's: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")
    if not _STATE.fullmatch(tracestate) or (tracestate and not traceparent):
        raise InvalidOption("tracestate", tracestate, "up to 512 printable characters, with a traceparent")
    now = _current.get()
    header = lineage.continued(header, now.header) if now.header else header
    token = _current.set(Trace(header, traceparent or now.parent, tracestate if traceparent else now.state))
    try:
        yield
    finally:
        _current.reset(token)


def of_header(header: Header) -> Trace:
    """What a stored message belongs to. OpenTelemetry's libraries for SQS write ``traceparent`` as an attribute."""
    if header is NO_HEADER:
        return NO_TRACE
    if header.traceparent or not header.attributes:
        return Trace(header.trace, header.traceparent, header.tracestate)
    parent = _attribute(header, "traceparent")
    if not _is_parent(parent):
        return Trace(header.trace)
    return Trace(header.trace, parent, _state_of(_attribute(header, "tracestate")))


def stamped(header: Header | None, trace: Trace) -> Header | None:
    """The header of a message that belongs to a trace."""
    if trace is NO_TRACE:
        return header
    return msgspec.structs.replace(
        header or NO_HEADER, trace=trace.header, traceparent=trace.parent, tracestate=trace.state
    )


def of_request(headers: Mapping[bytes, bytes]) -> Trace:
    """What an HTTP request belongs to; what breaks the rules is as good as not there (W3C's own rule)."""
    header = lineage.readable(headers.get(X_RAY, b"").decode("latin-1"))
    parent = headers.get(PARENT, b"").decode("latin-1").strip()
    if not _is_parent(parent):
        return Trace(header) if header else NO_TRACE
    return Trace(header, parent, _state_of(headers.get(b"tracestate", b"").decode("latin-1").strip()))


def _is_parent(text: str) -> bool:
    return len(text) <= _MOST_PARENT and _PARENT.fullmatch(text) is not None


def _state_of(text: str) -> str:
    return text if _STATE.fullmatch(text) else ""


def _attribute(header: Header, name: str) -> str:
    found = header.attributes.get(name)
    return "" if found is None or found.binary else found.data.decode()
