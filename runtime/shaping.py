"""Messages of a queue in the shape of Lambda's SQS event. Pure."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec

from broker.digests import attributes_md5, body_md5
from broker.ids import message_id, sequence_number
from broker.message_attributes import PlainValue
from broker.names import Resource
from broker.records import FIRST_FACTS, NO_HEADER, Facts, Header, unpack
from broker.store.values import Claimed

T = TypeVar("T")


class Record(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One message of a batch for handlers that take ``list[Record[T]]``; ``body`` is decoded and validated into T."""

    message_id: str
    body: T
    attributes: dict[str, PlainValue]
    """What it was sent with."""
    receives: int
    sent_ms: int
    fencing_token: int


class Letter(msgspec.Struct, frozen=True, gc=False):
    """One claimed message, opened. Not for the garbage collector to look at: it can be in no circle."""

    id: str
    entry: str
    header: Header
    body: bytes
    facts: Facts
    sent_ms: int


def open_letter(claimed: Claimed, nonce: int) -> Letter:
    """The parts of a claimed message. Raises ValueError for damaged data."""
    header, body = unpack(claimed.blob)
    facts = FIRST_FACTS if not claimed.facts_text else claimed.facts
    identity = header.id or message_id(claimed.entry, nonce)
    sent_ms = facts.sent_ms or int(claimed.entry.partition("-")[0])
    return Letter(identity, claimed.entry, header, body, facts, sent_ms)


def sqs_record(letter: Letter, queue: Resource, *, receipt_handle: str, claimed_ms: int) -> dict[str, Any]:
    """One element of ``Records``, key by key as Lambda sends it."""
    attributes = {
        "ApproximateReceiveCount": str(letter.facts.receives),
        "SentTimestamp": str(letter.sent_ms),
        "SenderId": letter.header.sender or queue.account,
        "ApproximateFirstReceiveTimestamp": str(letter.facts.first_receive_ms or claimed_ms),
    }
    if letter.header is not NO_HEADER:
        attributes |= _further_attributes(letter.header)
    if queue.fifo:
        attributes["SequenceNumber"] = sequence_number(letter.entry)
        content = hashlib.sha256(letter.body).hexdigest
        attributes["MessageDeduplicationId"] = letter.header.deduplication_id or content()
    record: dict[str, Any] = {
        "messageId": letter.id,
        "receiptHandle": receipt_handle,
        "body": letter.body.decode("utf-8", "replace"),  # only damaged data is no text
        "attributes": attributes,
        "messageAttributes": {name: _attribute(a) for name, a in letter.header.attributes.items()},
        "md5OfBody": body_md5(letter.body),
        "eventSource": "aws:sqs",
        "eventSourceARN": _arn_of(queue),
        "awsRegion": queue.region,
    }
    if letter.header.attributes:
        record["md5OfMessageAttributes"] = attributes_md5(letter.header.attributes)
    return record


def _further_attributes(header: Header) -> dict[str, str]:
    """The system attributes that only some messages have."""
    found = {
        "MessageGroupId": header.group,
        "AWSTraceHeader": header.trace,
        "DeadLetterQueueSourceArn": header.source or "",
    }
    return {name: value for name, value in found.items() if value}


_arn_of: Final = lru_cache(maxsize=64)(lambda queue: str(queue.arn))


def _attribute(attribute: Any) -> dict[str, Any]:
    return {
        "stringValue": None if attribute.binary else attribute.data.decode(),
        "binaryValue": base64.b64encode(attribute.data).decode() if attribute.binary else None,
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": attribute.data_type,
    }


def typed_record(letter: Letter, body: T, *, fencing_token: int) -> Record[T]:
    """The same message for a handler that takes ``list[Record[T]]``."""
    return Record(
        message_id=letter.id,
        body=body,
        attributes={name: attribute.python for name, attribute in letter.header.attributes.items()},
        receives=letter.facts.receives,
        sent_ms=letter.sent_ms,
        fencing_token=fencing_token,
    )
