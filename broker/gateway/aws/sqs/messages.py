"""Messages on their way in: what the wire brings, checked by SQS's rules and in its words, and packed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from broker import limits
from broker.digests import attributes_md5, body_md5
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.errors import WRONG_FOR_KIND, invalid, invalid_value, missing, told
from broker.gateway.aws.sqs.message_shapes import (
    MessageAttributeValue,
    SendMessageBatchRequestEntry,
    SendMessageRequest,
)
from broker.message_attributes import ATTRIBUTE_TYPE, Attribute, is_number
from broker.names import Resource
from broker.outgoing import ATTRIBUTE_NAME, GROUP, NOT_IN_MESSAGES
from broker.records import Header, pack
from broker.store.values import NewMessage
from broker.tracing import NO_TRACE, Trace

Wanted: TypeAlias = SendMessageRequest | SendMessageBatchRequestEntry

MAX_TRACE_BYTES: Final = 4 * limits.KIB
"""Of AWSTraceHeader, which counts to no other limit; a real one has some hundred."""
_CONTROLS: Final = bytes(value for value in range(32) if value not in b"\t\n\r")
_TRACE: Final = "AWSTraceHeader"
_RESERVED: Final = ("aws.", "amazon.")
_NONE: Final[Mapping[str, MessageAttributeValue]] = {}


class Draft(msgspec.Struct, frozen=True):
    """A message that can be sent, and the checksums that its sender is told."""

    message: NewMessage
    body_md5: str
    attributes_md5: str | None = None
    system_attributes_md5: str | None = None


def draft(
    queue: Resource,
    wanted: Wanted,
    *,
    sender: str,
    trace: Trace = NO_TRACE,
    body_parameter: str = "MessageBody",
) -> Draft:
    """The message as it is stored. ``sender`` is the SenderId where it is not the queue's account, else ''; ``trace``
    what the request belongs to, whose header an AWSTraceHeader of the message replaces.

    Its size is not checked. Raises ServiceError.
    """
    if not wanted.message_body:
        raise missing(body_parameter)
    check_text(wanted.message_body)
    body = wanted.message_body.encode()
    delay_ms = _delay_ms(queue, wanted.delay_seconds)
    plain = not (wanted.message_attributes or wanted.message_system_attributes or sender or trace is not NO_TRACE)
    if plain and wanted.message_group_id is None and wanted.message_deduplication_id is None and not queue.fifo:
        return Draft(NewMessage(pack(body), len(body), delay_ms), body_md5(body))
    return _headed(queue, wanted, body, delay_ms=delay_ms, sender=sender, trace=trace)


def _headed(queue: Resource, wanted: Wanted, body: bytes, *, delay_ms: int | None, sender: str, trace: Trace) -> Draft:
    attributes = read_attributes(wanted.message_attributes or _NONE)
    system = _system_attributes(wanted.message_system_attributes or _NONE)
    group = check_id("MessageGroupId", wanted.message_group_id)
    deduplication_id = check_id("MessageDeduplicationId", wanted.message_deduplication_id)
    if queue.fifo and not group:
        raise missing("MessageGroupId")
    if deduplication_id and not queue.fifo:
        raise invalid_value("MessageDeduplicationId", deduplication_id, WRONG_FOR_KIND)
    header = Header(
        attributes=attributes,
        group=group,
        deduplication_id=deduplication_id,
        trace=system[_TRACE].data.decode() if system else trace.header,
        sender=sender,
        traceparent=trace.parent,
        tracestate=trace.state,
    )
    size = len(body) + _attributes_size(attributes)
    return Draft(
        NewMessage(pack(body, header), size, delay_ms, group=group, deduplication_id=deduplication_id),
        body_md5(body),
        attributes_md5(attributes) if attributes else None,
        attributes_md5(system) if system else None,
    )


def check_text(text: str) -> None:
    """Raises InvalidMessageContents for a character that SQS does not allow."""
    # Both are far quicker than the pattern, and true for most.
    if len(text.encode().translate(None, _CONTROLS)) == len(text) if text.isascii() else text.isprintable():
        return
    if found := NOT_IN_MESSAGES.search(text):
        raise ServiceError(
            "InvalidMessageContents",
            f"Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to "
            f"#xFFFD | #x10000 to #x10FFFF; found #x{ord(found.group()):X}.",
        )


def check_id(parameter: str, value: str | None) -> str:
    """The id of a group or for deduplication, '' where there is none. Raises InvalidParameterValue."""
    if value is None:
        return ""
    if not GROUP.fullmatch(value):
        reason = f"{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length."
        raise invalid_value(parameter, value, reason)
    return value


def _delay_ms(queue: Resource, delay_s: int | None) -> int | None:
    if delay_s is None:
        return None
    if queue.fifo:
        if delay_s:
            raise invalid_value("DelaySeconds", delay_s, WRONG_FOR_KIND)
        return None  # 0 is the queue's own
    if not 0 <= delay_s <= limits.MAX_DELAY_S:
        raise invalid_value("DelaySeconds", delay_s, f"DelaySeconds must be >= 0 and <= {limits.MAX_DELAY_S}.")
    return delay_s * 1000


# -- attributes -------------------------------------------------------------------------------------------------------


def read_attributes(given: Mapping[str, MessageAttributeValue]) -> dict[str, Attribute]:
    """The attributes, typed. Raises InvalidParameterValue, UnsupportedOperation."""
    if len(given) > limits.MAX_ATTRIBUTES:
        raise invalid(
            f"Number of message attributes [{len(given)}] exceeds the allowed maximum [{limits.MAX_ATTRIBUTES}]."
        )
    return {_checked_name(name): _attribute(name, value) for name, value in given.items()}


def _checked_name(name: str) -> str:
    if ATTRIBUTE_NAME.fullmatch(name) and not name.lower().startswith(_RESERVED):
        return name
    raise invalid(
        f"The message attribute name '{told(name)}' is invalid. Attribute name can contain A-Z, a-z, 0-9, underscore "
        "(_), hyphen (-), and period (.) characters, at most 256, without a period at either end or two in a row, and "
        "must not start with AWS. or Amazon."
    )


def _attribute(name: str, value: MessageAttributeValue) -> Attribute:
    kind = value.data_type.partition(".")[0]
    if not ATTRIBUTE_TYPE.fullmatch(value.data_type):
        raise invalid(
            f"The type of message (user) attribute '{name}' is invalid. You must use only the following supported type "
            "prefixes: Binary, Number, String."
        )
    if value.string_list_values or value.binary_list_values:
        raise ServiceError(
            "UnsupportedOperation", "Message attribute list values in SendMessage operation are not supported."
        )
    if kind == "Binary":
        if not value.binary_value or value.string_value:
            raise _empty(name, kind)
        return Attribute(value.data_type, value.binary_value)
    if not value.string_value or value.binary_value:
        raise _empty(name, kind)
    check_text(value.string_value)
    if kind == "Number" and not is_number(value.string_value):
        raise invalid(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return Attribute(value.data_type, value.string_value.encode())


def _empty(name: str, kind: str) -> ServiceError:
    return invalid(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")


def _system_attributes(given: Mapping[str, MessageAttributeValue]) -> dict[str, Attribute]:
    for name, value in given.items():
        if name != _TRACE:
            raise invalid(f"Message system attribute name '{told(name)}' is invalid.")
        if value.data_type != "String":
            raise invalid(f"The data type of message system attribute '{name}' must be String.")
        if len((value.string_value or "").encode(errors="replace")) > MAX_TRACE_BYTES:
            raise invalid(f"Message system attribute '{name}' must be shorter than {MAX_TRACE_BYTES + 1} bytes.")
    return {name: _attribute(name, value) for name, value in given.items()}


def _attributes_size(attributes: Mapping[str, Attribute]) -> int:
    return sum(
        len(name.encode()) + len(attribute.data_type.encode()) + len(attribute.data)
        for name, attribute in attributes.items()
    )


def size_of(wanted: Wanted) -> int:
    """What a message counts in bytes, also one that breaks a rule: body, attribute names, types and values."""
    size = len(wanted.message_body.encode(errors="replace"))
    for name, value in (wanted.message_attributes or _NONE).items():
        size += len(name.encode(errors="replace")) + len(value.data_type.encode(errors="replace"))
        size += len(value.binary_value or (value.string_value or "").encode(errors="replace"))
    return size
