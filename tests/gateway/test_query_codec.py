"""The query protocol's forms and XML: what a form becomes, what is refused, and that every document can be read."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated
from urllib.parse import quote_plus
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from broker.gateway.aws import xml
from broker.gateway.aws.query import MAX_PARAMETERS, read_form, read_input
from broker.gateway.aws.service import ErrorKind, ServiceError
from broker.gateway.aws.wire import form_of
from tests.gateway.tiny import EchoRequest, Entry, Value

_ATTRIBUTE = "EchoEntry.1.MessageAttribute.1"
_BAD_BINARY = f"{_ATTRIBUTE}.Name=n&{_ATTRIBUTE}.Value.DataType=x&{_ATTRIBUTE}.Value.BinaryValue=%21"


def read(form: str) -> EchoRequest:
    found: EchoRequest = read_input(read_form(form.encode()), EchoRequest)
    return found


def refused(form: str) -> tuple[str, str]:
    with pytest.raises(ServiceError) as error:
        read(form)
    return error.value.name, error.value.message


def test_numbers_flags_lists_maps_and_structs_are_read() -> None:
    attribute = "EchoEntry.1.MessageAttribute.1"
    found = read(
        "QueueUrl=q&Number=12&Flag=false&AttributeName.2=b&AttributeName.1=a&Tag.1.Key=k&Tag.1.Value=&Unknown.7=x"
        f"&EchoEntry.1.Id=1&EchoEntry.1.Body=null&{attribute}.Name=n&{attribute}.Value.DataType=Binary"
        f"&{attribute}.Value.BinaryValue=AQI%3D&EchoEntry.2.Id=2&EchoEntry.2.Body=true"
    )
    assert found == EchoRequest(
        queue_url="q",
        number=12,
        flag=False,
        names=["a", "b"],
        tags={"k": ""},
        entries=[
            Entry("1", "null", {"n": Value("Binary", binary_value=b"\x01\x02")}),
            Entry("2", "true"),
        ],
    )


def test_one_item_may_come_without_a_number() -> None:
    found = read("QueueUrl=q&AttributeName=All&Tag.Key=k&Tag.Value=v")
    assert (found.names, found.tags) == (["All"], {"k": "v"})


class Lists(msgspec.Struct):
    plain: list[str]
    noted: Annotated[list[str] | None, msgspec.Meta(extra={"query": "Item"})] | msgspec.UnsetType = msgspec.UNSET


def test_lists_are_found_however_their_type_is_written_and_a_required_one_may_be_empty() -> None:
    forms = {member.query_name: member.form.shape for member in form_of(Lists).members}
    assert forms == {"plain": "list", "Item": "list"}
    assert read_input(read_form(b"Item.1=x"), Lists) == Lists([], ["x"])


@pytest.mark.parametrize(
    ("form", "name", "said"),
    [
        ("Number=1", "MissingParameter", "The request must contain the parameter QueueUrl."),
        ("QueueUrl=q&EchoEntry.1.Id=x", "MissingParameter", "parameter EchoEntry.1.Body."),
        ("QueueUrl=q&Tag.1.Value=x", "MissingParameter", "parameter Tag.1.Key."),
        ("QueueUrl=q&Tag.1.Key=x", "MissingParameter", "parameter Tag.1.Value."),
        ("QueueUrl=q&Number=x", "InvalidParameterValue", "Value for parameter Number is invalid."),
        ("QueueUrl=q&Number=", "InvalidParameterValue", "Number"),
        ("QueueUrl=q&Number=1&Number=1", "InvalidQueryParameter", "Number is there twice"),
        ("QueueUrl=q&AttributeName.1=a&AttributeName.3=b", "InvalidQueryParameter", "must count from 1"),
        ("QueueUrl=q&AttributeName.2=a", "InvalidQueryParameter", "must count from 1"),
        ("QueueUrl=q&AttributeName.999999999=a&AttributeName.1=a", "InvalidQueryParameter", "must count"),
        ("QueueUrl=q&AttributeName.01=a&AttributeName.1=a", "InvalidQueryParameter", "must count"),
        ("QueueUrl=q&AttributeName.1=a&AttributeName=a", "InvalidQueryParameter", "must count"),
        ("QueueUrl=q&AttributeName.999999999=a", "InvalidQueryParameter", "is not a structure or list"),
        ("QueueUrl.1=q", "InvalidQueryParameter", "QueueUrl is not a structure or list"),
        ("QueueUrl=q&Tag.1.Key.x.y.z.a.b.c.d=1", "InvalidQueryParameter", "nested too deeply"),
        ("QueueUrl=q&" + "&".join(f"A.{n}=1" for n in range(MAX_PARAMETERS)), "InvalidQueryParameter", "more than"),
        ("QueueUrl=%ff", "MalformedQueryString", "not UTF-8"),
        (
            f"QueueUrl=q&EchoEntry.1.Id=x&EchoEntry.1.Body=b&{_BAD_BINARY}",
            "InvalidParameterValue",
            "base64",
        ),
    ],
)
def test_what_is_missing_wrong_or_badly_numbered_is_named(form: str, name: str, said: str) -> None:
    error, message = refused(form)
    assert error == name
    assert said in message


@given(some.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(ServiceError):
        read_input(read_form(data), EchoRequest)


_STEP = some.sampled_from(["QueueUrl", "Tag", "Key", "Value", "EchoEntry", "Id", "1", "2", "3", "0", "-1", "9" * 9, ""])


@given(some.lists(some.tuples(some.lists(_STEP, max_size=10), some.text(max_size=5)), max_size=12))
def test_any_names_are_read_or_refused(pairs: list[tuple[list[str], str]]) -> None:
    form = "&".join(f"{quote_plus('.'.join(steps))}={quote_plus(value)}" for steps, value in pairs)
    with suppress(ServiceError):
        read(form)


def as_xml(text: str) -> str:
    """What a parser can read of a text: XML has no form for some characters."""
    return "".join(
        character if character in "\t\n\r" or (character >= " " and character not in "\ufffe\uffff") else "\ufffd"
        for character in text
    )


@given(some.text(), some.dictionaries(some.text(max_size=5), some.text(max_size=5), max_size=3))
def test_any_text_comes_back_out_of_the_document(text: str, tags: dict[str, str]) -> None:
    result = EchoRequest(queue_url=text, tags=tags)
    root = ET.fromstring(xml.success("Echo", result, namespace="urn:x", request_id="id"))  # noqa: S314 - our own
    assert root.findtext("{urn:x}EchoResult/{urn:x}QueueUrl") == as_xml(text)
    keys = [tag.findtext("{urn:x}Key") for tag in root.iter("{urn:x}Tag")]
    assert keys == [as_xml(key) for key in tags]
    error = ET.fromstring(  # noqa: S314 - our own
        xml.error(ErrorKind("x", "Code"), text, namespace="urn:x", request_id="id")
    )
    assert error.findtext("{urn:x}Error/{urn:x}Message") == as_xml(text)
