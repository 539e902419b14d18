"""Messages in the shape of Lambda's SQS event. Golden values: Lambda Developer Guide, "Lambda with SQS"."""

from __future__ import annotations

import base64
import hashlib
from decimal import Decimal

import pytest

from broker.digests import attributes_md5
from broker.ids import message_id
from broker.message_attributes import Attribute, AttributeValue
from broker.names import Resource
from broker.records import Facts, Header, pack
from broker.store.values import Claimed
from runtime.shaping import Letter, Record, open_letter, sqs_record, typed_record

QUEUE = Resource("queue", "000000000000", "us-east-1", "orders")
FUNCTION_ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
ENTRY, NONCE = "1700000000000-3", 0xDEADBEEF


def header(**attributes: AttributeValue) -> Header:
    return Header(attributes={name: Attribute.of(name, value) for name, value in attributes.items()})


def letter(body: str, head: Header | None = None, facts: Facts | None = None) -> Letter:
    text = facts.stored().encode() if facts else b""
    return open_letter(Claimed(ENTRY, pack(body.encode(), head), text), NONCE)


def test_a_plain_message_is_shaped_key_by_key_as_lambda_sends_it() -> None:
    shaped = sqs_record(letter('{"id": 1}'), QUEUE, receipt_handle="handle", claimed_ms=1_700_000_000_005)
    assert shaped == {
        "messageId": message_id(ENTRY, NONCE),
        "receiptHandle": "handle",
        "body": '{"id": 1}',
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1700000000000",
            "SenderId": "000000000000",
            "ApproximateFirstReceiveTimestamp": "1700000000005",
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(b'{"id": 1}', usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:orders",
        "awsRegion": "us-east-1",
    }


def test_attributes_are_typed_and_have_a_digest() -> None:
    head = header(kind="new", count=3, price=Decimal("1.50"), raw=b"\x00\xff")
    shaped = sqs_record(letter("x", head), QUEUE, receipt_handle="h", claimed_ms=0)
    empty: dict[str, object] = {"stringListValues": [], "binaryListValues": []}
    assert shaped["messageAttributes"] == {
        "kind": {"stringValue": "new", "binaryValue": None, "dataType": "String", **empty},
        "count": {"stringValue": "3", "binaryValue": None, "dataType": "Number", **empty},
        "price": {"stringValue": "1.50", "binaryValue": None, "dataType": "Number", **empty},
        "raw": {
            "stringValue": None,
            "binaryValue": base64.b64encode(b"\x00\xff").decode(),
            "dataType": "Binary",
            **empty,
        },
    }
    assert shaped["md5OfMessageAttributes"] == attributes_md5(head.attributes)


def test_a_message_with_a_past_shows_it() -> None:
    facts = Facts(receives=4, first_receive_ms=1_700_000_000_100, sent_ms=1_600_000_000_000)
    head = Header(id="own-id", source=FUNCTION_ARN)
    shaped = sqs_record(letter("x", head, facts), QUEUE, receipt_handle="h", claimed_ms=1_800_000_000_000)
    assert shaped["messageId"] == "own-id"
    assert shaped["attributes"] == {
        "ApproximateReceiveCount": "4",
        "SentTimestamp": "1600000000000",
        "SenderId": "000000000000",
        "ApproximateFirstReceiveTimestamp": "1700000000100",
        "DeadLetterQueueSourceArn": FUNCTION_ARN,
    }


def test_the_digest_of_text_is_of_its_utf_8_form() -> None:
    shaped = sqs_record(letter("Grüße"), QUEUE, receipt_handle="h", claimed_ms=0)
    assert shaped["body"] == "Grüße"
    assert shaped["md5OfBody"] == hashlib.md5("Grüße".encode(), usedforsecurity=False).hexdigest()


def test_the_digests_have_the_published_check_values() -> None:
    """Values that the algorithm of SQS gives (Developer Guide, "Calculating the MD5 message digest")."""
    head = Header(
        attributes={
            "b": Attribute("Number.int", b"12"),
            "c": Attribute("Binary", b"\x01\x02\x03"),
            "a": Attribute("String", b"x"),
        }
    )
    shaped = sqs_record(letter("hello", head), QUEUE, receipt_handle="h", claimed_ms=0)
    assert shaped["md5OfMessageAttributes"] == "6192c1ae6c7e2d4ce99a916472180409"
    assert shaped["md5OfBody"] == "5d41402abc4b2a76b9719d911017c592"


def test_typed_records_carry_python_values() -> None:
    facts = Facts(receives=2, sent_ms=5)
    opened = letter("x", header(kind="new", count=3, price=Decimal("1.5"), raw=b"\x00"), facts)
    assert typed_record(opened, {"x": 1}, fencing_token=9) == Record(
        message_id=message_id(ENTRY, NONCE),
        body={"x": 1},
        attributes={"kind": "new", "count": 3, "price": Decimal("1.5"), "raw": b"\x00"},
        receives=2,
        sent_ms=5,
        fencing_token=9,
    )


@pytest.mark.parametrize("blob", [b"", b"\x02body", b"\x01\x00", b"\x02\xff\xfe"])
def test_damaged_data_is_shaped_for_the_handler_to_refuse(blob: bytes) -> None:
    """It must end neither the worker nor, unseen, itself."""
    opened = open_letter(Claimed(ENTRY, blob, b""), NONCE)
    assert opened.body == blob
    shaped = sqs_record(opened, QUEUE, receipt_handle="h", claimed_ms=0)
    assert isinstance(shaped["body"], str)
