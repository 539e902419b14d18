"""Receiving: what is asked for, and how messages are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from broker import limits
from broker.digests import attributes_md5, body_md5
from broker.gateway.aws.service import Call
from broker.gateway.aws.sqs import message_shapes as shapes
from broker.gateway.aws.sqs.access import usable_queue
from broker.gateway.aws.sqs.errors import WRONG_FOR_KIND, invalid, invalid_value, unknown_attribute
from broker.gateway.aws.sqs.messages import check_id
from broker.message import Message
from broker.message_attributes import Attribute
from broker.names import Resource
from broker.receiving import Receive

MAX_COUNT: Final = 10
MAX_NAMES: Final = 256
"""Of MessageAttributeNames; a message has ten attributes."""
_ALL: Final = "All"
_EVERY: Final = frozenset((_ALL, ".*"))
_PREFIX_END: Final = ".*"

_SYSTEM: Final[Mapping[str, Callable[[Message, Resource], str | None]]] = {
    "SenderId": lambda message, queue: message.header.sender or queue.account,
    "SentTimestamp": lambda message, _: str(message.sent_ms),
    "ApproximateReceiveCount": lambda message, _: str(message.receives),
    "ApproximateFirstReceiveTimestamp": lambda message, _: str(message.first_received_ms),
    "SequenceNumber": lambda message, _: message.sequence_number,
    "MessageDeduplicationId": lambda message, _: message.deduplication_id,
    "MessageGroupId": lambda message, _: message.group,
    "AWSTraceHeader": lambda message, _: message.header.trace,
    "DeadLetterQueueSourceArn": lambda message, _: message.source,
}


class Selection(msgspec.Struct, frozen=True):
    """The attributes of messages that a receive asks for."""

    everything: bool
    exact: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()


_NONE: Final = Selection(everything=False)


async def receive(call: Call, wanted: shapes.ReceiveMessageRequest) -> shapes.ReceiveMessageResult:
    """Hands out messages, and waits for one where asked to."""
    queue = await usable_queue(call, wanted.queue_url, "ReceiveMessage")
    asked = read_receive(wanted, queue)
    system = system_names(wanted.attribute_names, wanted.message_system_attribute_names)
    selection = selection_of(wanted.message_attribute_names)
    messages = await call.broker.receiver.receive(queue, asked)
    if not messages:
        return shapes.NOTHING_RECEIVED
    return shapes.ReceiveMessageResult(messages=[_shown(message, queue, system, selection) for message in messages])


def read_receive(wanted: shapes.ReceiveMessageRequest, queue: Resource) -> Receive:
    """What is asked for. Raises InvalidParameterValue."""
    count = 1 if wanted.max_number_of_messages is None else wanted.max_number_of_messages
    if not 1 <= count <= MAX_COUNT:
        raise invalid_value("MaxNumberOfMessages", count, f"Must be between 1 and {MAX_COUNT}, if provided.")
    _check_time("WaitTimeSeconds", wanted.wait_time_seconds, limits.MAX_RECEIVE_WAIT_S)
    _check_time("VisibilityTimeout", wanted.visibility_timeout, limits.MAX_VISIBILITY_TIMEOUT_S)
    attempt = wanted.receive_request_attempt_id
    if attempt is not None:
        check_id("ReceiveRequestAttemptId", attempt)
        if not queue.fifo:
            raise invalid_value("ReceiveRequestAttemptId", attempt, WRONG_FOR_KIND)
    return Receive(
        count=count,
        wait_s=wanted.wait_time_seconds,
        visibility_s=wanted.visibility_timeout,
        attempt=attempt,
        max_in_flight=limits.MAX_IN_FLIGHT,
    )


def _check_time(parameter: str, value: int | None, highest: int) -> None:
    if value is not None and not 0 <= value <= highest:
        raise invalid_value(parameter, value, f"Must be >= 0 and <= {highest}, if provided.")


def system_names(*lists: Iterable[str] | None) -> tuple[str, ...]:
    """The system attributes that the lists together ask for. Raises InvalidAttributeName."""
    asked = {name for names in lists for name in names or ()}
    for name in asked:
        if name not in _SYSTEM and name != _ALL:
            raise unknown_attribute(name)
    return tuple(name for name in _SYSTEM if name in asked or _ALL in asked)


def selection_of(names: Sequence[str] | None) -> Selection:
    """What names ask for: ``All``, ``.*``, by name, or by what comes before ``.*``. Raises InvalidParameterValue."""
    if not names:
        return _NONE
    if len(names) > MAX_NAMES:
        raise invalid(f"Number of message attribute names [{len(names)}] exceeds the allowed maximum [{MAX_NAMES}].")
    exact = frozenset(names)
    prefixes = tuple(name.removesuffix(_PREFIX_END) for name in exact if name.endswith(_PREFIX_END))
    return Selection(not exact.isdisjoint(_EVERY), exact, prefixes)


def chosen(attributes: Mapping[str, Attribute], asked: Selection) -> dict[str, Attribute]:
    """The attributes that are asked for."""
    if asked.everything or not attributes:
        return dict(attributes)
    exact, prefixes = asked.exact, asked.prefixes
    return {name: value for name, value in attributes.items() if name in exact or name.startswith(prefixes)}


def _shown(message: Message, queue: Resource, system: tuple[str, ...], selection: Selection) -> shapes.ReceivedMessage:
    told = {name: text for name in system if (text := _SYSTEM[name](message, queue))}
    attributes = chosen(message.header.attributes, selection)
    return shapes.ReceivedMessage(
        message_id=message.id,
        receipt_handle=message.receipt,
        md5_of_body=body_md5(message.body.encode()),
        body=message.body,
        attributes=told or None,
        md5_of_message_attributes=attributes_md5(attributes) if attributes else None,
        message_attributes={name: _value(value) for name, value in attributes.items()} or None,
    )


def _value(attribute: Attribute) -> shapes.MessageAttributeValue:
    if attribute.binary:
        return shapes.MessageAttributeValue(data_type=attribute.data_type, binary_value=attribute.data)
    return shapes.MessageAttributeValue(data_type=attribute.data_type, string_value=attribute.data.decode())
