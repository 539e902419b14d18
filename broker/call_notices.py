"""What callers and workers tell each other of synchronous calls: notices to a worker's inbox, replies to a caller's."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from broker import limits
from broker.tracing import NO_TRACE, Trace

INLINE_BYTES: Final = 64 * limits.KIB
"""What is larger waits as a parcel."""


class CallNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's inbox receives. ``payload`` None: it waits as a parcel under the call's id."""

    kind: Literal["call", "cancel", "drop", "more"] = "call"
    """``drop``: the event under the lease ``id`` was cancelled. ``more``: how far the caller has come."""
    id: str
    """Of the call; the function sees it as its request id."""
    function: str = ""
    partition: int = 0
    """``drop``: where the event was."""
    reply_to: str = ""
    timeout_ms: int = 0
    patience_ms: int = 0
    """For how long it may wait in a full worker; 0 where others have not been asked yet."""
    payload: bytes | None = None
    client_context: bytes | None = None
    """A JSON object."""
    wants_log: bool = False
    window: int = 0
    """Above 0 the caller takes a stream: how much of it (:func:`broker.chunks.cost_of`) may be under way to it."""
    taken: int = 0
    """``more``: the number of the last part that the reader has taken whole."""
    again_from: int = 0
    """``more``: above 0, parts from this number on, or a whole answer, were not received, and are to be sent again."""
    trace: Trace = NO_TRACE
    invoked: str = ""
    """The qualifier that the caller gave, where the function sees another one: an alias."""


class CallReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller's inbox receives. ``payload`` None: it waits as a parcel under ``<id>:reply``."""

    id: str
    failed: bool = False
    refused: str = ""
    """The worker did not run it: it is stopping, or has no room."""
    worker: str = ""
    """Who refuses it: a refusal may be heard twice, the second time when another worker has the call."""
    waited: bool = False
    """Who refuses it had let it wait for its turn: so it is not what was heard of the same worker before."""
    may_wait: bool = False
    """Who refuses it for want of room would let it wait for its turn, if it is asked once more."""
    payload: bytes | None = None
    log_tail: bytes = b""
    part: int = 0
    """Of a stream: its parts are numbered from 1. 0: a whole answer."""
    chunks: tuple[bytes, ...] = ()
    last: bool = False
    """Of a stream: there are no more parts. Where it has failed, ``payload`` is the error object."""
    in_loop: bool = False
    """The worker did not run it: its chain has run the function too often."""


def reply_parcel(call_id: str) -> str:
    """The name under which a large answer waits."""
    return f"{call_id}:reply"
