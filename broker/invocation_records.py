"""Invocation records (version 1.0) and dead letters: what a function's destinations and dead-letter queue receive.

Pure. Source: Lambda Developer Guide, "Retaining records of asynchronous invocations"; conditions as recorded from the
service, plus ``Quarantined`` for an event that kept killing its worker, ``Cancelled`` for one that somebody took out
(that is no dead letter: nobody is to send it again) and ``RecursiveInvocation`` for the end of a loop, whose name in
Lambda is not known.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

from broker import limits, tracing
from broker.errors import RECURSION_STOPPED
from broker.message_attributes import Attribute
from broker.names import LATEST, Function, Resource, Target
from broker.records import Delivery, DeliveryKind, FunctionSettings, Header, pack
from broker.tracing import NO_TRACE, Trace

Condition: TypeAlias = Literal[
    "Success",
    "RetriesExhausted",
    "EventAgeExceeded",
    "ZeroReservedConcurrency",
    "Quarantined",
    "Cancelled",
    "RecursiveInvocation",
]
_PAYLOADS: Final = ("responsePayload", "requestPayload")


class InvocationEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the asynchronous invocation of one event ended."""

    function: Resource
    request_id: str
    condition: Condition
    tries: int
    event: bytes
    response: bytes | None
    """What the last try answered, as JSON: the result or the error object; None when it never ran."""
    now_ms: int
    trace: Trace = NO_TRACE
    """What its records belong to."""
    to_functions: bool = True
    """Whether a function may be told: not when a chain was stopped here before, as that would be a loop of records."""
    version: str = LATEST
    """The version whose settings hold."""

    @property
    def failed(self) -> bool:
        """Whether it goes to the failure destination."""
        return self.condition != "Success"

    def may_tell(self, target: Target) -> bool:
        """Whether something may go there."""
        return self.to_functions or not isinstance(target, Function)


def invocation_record(end: InvocationEnd, *, limit_bytes: int) -> bytes:
    """The record as JSON, truncated as :func:`truncated_record` does it."""
    fields: dict[str, object] = {
        "version": "1.0",
        "timestamp": iso_timestamp(end.now_ms),
        "requestContext": {
            "requestId": end.request_id,
            "functionArn": end.function.arn if end.function.qualifier else f"{end.function.arn}:{LATEST}",
            "condition": end.condition,
            "approximateInvokeCount": end.tries,
        },
        "requestPayload": _event_of(end),
    }
    if end.response is not None:
        context: dict[str, object] = {"statusCode": 200, "executedVersion": end.version}
        if end.failed:
            context["functionError"] = "Unhandled"
        fields["responseContext"] = context
        fields["responsePayload"] = msgspec.Raw(end.response)
    return truncated_record(msgspec.json.encode(fields), limit_bytes=limit_bytes)


def _event_of(end: InvocationEnd) -> msgspec.Raw:
    """The event as it stands; as a JSON text where it is damaged and no JSON any more."""
    if end.failed:
        try:
            msgspec.json.decode(end.event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.Raw(msgspec.json.encode(end.event.decode("utf-8", "replace")))
    return msgspec.Raw(end.event)


def truncated_record(record: bytes, *, limit_bytes: int) -> bytes:
    """A record over the limit with ``responsePayload``, then ``requestPayload``, as null, and ``penstockTruncated``
    naming them; any other as it is.
    """
    if len(record) <= limit_bytes:
        return record
    fields = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    null, truncated = msgspec.Raw(b"null"), list[str]()
    for field in _PAYLOADS:
        if len(record) > limit_bytes and fields.get(field, null) != null:
            truncated.append(field)
            fields[field] = null
            record = msgspec.json.encode({**fields, "penstockTruncated": truncated})
    return record


def iso_timestamp(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as Lambda writes it."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def onward_records(end: InvocationEnd, settings: FunctionSettings) -> tuple[tuple[str, bytes], ...]:
    """What the end of an event sends on, as the outbox keeps it: suffix of its name and stored record each."""
    if settings.version != end.version:
        end = msgspec.structs.replace(end, version=settings.version)
    deliveries: list[tuple[str, Delivery]] = []
    target = settings.on_failure if end.failed else settings.on_success
    if target is not None and end.may_tell(target):
        deliveries.append(("r", record_delivery(end, target)))
    dead_letter = settings.dead_letter
    if end.failed and end.condition != "Cancelled" and dead_letter is not None and end.may_tell(dead_letter):
        deliveries.append(("d", dead_letter_delivery(end, dead_letter)))
    return tuple((suffix, msgspec.msgpack.encode(delivery)) for suffix, delivery in deliveries)


def record_delivery(end: InvocationEnd, target: Target) -> Delivery:
    """The invocation record on its way to a destination."""
    kind: DeliveryKind = "failure" if end.failed else "success"
    record = invocation_record(end, limit_bytes=limits.MAX_MESSAGE_BYTES)
    blob = pack(record, tracing.stamped(None, end.trace))
    return Delivery(kind=kind, target=target, blob=blob, first_attempt_ms=end.now_ms)


def dead_letter_delivery(end: InvocationEnd, target: Target) -> Delivery:
    """The bare event on its way to the dead-letter queue, with Lambda's three attributes."""
    code, message = _error_of(end)
    header = Header(
        attributes={
            "RequestID": Attribute("String", end.request_id.encode()),
            "ErrorCode": Attribute("Number", code.encode()),
            "ErrorMessage": Attribute("String", message),
        },
        source=end.function.arn,
    )
    blob = pack(end.event, tracing.stamped(header, end.trace))
    return Delivery(kind="dead_letter", target=target, blob=blob, first_attempt_ms=end.now_ms)


_REASONS: Final[dict[Condition, str]] = {
    "EventAgeExceeded": "The event was older than the function's maximum event age before it could run.",
    "ZeroReservedConcurrency": "Rate Exceeded.",
    "Quarantined": "The event ended its worker process every time it ran.",
}


def _error_of(end: InvocationEnd) -> tuple[str, bytes]:
    """HTTP status of the last try and the first 1 KB of its message; 429 for an event that never ran, 400 in a loop."""
    if end.condition == "RecursiveInvocation":
        return "400", RECURSION_STOPPED.encode()
    if end.response is None:
        return "429", _REASONS.get(end.condition, end.condition).encode()
    try:
        message = msgspec.json.decode(end.response, type=_WithMessage).errorMessage
    except msgspec.DecodeError:
        message = ""
    text = message.encode("utf-8", "replace")[: limits.ERROR_MESSAGE_ATTRIBUTE_BYTES]
    return "200", text.decode("utf-8", "ignore").encode() or end.condition.encode()


class _WithMessage(msgspec.Struct):
    errorMessage: str = ""  # noqa: N815 - Lambda's spelling
