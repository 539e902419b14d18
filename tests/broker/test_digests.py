"""Checksums of bodies and attributes. Golden values: SQS Developer Guide, "Calculating the MD5 message digest"."""

from __future__ import annotations

from broker.digests import attributes_md5, body_md5
from broker.message_attributes import Attribute

ABC = {"a": Attribute("String", b"x"), "b": Attribute("Number.int", b"12"), "c": Attribute("Binary", b"\x01\x02\x03")}


def test_the_checksum_of_a_body_is_the_documented_one() -> None:
    assert body_md5(b"hello") == "5d41402abc4b2a76b9719d911017c592"


def test_the_checksum_of_attributes_is_the_documented_one() -> None:
    assert attributes_md5(ABC) == "6192c1ae6c7e2d4ce99a916472180409"


def test_attributes_are_taken_in_the_order_of_their_names() -> None:
    assert attributes_md5(dict(reversed(ABC.items()))) == attributes_md5(ABC)
