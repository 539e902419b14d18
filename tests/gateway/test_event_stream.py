"""The framing of event streams, read back by botocore, which checks lengths and CRCs."""

from __future__ import annotations

import random

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, EventStreamMessage

from broker.gateway.aws import event_stream


def read(data: bytes) -> list[EventStreamMessage]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return list(buffer)


def test_what_is_written_is_read_back() -> None:
    seeded = random.Random(7)
    payloads = [b"", b"\x00", *(seeded.randbytes(seeded.randrange(100_000)) for _ in range(20))]
    written = b"".join(event_stream.event("PayloadChunk", payload, content_type="text/x") for payload in payloads)
    messages = read(written)
    assert [message.payload for message in messages] == payloads
    assert {message.headers[":event-type"] for message in messages} == {"PayloadChunk"}
    assert {message.headers[":content-type"] for message in messages} == {"text/x"}


def test_every_byte_is_covered_by_a_checksum() -> None:
    written = event_stream.event("A", b"payload", content_type="b")
    for place in range(8, len(written)):  # before that are the lengths, which the prelude's own checksum covers
        damaged = bytearray(written)
        damaged[place] ^= 1
        with pytest.raises(ChecksumMismatch):
            read(bytes(damaged))


def test_an_error_ends_a_stream_and_its_text_is_cut_to_what_a_header_holds() -> None:
    (message,) = read(event_stream.error("ServiceException", "é" * 40_000))
    assert message.headers[":message-type"] == "error"
    assert message.headers[":error-code"] == "ServiceException"
    assert len(message.headers[":error-message"].encode()) <= 32_767
    assert message.to_response_dict()["status_code"] == 400
