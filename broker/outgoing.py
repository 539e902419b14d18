"""What a caller hands over, checked and packed: events of functions and messages of queues."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from broker import limits, tracing
from broker.errors import InvalidOption, PayloadTooLarge
from broker.message_attributes import Attribute, AttributeValue
from broker.records import Header, decode_json, encode_json, pack
from broker.store.values import NewMessage

_OWN_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
GROUP: Final = re.compile(r"[\x21-\x7e]{1,128}")
"""What SQS allows as MessageGroupId and MessageDeduplicationId: letters, digits and ASCII punctuation."""
ATTRIBUTE_NAME: Final = re.compile(r"(?!.*\.\.)(?!\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
"""What SQS allows as the name of a message attribute, besides names under ``AWS.`` and ``Amazon.``."""
NOT_IN_MESSAGES: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""A character that SQS does not allow in texts."""


def check_own_id(own_id: object) -> str:
    """The caller's id, '' where there is none. Raises InvalidOption."""
    if own_id is None:
        return ""
    if not isinstance(own_id, str) or not _OWN_ID.fullmatch(own_id):
        raise InvalidOption("id", own_id, "1 to 128 printable characters without spaces")
    return own_id


def event_message(function: str, event: object, own_id: str | None = None) -> NewMessage:
    """An event for the asynchronous queue of a function. Raises PayloadNotJson, PayloadTooLarge, InvalidOption."""
    body = event_json(f'event for function "{function}"', event, limit_bytes=limits.MAX_ASYNC_EVENT_BYTES)
    identity = check_own_id(own_id)
    header = tracing.stamped(Header(id=identity) if identity else None, tracing.current())
    return NewMessage(pack(body, header), len(body), None, identity, named=bool(identity))


def event_messages(function: str, events: Iterable[object]) -> list[NewMessage]:
    """Many events at once, without ids of their own. Errors as :func:`event_message`."""
    what, limit_bytes = f'event for function "{function}"', limits.MAX_ASYNC_EVENT_BYTES
    bodies = [event_json(what, event, limit_bytes=limit_bytes) for event in events]
    header = tracing.stamped(None, tracing.current())
    return [NewMessage(pack(body, header), len(body)) for body in bodies]


def event_json(what: str, event: object, *, limit_bytes: int) -> bytes:
    """An event as JSON: bytes are taken as JSON text and checked, anything else is encoded."""
    if isinstance(event, bytes):
        decode_json(what, event)
        body = event
    else:
        body = encode_json(what, event)
    if len(body) > limit_bytes:
        raise PayloadTooLarge(what, len(body), limit_bytes)
    return body


def queue_message(
    queue: str,
    body: object,
    *,
    delay_s: float | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    own_id: str | None = None,
    group: str | None = None,
    deduplication_id: str | None = None,
) -> NewMessage:
    """A message for a queue: text as it is, anything else as JSON. Raises InvalidInput."""
    fifo = queue.endswith(".fifo")
    if fifo:
        _check_for_fifo(delay_s, own_id, group)
    elif deduplication_id is not None:
        raise InvalidOption("deduplication_id", deduplication_id, "only for FIFO queues; a standard queue knows an id")
    what = f'message for queue "{queue}"'
    encoded = _body_bytes(what, body)
    size = len(encoded)
    typed = _typed(attributes) if attributes else {}
    for name, attribute in typed.items():
        size += len(name.encode()) + len(attribute.data_type.encode()) + len(attribute.data)
    if size > limits.MAX_MESSAGE_BYTES:
        raise PayloadTooLarge(what, size, limits.MAX_MESSAGE_BYTES)
    identity = check_own_id(own_id)
    group = _check_id("group", group)
    deduplication_id = _check_id("deduplication_id", deduplication_id)
    given = None
    if identity or typed or group or deduplication_id:
        given = Header(id=identity or None, attributes=typed, group=group, deduplication_id=deduplication_id)
    header = tracing.stamped(given, tracing.current())
    delay_ms = None if fifo else _delay_ms(delay_s)
    return NewMessage(pack(encoded, header), size, delay_ms, identity, group=group, deduplication_id=deduplication_id)


def _typed(attributes: Mapping[str, AttributeValue]) -> dict[str, Attribute]:
    typed = {_check_attribute_name(name): Attribute.of(name, value) for name, value in attributes.items()}
    if len(typed) > limits.MAX_ATTRIBUTES:
        raise InvalidOption("attributes", sorted(typed), f"at most {limits.MAX_ATTRIBUTES}")
    return typed


def _check_for_fifo(delay_s: object, own_id: object, group: object) -> None:
    if delay_s:
        raise InvalidOption("delay", delay_s, "a message of a FIFO queue has no delay of its own; set the queue's")
    if own_id is not None:
        raise InvalidOption("id", own_id, "give a deduplication_id instead: a FIFO queue makes the ids itself")
    if group is None:
        raise InvalidOption("group", group, "a FIFO queue needs one: messages of a group keep their order")


def _check_id(option: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not GROUP.fullmatch(value):
        raise InvalidOption(option, value, "1 to 128 of letters, digits and punctuation")
    return value


def _body_bytes(what: str, body: object) -> bytes:
    if not isinstance(body, str):
        return encode_json(what, body)
    if not body:
        raise InvalidOption("body", body, "must not be empty")
    if found := NOT_IN_MESSAGES.search(body):
        raise InvalidOption("body", found.group(), "a character that SQS does not allow in messages")
    return body.encode()


def _check_attribute_name(name: object) -> str:
    valid = isinstance(name, str) and ATTRIBUTE_NAME.fullmatch(name)
    if not isinstance(name, str) or not valid or name.lower().startswith(("aws.", "amazon.")):
        rule = "1 to 256 of letters, digits, _, - and single inner dots, not starting with AWS. or Amazon."
        raise InvalidOption("attribute name", name, rule)
    return name


def _delay_ms(delay_s: object) -> int | None:
    if delay_s is None:
        return None
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not 0 <= delay_s <= limits.MAX_DELAY_S:
        raise InvalidOption("delay", delay_s, f"must be a number of seconds from 0 to {limits.MAX_DELAY_S}")
    return round(delay_s * 1000)
