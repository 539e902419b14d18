"""What a pattern asks of an event, and the closures that look whether it is so. Pure; nothing here is checked again.

Matching costs at most the number of fields of the rule times the size of the event (how many values a field may have
counts for little), and recurses as deep as the rule, never into the event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias, cast

MAX_DEPTH: Final = 100  # ours: how deep a rule may look into an event; bounds the frames of a match
TRIED_IN_TURN: Final = 8  # prefixes or suffixes; above, looking one up is quicker

Test: TypeAlias = Callable[[Any], bool]
"""Whether a value passes."""


class Interval(NamedTuple):
    """Numbers from a lower to an upper bound; infinite where there is none."""

    low: float
    low_open: bool
    high: float
    high_closed: bool


class Values:
    """The values that one field may have: the alternatives of one array of a pattern, sorted by kind."""

    def __init__(self) -> None:
        self.strings: set[str] = set()
        self.numbers: set[float] = set()
        self.constants: set[bool | None] = set()
        self.prefixes: set[str] = set()
        self.suffixes: set[str] = set()
        self.folded: set[str] = set()
        """Strings after case folding."""
        self.intervals: list[Interval] = []
        self.but_strings: frozenset[str] | None = None
        """When not None: every value but these strings."""
        self.but_numbers: frozenset[float] | None = None
        """When not None: every value but these numbers."""
        self.of_strings: list[Test] = []
        """What further operators ask of strings."""
        self.any_value = False
        """Whether a value of any kind will do (exists: true)."""
        self.absent = False
        """Whether the field may be absent (exists: false)."""

    def test(self) -> Test:
        """Whether a value that is neither an array nor an object is one of these."""
        if self.any_value or (self.but_strings is not None and self.but_numbers is not None):
            return _always
        of_string, of_number, of_constant = self._string_test(), self._number_test(), self._constant_test()

        def matches(value: Any) -> bool:
            kind = type(value)
            if kind is str:
                return of_string(value)
            return of_number(value) if kind is int or kind is float else of_constant(value)

        return matches

    @property
    def only_strings(self) -> bool:
        """Whether nothing but equality with strings is asked for."""
        others = (self.numbers, self.constants, self.prefixes, self.suffixes, self.folded, self.intervals)
        if any(others) or self.of_strings or self.absent or self.any_value:
            return False
        return self.but_strings is None and self.but_numbers is None

    def _string_test(self) -> Test:
        if self.but_numbers is not None:
            return _always
        tests: list[Test] = [self.strings.__contains__] if self.strings else []
        if self.prefixes:
            tests.append(_prefix_test(self.prefixes))
        if self.suffixes:
            tests.append(_suffix_test(self.suffixes))
        if self.folded:
            folded = self.folded
            tests.append(lambda value: value.casefold() in folded)
        if self.but_strings is not None:
            refused = self.but_strings
            tests.append(lambda value: value not in refused)
        return any_of(tests + self.of_strings)

    def _number_test(self) -> Test:
        if self.but_strings is not None:
            return _always
        tests: list[Test] = [self.numbers.__contains__] if self.numbers else []
        if self.intervals:
            tests.append(_interval_test(self.intervals))
        if self.but_numbers is not None:
            refused = self.but_numbers
            tests.append(lambda value: value not in refused)
        return any_of(tests)

    def _constant_test(self) -> Test:
        every = self.but_strings is not None or self.but_numbers is not None
        return _always if every else self.constants.__contains__


class Rule:
    """What an object must be like: all fields, and one of each group of alternatives."""

    def __init__(self) -> None:
        self.values: dict[str, Values] = {}
        """By name of the field."""
        self.inner: dict[str, Rule] = {}
        """By name of the field: what the object in it must be like."""
        self.either: list[list[Rule]] = []

    def test(self) -> Test:
        """Whether a dict of decoded JSON is like this."""
        tests = [_value_test(name, values) for name, values in self.values.items()]
        tests += [_inner_test(name, rule) for name, rule in self.inner.items()]
        tests += [any_of([rule.test() for rule in rules]) for rules in self.either]
        matches, joined = all_of(tests), self.joined_names
        if not joined:
            return matches

        def matches_unfolded(event: dict[str, Any]) -> bool:
            return matches(event if event.keys().isdisjoint(joined) else _unfolded(event, joined))

        return matches_unfolded

    def test_of_any(self) -> Test:
        """Whether a value of any kind is, or has among its elements, an object like this."""
        return _test_of_any(self.test())

    @cached_property
    def joined_names(self) -> frozenset[str]:
        """The names with dots in which a field further inside may hide."""
        inside = ((name, {*rule.values, *rule.inner, *rule.joined_names}) for name, rule in self.inner.items())
        return frozenset(f"{name}.{further}" for name, names in inside for further in names)


# -- matching ---------------------------------------------------------------------------------------------------------

_ABSENT: Final = object()


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


def all_of(tests: list[Test]) -> Test:
    """Whether all pass; one and two, which are most patterns, need no loop."""
    match tests:
        case [one]:
            return one
        case [one, two]:
            return lambda value: one(value) and two(value)
    every = tuple(tests)

    def pass_all(value: Any) -> bool:
        for test in every:  # noqa: SIM110 (a generator costs as much as a test)
            if not test(value):
                return False
        return True

    return pass_all


def any_of(tests: list[Test]) -> Test:
    """Whether one passes; none of no tests."""
    match tests:
        case []:
            return _never
        case [one]:
            return one
    some = tuple(tests)

    def pass_any(value: Any) -> bool:
        for test in some:  # noqa: SIM110 (as above)
            if test(value):
                return True
        return False

    return pass_any


def _prefix_test(prefixes: set[str]) -> Test:
    """A few are tried in turn; of many, the only one that can fit is looked up: that which sorts last before the value,
    once those are left out that begin with another."""
    if len(prefixes) <= TRIED_IN_TURN:
        few = tuple(prefixes)
        return lambda value: value.startswith(few)
    many: list[str] = []
    for prefix in sorted(prefixes):
        if not many or not prefix.startswith(many[-1]):
            many.append(prefix)

    def starts(value: str) -> bool:
        place = bisect_right(many, value)
        return place > 0 and value.startswith(many[place - 1])

    return starts


def _suffix_test(suffixes: set[str]) -> Test:
    if len(suffixes) <= TRIED_IN_TURN:
        few = tuple(suffixes)
        return lambda value: value.endswith(few)
    starts = _prefix_test({suffix[::-1] for suffix in suffixes})
    longest = max(map(len, suffixes))
    return lambda value: starts(value[-longest:][::-1])


def _interval_test(intervals: list[Interval]) -> Test:
    merged: list[Interval] = []
    for one in sorted(intervals):
        last = merged[-1] if merged else None
        if last and (one.low < last.high or (one.low == last.high and (last.high_closed or not one.low_open))):
            high, high_closed = max((last.high, last.high_closed), (one.high, one.high_closed))
            merged[-1] = Interval(last.low, last.low_open, high, high_closed)
        else:
            merged.append(one)
    lows = [one.low for one in merged]

    def within(value: float) -> bool:
        place = bisect_right(lows, value)
        if not place:
            return False
        low, low_open, high, high_closed = merged[place - 1]
        above = value > low or not low_open
        return above and (value < high or (value == high and high_closed))

    return within


def _value_test(name: str, values: Values) -> Test:
    matches, absent = values.test(), values.absent

    def matches_field(event: dict[str, Any]) -> bool:
        value = event.get(name, _ABSENT)
        kind = type(value)
        if kind is list:
            return _matches_array(value, matches, absent=absent)
        if value is _ABSENT or kind is dict:
            return absent
        return matches(value)

    if not values.only_strings:
        return matches_field
    strings = frozenset(values.strings)

    def equals_string(event: dict[str, Any]) -> bool:
        value = event.get(name)
        if type(value) is str:
            return value in strings
        return type(value) is list and _matches_array(value, matches, absent=False)

    return equals_string


def _matches_array(array: list[Any], matches: Test, *, absent: bool) -> bool:
    """Whether an element matches, also of arrays in it, however deep, which is why there is no recursion."""
    empty, pending = True, [array]
    while pending:
        for value in pending.pop():
            if type(value) is list:
                pending.append(value)
            elif type(value) is not dict:
                empty = False
                if matches(value):
                    return True
    return absent and empty


def _test_of_any(matches: Test) -> Test:
    without_fields = matches({})

    def matches_any(value: Any) -> bool:
        if type(value) is dict:
            return matches(value)
        if type(value) is not list:
            return without_fields
        objects, pending = False, [value]
        while pending:
            for element in pending.pop():
                if type(element) is list:
                    pending.append(element)
                elif type(element) is dict:
                    objects = True
                    if matches(element):
                        return True
        return without_fields and not objects

    return matches_any


def _inner_test(name: str, rule: Rule) -> Test:
    matches = rule.test()
    matches_any = _test_of_any(matches)

    def matches_inner(event: dict[str, Any]) -> bool:
        value = event.get(name)
        return matches(value) if type(value) is dict else matches_any(value)

    return matches_inner


def _unfolded(event: dict[str, Any], joined: frozenset[str]) -> dict[str, Any]:
    """The event with the fields in such names where their dots say that they are; the event itself is left alone."""
    unfolded: Any = {name: value for name, value in event.items() if name not in joined}
    for dotted in joined & event.keys():
        nested = event[dotted]
        for name in reversed(dotted.split(".")):
            nested = {name: nested}
        unfolded = _merged(unfolded, nested, MAX_DEPTH)
    return cast("dict[str, Any]", unfolded)


def _merged(one: Any, other: Any, levels: int) -> Any:
    """Objects field by field, as deep as a rule can look; otherwise an array, of which either may match."""
    if not (levels and type(one) is dict and type(other) is dict):
        return [one, other]
    merged = dict(one)
    for name, value in other.items():
        merged[name] = _merged(merged[name], value, levels - 1) if name in merged else value
    return merged
