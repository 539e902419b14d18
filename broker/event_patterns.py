"""Event patterns: which JSON events a filter lets through. Pure: a pattern is compiled once into closures.

An object of the pattern asks for all of its fields, an array for any of its values; fields that are not named do not
matter. Sources: Lambda Developer Guide, event filtering; recorded behaviour of EventBridge and the published engine.
Where they leave a choice, this module has made one:

* **Numbers are equal by value**: 300, 300.0 and 3e2 match each other, exactly, whatever their size. The guide compares
  their text, the engine their value. A number never equals a string, nor ``true`` the number 1.
* **An array of the event matches when one of its elements does**, also arrays in arrays. A pattern object wants all of
  its fields in the same element. An array without objects counts as an object without fields.
* **exists is about values**: an object is none and counts as absent, as does an array that holds no value; null is one.
* **Dots join names** on both sides: ``a.b`` and ``{"a": {"b": …}}`` name the same field in pattern and event. What
  names one field twice: in the pattern the last wins, in the event either may match.
* **$or** is one only as an array of two or more objects in which no key is an operator; else it is a field's name.
* **Ignoring case** means equal after Unicode's case folding.

How rules are matched: :mod:`broker.event_rules`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from broker.errors import InvalidInput
from broker.event_rules import MAX_DEPTH, Interval, Rule, Test, Values

MAX_PATTERN_CHARACTERS: Final = 4_096  # Lambda: FilterCriteria.Filters[].Pattern
SHOWN_CHARACTERS: Final = 80


class InvalidPattern(InvalidInput):
    """A pattern that breaks the rules; ``place`` is where in it, empty for the whole."""

    code = "InvalidPattern"

    def __init__(self, place: str, rule: str, value: object) -> None:
        shown = reprlib.repr(value)  # bounded in depth, too
        shown = shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "…"
        super().__init__(f"filter pattern{place and ' at '}{place}: {rule}: {shown}")
        self.place, self.rule, self.value = place, rule, value

    def inside(self, outer: str) -> InvalidPattern:
        """The same error, where the pattern itself is a part of something."""
        return InvalidPattern(f"{outer}: {self.place}" if self.place else outer, self.rule, self.value)


class Pattern:
    """A compiled pattern."""

    __slots__ = ("matches", "text")

    def __init__(self, text: str, matches: Test) -> None:
        self.text: Final = text
        self.matches: Final = matches
        """Whether an event, a dict of decoded JSON, matches."""


Operator: TypeAlias = Callable[[Values, Any, str], None]
"""Adds what an operator's argument allows to the values; the text is the place, for the error."""


def compile_pattern(text: str, *, operators: Mapping[str, Operator] | None = None) -> Pattern:
    """The pattern ready to match events. Raises InvalidPattern."""
    return Pattern(text, parse_pattern(text, operators=operators).test())


def parse_pattern(text: str, *, operators: Mapping[str, Operator] | None = None) -> Rule:
    """What the pattern asks for, checked; by default with the operators of event source mappings.

    Raises InvalidPattern.
    """
    if len(text) > MAX_PATTERN_CHARACTERS:
        raise InvalidPattern("", f"at most {MAX_PATTERN_CHARACTERS} characters are allowed", len(text))
    try:
        stated = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidPattern("", f"it must be JSON ({error})", text) from error
    except RecursionError as error:
        raise InvalidPattern("", _TOO_DEEP, text) from error
    rule = Rule()
    _Parser(MAPPING_OPERATORS if operators is None else operators).object(stated, rule, [])
    return rule


_TOO_DEEP: Final = f"it may be nested {MAX_DEPTH} deep"

_OPERATOR_NAMES: Final = frozenset({
    *("exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric", "cidr"),
    *("=", "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case", "date-after", "date-on-or-after"),
    *("date-before", "date-on-or-before", "in-date-range", "ip-address-in-range", "ip-address-not-in-range"),
})  # fmt: skip
"""Keys that keep a $or from being one: the engine's reserved names."""


class _Parser:
    """Reads decoded patterns into rules; a path is the list of names that lead to a place."""

    def __init__(self, operators: Mapping[str, Operator]) -> None:
        self._operators = operators

    def object(self, stated: Any, rule: Rule, path: list[str]) -> None:
        place = ".".join(path)
        if len(path) > MAX_DEPTH:
            raise InvalidPattern(path[0], _TOO_DEEP, len(path))
        if not isinstance(stated, dict):
            raise InvalidPattern(place, "it must be an object", stated)
        if not stated:
            raise InvalidPattern(place, "Empty objects are not allowed", stated)
        for key, value in stated.items():
            if key == "$or" and _is_or(value):
                rule.either.append([self._branch(one, [*path, f"$or[{i}]"]) for i, one in enumerate(value)])
            else:
                self._field(key, value, rule, path)

    def _branch(self, stated: Any, path: list[str]) -> Rule:
        rule = Rule()
        self.object(stated, rule, path)
        return rule

    def _field(self, key: str, stated: Any, rule: Rule, path: list[str]) -> None:
        *outer, name = key.split(".")
        inner_path = [*path, *outer, name]
        if len(inner_path) > MAX_DEPTH:
            raise InvalidPattern(inner_path[0], _TOO_DEEP, len(inner_path))
        for step in outer:
            rule = rule.inner.setdefault(step, Rule())
        if isinstance(stated, dict):
            self.object(stated, rule.inner.setdefault(name, Rule()), inner_path)
        elif isinstance(stated, list):
            rule.values[name] = self._values(stated, ".".join(inner_path))
        else:
            raise InvalidPattern(".".join(path), f'"{key}" must be an object or an array', stated)

    def _values(self, stated: list[Any], place: str) -> Values:
        if not stated:
            raise InvalidPattern(place, "Empty arrays are not allowed", stated)
        values = Values()
        for index, one in enumerate(stated):
            self._value(values, one, f"{place}[{index}]")
        return values

    def _value(self, values: Values, stated: Any, place: str) -> None:
        match stated:
            case bool() | None:
                values.constants.add(stated)
            case str():
                values.strings.add(stated)
            case int() | float():
                values.numbers.add(stated)
            case dict():
                self._operator(values, stated, place)
            case _:
                raise InvalidPattern(place, "Match value must be String, number, true, false, or null", stated)

    def _operator(self, values: Values, stated: dict[str, Any], place: str) -> None:
        if len(stated) != 1:
            raise InvalidPattern(place, "Only one key allowed in match expression", stated)
        ((name, argument),) = stated.items()
        operator = self._operators.get(name)
        if operator is None:
            raise InvalidPattern(place, f"Unrecognized match type {name}", stated)
        operator(values, argument, f"{place}.{name}")


def _is_or(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 2:  # noqa: PLR2004 (the rule says two)
        return False
    return all(isinstance(one, dict) and _OPERATOR_NAMES.isdisjoint(one) for one in value)


# -- operators --------------------------------------------------------------------------------------------------------


def _text(name: str, argument: Any, place: str) -> str:
    if not isinstance(argument, str):
        raise InvalidPattern(place, f"{name} match pattern must be a string", argument)
    return argument


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _prefix(values: Values, argument: Any, place: str) -> None:
    values.prefixes.add(_text("prefix", argument, place))


def _suffix(values: Values, argument: Any, place: str) -> None:
    values.suffixes.add(_text("suffix", argument, place))


def _equals_ignore_case(values: Values, argument: Any, place: str) -> None:
    values.folded.add(_text("equals-ignore-case", argument, place).casefold())


def _exists(values: Values, argument: Any, place: str) -> None:
    if not isinstance(argument, bool):
        raise InvalidPattern(place, "exists match pattern must be either true or false.", argument)
    values.any_value |= argument
    values.absent |= not argument


def _anything_but(values: Values, argument: Any, place: str) -> None:
    """Every value but these; a field that is absent has none."""
    refused = argument if isinstance(argument, list) else [argument]
    if not refused:
        raise InvalidPattern(place, "Empty arrays are not allowed", argument)
    if all(isinstance(one, str) for one in refused):
        strings = frozenset(refused)  # of two such operators, either is enough
        values.but_strings = strings if values.but_strings is None else values.but_strings & strings
    elif all(_is_number(one) for one in refused):
        numbers = frozenset(refused)
        values.but_numbers = numbers if values.but_numbers is None else values.but_numbers & numbers
    else:
        raise InvalidPattern(place, "the values must be all strings or all numbers", argument)


_LOWER: Final = (">", ">=")
_UPPER: Final = ("<", "<=")


def _numeric(values: Values, argument: Any, place: str) -> None:
    """One comparison, or a lower bound and then an upper one."""
    if not isinstance(argument, list) or not argument:
        raise InvalidPattern(place, "Value of numeric must be an array.", argument)
    operators, bounds = argument[::2], argument[1::2]
    allowed: tuple[str, ...] = ("=", *_UPPER, *_LOWER)
    for index, operator in enumerate(operators):
        if operator not in allowed:
            raise InvalidPattern(place, f"Bad numeric range operator: {operator}", argument)
        if index >= len(bounds) or not _is_number(bounds[index]):
            raise InvalidPattern(place, f"Value of {operator} must be numeric", argument)
        allowed = _UPPER if operator in _LOWER else ()
    if operators == ["="]:
        values.numbers.add(bounds[0])
    else:
        values.intervals.append(_interval(dict(zip(operators, bounds, strict=True)), argument, place))


def _interval(bounds: dict[str, float], argument: Any, place: str) -> Interval:
    low = bounds.get(">", bounds.get(">=", -math.inf))
    high = bounds.get("<", bounds.get("<=", math.inf))
    if low >= high:
        raise InvalidPattern(place, "Bottom must be less than top", argument)
    return Interval(low, ">" in bounds, high, "<" not in bounds)


MAPPING_OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "prefix": _prefix,
        "suffix": _suffix,
        "equals-ignore-case": _equals_ignore_case,
        "exists": _exists,
        "anything-but": _anything_but,
        "numeric": _numeric,
    }
)
"""The operators of event source mappings. EventBridge knows more; a table of its own adds them."""
