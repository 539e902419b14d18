"""SendMessage: bodies, attributes, checksums, sizes and delays (sqs.md 3 and 5)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from tests.wire.clients import Refusal, Sqs
from tests.wire.gateway import WireClock

MEBIBYTE = 1_048_576
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
ABC: dict[str, dict[str, Any]] = {  # with its checksum, from sqs.md 5
    "a": {"DataType": "String", "StringValue": "x"},
    "b": {"DataType": "Number.int", "StringValue": "12"},
    "c": {"DataType": "Binary", "BinaryValue": b"\x01\x02\x03"},
}
ABC_MD5 = "6192c1ae6c7e2d4ce99a916472180409"


def md5_of_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Written from the rule in sqs.md 5."""
    text = b""
    for name in sorted(attributes):
        kind = attributes[name]["DataType"]
        binary = kind.startswith("Binary")
        value = attributes[name]["BinaryValue"] if binary else attributes[name]["StringValue"].encode()
        parts = name.encode(), kind.encode(), value
        lengths = [struct.pack(">I", len(part)) + part for part in parts]
        text += lengths[0] + lengths[1] + (b"\x02" if binary else b"\x01") + lengths[2]
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def string(value: str, kind: str = "String") -> dict[str, str]:
    return {"DataType": kind, "StringValue": value}


def sent_with(sqs: Sqs, **attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The one message received after a send with these attributes."""
    url = sqs.queue()
    sqs.send(url, MessageAttributes=attributes)
    (message,) = sqs.receive(url, MessageAttributeNames=["All"])
    return message


# -- what is answered -------------------------------------------------------------------------------------------------


def test_a_send_answers_the_messages_id_and_its_bodys_checksum(sqs: Sqs) -> None:
    url = sqs.queue()
    sent = sqs.send(url, "hello")
    sent.pop("ResponseMetadata")
    assert sent == {"MessageId": sent["MessageId"], "MD5OfMessageBody": "5d41402abc4b2a76b9719d911017c592"}
    (message,) = sqs.receive(url)
    assert message["MessageId"] == sent["MessageId"]
    assert (message["Body"], message["MD5OfBody"]) == ("hello", sent["MD5OfMessageBody"])


def test_the_checksum_of_attributes_is_the_documented_one(sqs: Sqs) -> None:
    assert md5_of_attributes(ABC) == ABC_MD5
    assert sqs.send(sqs.queue(), "hello", MessageAttributes=ABC)["MD5OfMessageAttributes"] == ABC_MD5


@pytest.mark.parametrize(
    "body",
    ["x", "é", "日本語", "\U0001f600", " a\t\r\nb ", "<a>&amp;\"'</a>", "a+b c%20=&", '{"k": [1]}', "\ue000\ufffd"],
)
def test_bodies_come_out_as_they_went_in(sqs: Sqs, body: str) -> None:
    url = sqs.queue()
    sent = sqs.send(url, body)
    assert sent["MD5OfMessageBody"] == hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
    assert sqs.bodies(url) == [body]


@pytest.mark.parametrize("character", ["\x00", "\x01", "\x0b", "\x1f", "\ufffe", "\uffff"])
def test_characters_that_xml_cannot_hold_are_refused(sqs: Sqs, character: str) -> None:
    url = sqs.queue()
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody=f"a{character}b")
    assert (refusal.code, refusal.status) == ("InvalidMessageContents", 400)
    attributes = {"K": string(f"a{character}b")}
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=attributes)
    assert refusal.code in {"InvalidMessageContents", "InvalidParameterValue"}
    assert sqs.counts(url) == (0, 0, 0)


def test_an_empty_body_is_missing(sqs: Sqs) -> None:
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="")
    assert refusal == ("MissingParameter", "The request must contain the parameter MessageBody.", 400)


# -- sizes ------------------------------------------------------------------------------------------------------------


def too_large(limit: int) -> Refusal:
    said = f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes."
    return Refusal("InvalidParameterValue", said, 400)


def test_a_message_of_one_mebibyte_passes_and_one_byte_more_does_not(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url, "x" * MEBIBYTE)
    assert sqs.refusal("send_message", QueueUrl=url, MessageBody="x" * (MEBIBYTE + 1)) == too_large(MEBIBYTE)
    assert [len(body) for body in sqs.bodies(url)] == [MEBIBYTE]


def test_the_queues_own_maximum_counts_bytes_of_body_names_types_and_values(sqs: Sqs) -> None:
    url = sqs.queue("orders", MaximumMessageSize="1024")
    attribute = {"name": string("value")}  # 4 + 6 + 5
    binary = {"name": {"DataType": "Binary", "BinaryValue": b"\xff" * 5}}  # the same, before base64
    for body, attributes in (("x" * 1024, {}), ("é" * 512, {}), ("x" * 1009, attribute), ("x" * 1009, binary)):
        sqs.send(url, body, MessageAttributes=attributes)
        refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody=body + "x", MessageAttributes=attributes)
        assert refusal == too_large(1024)


def test_the_trace_header_does_not_count_to_the_size(sqs: Sqs) -> None:
    url = sqs.queue("orders", MaximumMessageSize="1024")
    sqs.send(url, "x" * 1024, MessageSystemAttributes={"AWSTraceHeader": string(TRACE)})


# -- attributes -------------------------------------------------------------------------------------------------------


def test_attributes_come_back_when_asked_for_with_their_types(sqs: Sqs) -> None:
    message = sent_with(sqs, **ABC)
    assert message["MessageAttributes"] == ABC
    assert message["MD5OfMessageAttributes"] == ABC_MD5


def test_attributes_that_are_not_asked_for_do_not_come(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url, MessageAttributes=ABC)
    (message,) = sqs.receive(url)
    assert "MessageAttributes" not in message
    assert "MD5OfMessageAttributes" not in message


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["All"], ["Hello", "Help.Me", "other"]),
        ([".*"], ["Hello", "Help.Me", "other"]),
        (["Hello"], ["Hello"]),
        (["Hel.*"], ["Hello", "Help.Me"]),
        (["Help.*", "other"], ["Help.Me", "other"]),
        (["hello"], []),
        (["Hel", "*"], []),
        (["unknown", "Hello"], ["Hello"]),
    ],
)
def test_attributes_are_chosen_by_name_and_prefix_and_the_checksum_covers_what_is_returned(
    sqs: Sqs, asked: list[str], expected: list[str]
) -> None:
    all_of_them = {name: string(name) for name in ("Hello", "Help.Me", "other")}
    url = sqs.queue()
    sqs.send(url, MessageAttributes=all_of_them)
    (message,) = sqs.receive(url, MessageAttributeNames=asked)
    returned = {name: all_of_them[name] for name in expected}
    assert message.get("MessageAttributes", {}) == returned
    assert message.get("MD5OfMessageAttributes") == (md5_of_attributes(returned) if returned else None)


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "n" * 256, "a.b.c", "Awsome", "amazonite"])
def test_a_good_attribute_name_is_accepted(sqs: Sqs, name: str) -> None:
    assert list(sent_with(sqs, **{name: string("x")})["MessageAttributes"]) == [name]


@pytest.mark.parametrize(
    "name", ["n" * 257, ".a", "a.", "a..b", "a b", "é", "a/b", "AWS.x", "Amazon.x", "aws.x", "AMAZON.x"]
)
def test_a_bad_attribute_name_is_refused(sqs: Sqs, name: str) -> None:
    attributes = {name: string("x")}
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", MessageAttributes=attributes)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("String", "x"),
        ("String.label", "x"),
        ("String." + "l" * 249, "x"),
        ("Number", "-1.5"),
        ("Number", "1e126"),
        ("Number", "1E-128"),
        ("Number", "9" * 38),
        ("Number.int", "0"),
    ],
)
def test_a_good_type_and_value_are_accepted(sqs: Sqs, kind: str, value: str) -> None:
    assert sent_with(sqs, k=string(value, kind))["MessageAttributes"] == {"k": string(value, kind)}


@pytest.mark.parametrize("kind", ["Binary", "Binary.png"])
def test_binary_values_come_out_as_they_went_in(sqs: Sqs, kind: str) -> None:
    attribute = {"DataType": kind, "BinaryValue": bytes(range(256))}
    message = sent_with(sqs, k=attribute)
    assert message["MessageAttributes"] == {"k": attribute}
    assert message["MD5OfMessageAttributes"] == md5_of_attributes({"k": attribute})


@pytest.mark.parametrize(
    "attribute",
    [
        string("x", "Text"),
        string("x", "string"),
        string("x", ""),
        string("x", "String." + "l" * 250),
        string("many", "Number"),
        string("1e127", "Number"),
        string("1e-129", "Number"),
        string("9" * 39, "Number"),
        string("NaN", "Number"),
        string("Infinity", "Number"),
        string("", "Number"),
        {"DataType": "Binary", "BinaryValue": b""},
        {"DataType": "Binary", "StringValue": "x"},
        {"DataType": "String", "BinaryValue": b"x"},
        {"DataType": "String"},
        {"StringValue": "x"},
    ],
)
def test_a_bad_type_or_value_is_refused(sqs: Sqs, attribute: dict[str, object]) -> None:
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", MessageAttributes={"k": attribute})
    assert refusal.code in {"InvalidParameterValue", "MissingParameter"}
    assert refusal.status == 400


def test_an_empty_string_is_no_value(sqs: Sqs) -> None:
    attributes = {"K": string("")}
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", MessageAttributes=attributes)
    said = "Message (user) attribute 'K' must contain a non-empty value of type 'String'."
    assert refusal == ("InvalidParameterValue", said, 400)


def test_ten_attributes_are_allowed_and_eleven_are_not(sqs: Sqs) -> None:
    url = sqs.queue()
    eleven = {f"k{number}": string("x") for number in range(11)}
    refusal = sqs.refusal("send_message", QueueUrl=url, MessageBody="x", MessageAttributes=eleven)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    del eleven["k10"]
    sqs.send(url, MessageAttributes=eleven)
    (message,) = sqs.receive(url, MessageAttributeNames=["All"])
    assert message["MessageAttributes"] == eleven


# -- system attributes ------------------------------------------------------------------------------------------------


def test_a_trace_header_is_carried_and_has_a_checksum(sqs: Sqs) -> None:
    url = sqs.queue()
    header = {"AWSTraceHeader": string(TRACE)}
    sent = sqs.send(url, MessageSystemAttributes=header)
    assert sent["MD5OfMessageSystemAttributes"] == md5_of_attributes(header)
    assert "MD5OfMessageAttributes" not in sent
    (message,) = sqs.receive(url, AttributeNames=["AWSTraceHeader"])
    assert message["Attributes"] == {"AWSTraceHeader": TRACE}


@pytest.mark.parametrize(
    ("name", "attribute"), [("SenderId", string("x")), ("AWSTraceHeader", {"DataType": "Binary", "BinaryValue": b"x"})]
)
def test_other_system_attributes_cannot_be_sent(sqs: Sqs, name: str, attribute: dict[str, object]) -> None:
    system = {name: attribute}
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", MessageSystemAttributes=system)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


# -- delays -----------------------------------------------------------------------------------------------------------


def test_a_message_with_a_delay_is_received_when_it_is_over(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url, DelaySeconds=900)
    clock.advance(870)
    assert sqs.receive(url) == []
    assert sqs.counts(url) == (0, 0, 1)
    clock.advance(31)
    assert sqs.bodies(url) == ["x"]


def test_the_queues_delay_holds_where_a_message_has_none_of_its_own(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", DelaySeconds="30", VisibilityTimeout="600")
    sqs.send(url, "queue's")
    sqs.send(url, "own", DelaySeconds=90)
    sqs.send(url, "none", DelaySeconds=0)
    assert sqs.bodies(url) == ["none"]
    clock.advance(31)
    assert sqs.bodies(url) == ["queue's"]
    clock.advance(60)
    assert sqs.bodies(url) == ["own"]


def test_another_delay_of_the_queue_holds_for_new_messages_only(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", DelaySeconds="10", VisibilityTimeout="600")
    sqs.send(url, "before")
    sqs.configure(url, DelaySeconds="100")
    sqs.send(url, "after")
    clock.advance(11)
    assert sqs.bodies(url) == ["before"]
    clock.advance(90)
    assert sqs.bodies(url) == ["after"]


@pytest.mark.parametrize("delay", [-1, 901])
def test_a_delay_outside_its_range_is_refused(sqs: Sqs, delay: int) -> None:
    refusal = sqs.refusal("send_message", QueueUrl=sqs.queue(), MessageBody="x", DelaySeconds=delay)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    assert refusal.message.startswith(f"Value {delay} for parameter DelaySeconds is invalid.")


def test_messages_expire_with_the_queues_retention(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", MessageRetentionPeriod="60")
    sqs.send(url)
    clock.advance(61)
    assert sqs.receive(url) == []
