"""Which records of an event source a mapping wants: up to ten patterns of which one must match. Pure.

What a record carries stands under its data key, ``body`` or ``data``; there, and only there, text may be JSON:

=====================  ====================  =========================
pattern for the data   data is JSON          data is plain text
=====================  ====================  =========================
an object              by the pattern        no match
an array               no match              by the text as a whole
none                   other fields alone    other fields alone
=====================  ====================  =========================

JSON means an object or an array: a body ``12`` is text, so that ``{"body": ["12"]}`` finds it. For Kinesis an array is
refused when the mapping is made. Sources: Lambda Developer Guide, event filtering (of SQS, of Kinesis).
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, Protocol

import msgspec

from broker.event_patterns import InvalidPattern, parse_pattern
from broker.event_rules import Rule, Test, all_of, any_of

MAX_FILTERS: Final = 10  # Lambda: 5, and 10 on request
MAX_DIGITS: Final = 4_300  # Python reads no longer integers


class Filter(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """One filter as the API has it; the pattern is a JSON text."""

    pattern: str


class FilterCriteria(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """The filters of a mapping as the API has them. None at all let everything through."""

    filters: tuple[Filter, ...] = ()

    @classmethod
    def of(cls, *patterns: str | dict[str, Any]) -> FilterCriteria:
        """The criteria of these patterns, each a JSON text or what it would be decoded."""
        texts = (one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in patterns)
        return cls(filters=tuple(Filter(pattern=text) for text in texts))


class DataKey(msgspec.Struct, frozen=True, kw_only=True):
    """Where the records of a kind of source keep what they carry."""

    name: str
    plain_patterns: bool
    """Whether a pattern may be about plain text."""


SQS_BODY: Final = DataKey(name="body", plain_patterns=True)
KINESIS_DATA: Final = DataKey(name="data", plain_patterns=False)


class RecordView(Protocol):
    """A record as filters look at it. Neither is asked for unless a pattern needs it, and each at most once."""

    @property
    def data(self) -> bytes | str:
        """What it carries; UTF-8 where it is text."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Its other fields, by the names that handlers see; what stands under the data key is not looked at."""


class SqsRecord:
    """The view of one element of ``Records`` of an SQS event."""

    __slots__ = ("data", "metadata")

    def __init__(self, record: dict[str, Any]) -> None:
        self.data: Final[str] = record["body"]
        self.metadata: Final = record


class KinesisRecord:
    """The view of one element of ``Records`` of a Kinesis event; fields beside ``data`` are the record's own, too."""

    __slots__ = ("_record",)

    def __init__(self, record: dict[str, Any]) -> None:
        self._record: Final = record

    @property
    def data(self) -> bytes:
        """The bytes that the record carries."""
        return base64.b64decode(self._record["kinesis"]["data"])

    @property
    def metadata(self) -> dict[str, Any]:
        """Its other fields."""
        return {**self._record, **self._record["kinesis"]}


class RecordFilter:
    """Compiled criteria."""

    __slots__ = ("_test",)

    def __init__(self, criteria: FilterCriteria, data_key: DataKey) -> None:
        """Raises InvalidPattern, naming the filter."""
        if len(criteria.filters) > MAX_FILTERS:
            raise InvalidPattern("Filters", f"at most {MAX_FILTERS} filters are allowed", len(criteria.filters))
        tests = [_compile(index, one.pattern, data_key) for index, one in enumerate(criteria.filters)]
        self._test: Final = any_of(tests) if tests else None

    def matches(self, record: RecordView) -> bool:
        """Whether a handler is to see the record."""
        return self._test is None or self._test(_Opened(record))


# -- one record -------------------------------------------------------------------------------------------------------

_UNREAD: Final = object()
_PLAIN: Final = object()
_BYTE_STARTS: Final = frozenset({b"{", b"["})
_TEXT_STARTS: Final = frozenset({"{", "["})
_DECODER: Final = msgspec.json.Decoder()


class _Opened:
    """A record while it is matched: what was read is kept, so that it is read once for all filters."""

    __slots__ = ("_data", "_decoded", "_metadata", "_record", "_text")

    def __init__(self, record: RecordView) -> None:
        self._record = record
        self._data: Any = _UNREAD
        self._text: Any = _UNREAD
        self._decoded: Any = _UNREAD
        self._metadata: Any = _UNREAD

    @property
    def decoded(self) -> Any:
        """The object or array that the data is, or _PLAIN."""
        if self._decoded is _UNREAD:
            self._decoded = _decode(self._read())
        return self._decoded

    @property
    def text(self) -> Any:
        """The data as handlers see it; what is no UTF-8 is replaced."""
        if self._text is _UNREAD:
            data = self._read()
            self._text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        return self._text

    @property
    def metadata(self) -> Any:
        if self._metadata is _UNREAD:
            self._metadata = self._record.metadata
        return self._metadata

    def _read(self) -> Any:
        if self._data is _UNREAD:
            self._data = self._record.data
        return self._data


def _decode(data: bytes | str) -> Any:
    """The object or array that the data is, or _PLAIN, also for what is nested too deep for Python to read."""
    if data.lstrip()[:1] not in (_BYTE_STARTS if isinstance(data, bytes) else _TEXT_STARTS):
        return _PLAIN
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _decode_again(data)


def _decode_again(data: bytes | str) -> Any:
    """JSON that msgspec does not take: a number of any size, half of a surrogate pair."""
    try:
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError):
        return _PLAIN


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


# -- compiling --------------------------------------------------------------------------------------------------------


def _compile(index: int, pattern: str, data_key: DataKey) -> Test:
    try:
        return _record_test(parse_pattern(pattern), data_key)
    except InvalidPattern as error:
        raise error.inside(f"Filters[{index}].Pattern") from error


def _record_test(rule: Rule, data_key: DataKey) -> Test:
    """What needs no decoding comes first."""
    tests = []
    fields = _without(rule, data_key.name)
    if fields.values or fields.inner:
        tests.append(_metadata_test(fields))
    if data_key.name in rule.values:
        tests.append(_text_test(rule, data_key))
    if data_key.name in rule.inner:
        tests.append(_json_test(rule.inner[data_key.name]))
    tests += [any_of([_record_test(branch, data_key) for branch in branches]) for branches in rule.either]
    return all_of(tests)


def _without(rule: Rule, name: str) -> Rule:
    fields = Rule()
    fields.values = {field: values for field, values in rule.values.items() if field != name}
    fields.inner = {field: inner for field, inner in rule.inner.items() if field != name}
    return fields


def _metadata_test(fields: Rule) -> Test:
    matches = fields.test()
    return lambda opened: matches(opened.metadata)


def _text_test(rule: Rule, data_key: DataKey) -> Test:
    if not data_key.plain_patterns:
        raise InvalidPattern(data_key.name, "it must be an object", "an array")
    matches = rule.values[data_key.name].test()
    return lambda opened: opened.decoded is _PLAIN and matches(opened.text)


def _json_test(rule: Rule) -> Test:
    matches = rule.test_of_any()

    def matches_json(opened: _Opened) -> bool:
        decoded = opened.decoded
        return decoded is not _PLAIN and matches(decoded)

    return matches_json
