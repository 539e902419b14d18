"""Which records a mapping's filters let through: every row of the table of formats, for SQS and Kinesis."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.event_patterns import InvalidPattern
from broker.filter_criteria import (
    KINESIS_DATA,
    MAX_FILTERS,
    SQS_BODY,
    Filter,
    FilterCriteria,
    KinesisRecord,
    RecordFilter,
    SqsRecord,
)


class Looked:
    """A record that counts how often it is looked at."""

    def __init__(self, data: bytes | str, **metadata: Any) -> None:
        self._data, self._metadata = data, metadata
        self.reads: list[str] = []

    @property
    def data(self) -> bytes | str:
        self.reads.append("data")
        return self._data

    @property
    def metadata(self) -> dict[str, Any]:
        self.reads.append("metadata")
        return self._metadata


def sqs(*patterns: str | dict[str, Any]) -> RecordFilter:
    return RecordFilter(FilterCriteria.of(*patterns), SQS_BODY)


def kinesis(*patterns: str | dict[str, Any]) -> RecordFilter:
    return RecordFilter(FilterCriteria.of(*patterns), KINESIS_DATA)


# -- formats ----------------------------------------------------------------------------------------------------------

PAID = {"body": {"status": ["paid"]}}
STOP = {"body": ["stop", {"prefix": "halt"}]}
NOT_STOP = {"body": [{"anything-but": ["stop"]}]}
ORDERS = {"messageAttributes": {"kind": {"stringValue": ["order"]}}}
NO_KEY = {"body": {"key": [{"exists": False}]}}

FORMATS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("JSON body, JSON pattern", PAID, '{"status":"paid"}', True),
    ("JSON body, JSON pattern", PAID, '{"status":"open"}', False),
    ("JSON body with space around it", PAID, ' \n{"status":"paid"} ', True),
    ("JSON body with duplicate keys", PAID, '{"status":"open","status":"paid"}', True),
    ("JSON body that is an array", PAID, '[{"status":"open"},{"status":"paid"}]', True),
    ("JSON body that is an empty array", PAID, "[]", False),
    ("JSON body without the field", NO_KEY, "{}", True),
    ("plain body, JSON pattern", PAID, "paid", False),
    ("plain body, JSON pattern that wants a field to be absent", NO_KEY, "plain", False),
    ("empty body, JSON pattern", NO_KEY, "", False),
    ("a JSON scalar is plain, JSON pattern", NO_KEY, "5", False),
    ("broken JSON is plain", NO_KEY, '{"status":', False),
    ("two JSON texts are plain", NO_KEY, "{} {}", False),
    ("NaN is not JSON", NO_KEY, '{"a":NaN}', False),
    ("JSON body, plain pattern", STOP, '{"stop":"stop"}', False),
    ("JSON body that is an array, plain pattern", STOP, '["stop"]', False),
    ("JSON body, plain pattern that everything but one passes", NOT_STOP, "{}", False),
    ("JSON body, plain pattern that wants no body", {"body": [{"exists": False}]}, "{}", False),
    ("plain body, plain pattern", STOP, "stop", True),
    ("plain body, plain pattern", STOP, "halted", True),
    ("plain body, plain pattern", STOP, "go", False),
    ("plain body, plain pattern", NOT_STOP, "go", True),
    ("plain body, plain pattern", NOT_STOP, "stop", False),
    ("space belongs to a plain body", STOP, "stop ", False),
    ("empty body, plain pattern", {"body": [""]}, "", True),
    ("broken JSON, plain pattern", {"body": [{"prefix": "{"}]}, "{broken", True),
    ("a JSON scalar is plain, plain pattern", {"body": ["12"]}, "12", True),
    ("a JSON scalar is text and no number", {"body": [12]}, "12", False),
    ("a JSON string is plain with its quotes", {"body": ["stop"]}, '"stop"', False),
    ("both at once never match", {"body": ["stop"], "body.a": [{"exists": False}]}, "stop", False),
    ("a number of any size", {"body": {"a": ["x"]}}, '{"n":1e999,"a":"x"}', True),
    ("a number of any length", {"body": {"a": ["x"]}}, '{"n":' + "1" * 5000 + ',"a":"x"}', True),
    ("half of a surrogate pair", {"body": {"a": ["x"]}}, '{"n":"\\ud800","a":"x"}', True),
    ("nested deeper than can be read", NO_KEY, "[" * 200_000 + "]" * 200_000, False),
]


@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "text"])
@pytest.mark.parametrize(
    ("pattern", "body", "expected"),
    [row[1:] for row in FORMATS],
    ids=[f"{i}-{row[0]}" for i, row in enumerate(FORMATS)],
)
def test_format_of_body_and_pattern_decide(
    pattern: dict[str, Any],
    body: str,
    expected: bool,  # noqa: FBT001
    as_bytes: bool,  # noqa: FBT001
) -> None:
    assert sqs(pattern).matches(Looked(body.encode() if as_bytes else body)) is expected


def test_bytes_that_are_no_text_are_plain() -> None:
    assert not sqs(NO_KEY).matches(Looked(b'{"a":"\xff"}'))
    assert not sqs(NO_KEY).matches(Looked(b"\xff\xfe{\x00}\x00"))
    assert sqs({"body": ["\ufffd"]}).matches(Looked(b"\xff"))


@pytest.mark.parametrize("body", ["{}", "plain", ""])
def test_without_the_data_key_only_the_other_fields_count(body: str) -> None:
    orders = {"kind": {"stringValue": "order"}}
    assert sqs(ORDERS).matches(Looked(body, messageAttributes=orders))
    assert not sqs(ORDERS).matches(Looked(body, messageAttributes={}))


def test_data_and_other_fields_must_both_match() -> None:
    both = sqs({**PAID, "eventSource": ["aws:sqs"]})
    assert both.matches(Looked('{"status":"paid"}', eventSource="aws:sqs"))
    assert not both.matches(Looked('{"status":"paid"}', eventSource="aws:sns"))
    assert not both.matches(Looked('{"status":"open"}', eventSource="aws:sqs"))


def test_an_attribute_may_have_dots_in_its_name() -> None:
    pattern = {"messageAttributes": {"order.kind": {"stringValue": ["x"]}}}
    assert sqs(pattern).matches(Looked("", messageAttributes={"order.kind": {"stringValue": "x"}}))


def test_or_may_stand_between_data_and_other_fields() -> None:
    either = sqs({"$or": [PAID, STOP, {"kind": ["order"]}]})
    assert either.matches(Looked('{"status":"paid"}'))
    assert either.matches(Looked("stop"))
    assert either.matches(Looked("go", kind="order"))
    assert not either.matches(Looked("go"))


def test_dots_lead_into_the_data() -> None:
    assert sqs({"body.status": ["paid"]}).matches(Looked('{"status":"paid"}'))
    assert sqs({"body": {"order": {"status": ["paid"]}}}).matches(Looked('{"order.status":"paid"}'))


# -- criteria ---------------------------------------------------------------------------------------------------------


def test_one_filter_of_several_is_enough() -> None:
    several = sqs(PAID, STOP, ORDERS)
    assert several.matches(Looked('{"status":"paid"}'))
    assert several.matches(Looked("stop"))
    assert not several.matches(Looked("go"))


def test_no_filters_let_everything_through_unread() -> None:
    record = Looked("anything")
    assert sqs().matches(record)
    assert record.reads == []


def test_ten_filters_are_allowed_and_eleven_are_not() -> None:
    sqs(*[PAID] * MAX_FILTERS)
    with pytest.raises(InvalidPattern) as caught:
        sqs(*[PAID] * (MAX_FILTERS + 1))
    assert str(caught.value) == "filter pattern at Filters: at most 10 filters are allowed: 11"


def test_an_error_names_the_filter() -> None:
    with pytest.raises(InvalidPattern) as caught:
        sqs(PAID, '{"body":{"a":[{"wildcard":"*"}]}}')
    assert caught.value.place == "Filters[1].Pattern: body.a[0]"
    assert caught.value.rule == "Unrecognized match type wildcard"
    with pytest.raises(InvalidPattern, match=r"at Filters\[0\].Pattern: at most 4096 characters are allowed: 4097"):
        sqs(" " * 4097)


def test_criteria_have_the_shape_of_the_api() -> None:
    text = b'{"Filters":[{"Pattern":"{\\"body\\":[\\"stop\\"]}"}]}'
    criteria = msgspec.json.decode(text, type=FilterCriteria)
    assert criteria == FilterCriteria.of({"body": ["stop"]})
    assert criteria.filters == (Filter(pattern='{"body":["stop"]}'),)
    assert msgspec.json.encode(criteria) == text
    assert msgspec.json.decode(b'{"Filters":[]}', type=FilterCriteria) == FilterCriteria()


# -- what is read -----------------------------------------------------------------------------------------------------


def test_filters_on_other_fields_read_no_data() -> None:
    record = Looked('{"status":"paid"}', kind="x")
    assert not sqs({"kind": ["a"]}, {"kind": ["b"]}).matches(record)
    assert record.reads == ["metadata"]


def test_filters_on_the_data_read_no_other_fields_and_the_data_once() -> None:
    record = Looked('{"status":"paid"}')
    assert not sqs(STOP, {"body": {"status": ["a"]}}, {"body": {"status": ["b"]}}, STOP).matches(record)
    assert record.reads == ["data"]


def test_data_is_not_read_when_other_fields_decide() -> None:
    record = Looked('{"status":"paid"}', kind="x")
    assert not sqs({**PAID, "kind": ["order"]}).matches(record)
    assert record.reads == ["metadata"]


# -- records of events ------------------------------------------------------------------------------------------------


def test_records_of_an_sqs_event_can_be_matched() -> None:
    record = {"messageId": "1", "body": '{"status":"paid"}', "eventSource": "aws:sqs"}
    assert sqs({**PAID, "eventSource": ["aws:sqs"]}).matches(SqsRecord(record))
    assert not sqs(STOP).matches(SqsRecord(record))


def kinesis_record(data: bytes) -> KinesisRecord:
    inner = {"partitionKey": "p", "data": base64.b64encode(data).decode()}
    return KinesisRecord({"kinesis": inner, "eventName": "aws:kinesis:record"})


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b'{"status":"paid"}', True), (b'{"status":"open"}', False), (b"paid", False), (b"\x00\xff", False)],
)
def test_data_of_kinesis_is_decoded_from_base64_and_must_be_json(data: bytes, expected: bool) -> None:  # noqa: FBT001
    assert kinesis({"data": {"status": ["paid"]}}).matches(kinesis_record(data)) is expected


def test_other_fields_of_kinesis_match_whatever_the_data_is() -> None:
    record = kinesis_record(b"\x00\xff")
    assert kinesis({"partitionKey": ["p"], "eventName": ["aws:kinesis:record"]}).matches(record)
    assert kinesis({"kinesis": {"partitionKey": ["p"]}}).matches(record)
    assert not kinesis({"partitionKey": ["q"]}).matches(record)


def test_a_plain_pattern_for_kinesis_is_refused_when_it_is_made() -> None:
    with pytest.raises(InvalidPattern) as caught:
        kinesis({"$or": [{"data": ["plain"]}, {"partitionKey": ["p"]}]})
    assert caught.value.place == "Filters[0].Pattern: data"


# -- properties -------------------------------------------------------------------------------------------------------

bodies = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
    .map(json.dumps)
    .map(str.encode),
)
some = [PAID, STOP, NOT_STOP, NO_KEY, ORDERS, {"$or": [PAID, NOT_STOP]}]


@given(body=bodies, chosen=st.lists(st.sampled_from(some), min_size=1, max_size=5))
@settings(deadline=None)
def test_criteria_match_exactly_when_one_of_their_filters_does(body: bytes | str, chosen: list[dict[str, Any]]) -> None:
    record = Looked(body)
    assert sqs(*chosen).matches(record) == any(sqs(one).matches(Looked(body)) for one in chosen)
    assert record.reads.count("data") <= 1


@given(body=bodies)
@settings(deadline=None)
def test_every_body_is_either_json_or_plain(body: bytes | str) -> None:
    as_json = sqs({"body": {"missing": [{"exists": False}]}}, {"body": {"missing": [{"exists": True}]}})
    as_text = sqs({"body": [{"exists": True}]})
    assert as_json.matches(Looked(body)) != as_text.matches(Looked(body))
