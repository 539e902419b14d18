"""Bounds of members as AWS's services check them before anything else, all broken ones told together.

A field states them in its annotation: ``Meta(extra={"pattern": …, "min": …, "max": …, "enum": (…)})``; ``min`` and
``max`` are a number's value, or how long a text, list or map may be. Fields of structs within are checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from broker.gateway.aws.service import ServiceError

_STATED: Final = ("pattern", "min", "max", "enum")
_SHOWN: Final = 300


class Bound(msgspec.Struct, frozen=True):
    """What one member must satisfy."""

    attribute: str
    shown: str
    """Its name as the service tells it: ``functionName``."""
    pattern: re.Pattern[str] | None = None
    pattern_text: str = ""
    least: float | None = None
    most: float | None = None
    enum: tuple[str, ...] = ()
    within: tuple[Bound, ...] = ()
    """Of the members of the struct that it is."""


Bounds = tuple[Bound, ...]


def bounds_of(struct: type[msgspec.Struct]) -> Bounds:
    """The bounds that a struct states."""
    described = inspect.type_info(struct)
    return _bounds(described.fields) if isinstance(described, inspect.StructType) else ()


def _bounds(fields: tuple[inspect.Field, ...]) -> Bounds:
    return tuple(bound for field in fields if (bound := _bound(field)) is not None)


def _bound(field: inspect.Field) -> Bound | None:
    kind, extra = _bare(field.type, {})
    within = _bounds(kind.fields) if isinstance(kind, inspect.StructType) else ()
    if not within and not any(name in extra for name in _STATED):
        return None
    pattern = extra.get("pattern")
    return Bound(
        field.name,
        told_name(field.encode_name),
        None if pattern is None else re.compile(pattern),
        pattern or "",
        extra.get("min"),
        extra.get("max"),
        tuple(extra.get("enum", ())),
        within,
    )


def _bare(kind: Any, extra: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    while True:
        if isinstance(kind, inspect.Metadata):
            extra, kind = {**(kind.extra or {}), **extra}, kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
        else:
            return kind, extra


def check(bounds: Bounds, given: msgspec.Struct) -> None:
    """Raises ServiceError ``ValidationException`` that tells every bound which the struct breaks."""
    for bound in bounds:
        value = getattr(given, bound.attribute)
        if value is not None and (bound.within or type(value) is not str or not _holds(bound, value)):
            broken = list(_broken(bounds, given, ""))
            if broken:
                raise violations(broken)
            return


def _holds(bound: Bound, text: str) -> bool:
    """Whether a text keeps all rules: nearly every one does, and need not be told which."""
    return (
        (bound.pattern is None or bound.pattern.fullmatch(text) is not None)
        and (not bound.enum or text in bound.enum)
        and (bound.most is None or len(text) <= bound.most)
        and (bound.least is None or len(text) >= bound.least)
    )


def told_name(name: str) -> str:
    """How the service tells a member's name: ``functionName`` of ``FunctionName`` and of ``function_name``."""
    first, *others = name.split("_")
    return first[:1].lower() + first[1:] + "".join(map(str.capitalize, others))


def violations(broken: list[str]) -> ServiceError:
    """The error for so many violations, each as :func:`violation` says it."""
    noun = "error" if len(broken) == 1 else "errors"
    return ServiceError("ValidationException", f"{len(broken)} validation {noun} detected: {'; '.join(broken)}")


def violation(value: object, member: str, rule: str) -> str:
    """One violation in the service's words."""
    said = "null" if value is None else f"'{str(value)[:_SHOWN]}'"
    return f"Value {said} at '{member}' failed to satisfy constraint: Member must {rule}"


def _broken(bounds: Bounds, given: Any, where: str) -> Iterator[str]:
    for bound in bounds:
        value = getattr(given, bound.attribute)
        if value is None or value is msgspec.UNSET:
            continue
        shown = f"{where}{bound.shown}"
        if bound.within:
            yield from _broken(bound.within, value, f"{shown}.")
        for rule in _rules_broken(bound, value):
            yield violation(value, shown, rule)


def _rules_broken(bound: Bound, value: Any) -> Iterator[str]:
    number = isinstance(value, int | float)
    noun, size = ("value", value) if number else ("length", len(value) if hasattr(value, "__len__") else 0)
    if bound.most is not None and size > bound.most:
        yield f"have {noun} less than or equal to {bound.most:.0f}"
    if bound.least is not None and size < bound.least:
        yield f"have {noun} greater than or equal to {bound.least:.0f}"
    if bound.pattern is not None and not bound.pattern.fullmatch(value):
        yield f"satisfy regular expression pattern: {bound.pattern_text}"
    if bound.enum and value not in bound.enum:
        yield f"satisfy enum value set: [{', '.join(bound.enum)}]"
