"""How structs look in the query protocol, read once from their types: names of members, lists and maps.

The JSON form needs none of this: msgspec decodes and encodes it. In the query form, and in the XML that answers it, a
list or map has a name of its own, which its field states::

    entries: Annotated[list[Entry], Meta(extra={"query": "SendMessageBatchRequestEntry"})]
    attributes: Annotated[dict[str, str], Meta(extra={"query": "Attribute", "key": "Name", "value": "Value"})]
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import inspect

Shape: TypeAlias = Literal["scalar", "struct", "list", "map"]
_NOTHING: Final[Mapping[str, str]] = {}


class Form(msgspec.Struct, frozen=True):
    """The form of one type."""

    shape: Shape
    members: tuple[Member, ...] = ()
    """Of a struct."""
    item: Form | None = None
    """Of a list, or of a map's values."""
    key_name: str = "Name"
    value_name: str = "Value"


class Member(msgspec.Struct, frozen=True):
    """One member of a struct."""

    attribute: str
    """Its name in Python."""
    json_name: str
    query_name: str
    form: Form
    required: bool


@lru_cache(maxsize=1_024)
def form_of(struct: type[msgspec.Struct]) -> Form:
    """The form of a struct; made once for each."""
    described = inspect.type_info(struct)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{struct!r} is not a struct")
    return _form(described, _NOTHING)


def _form(kind: Any, extra: Mapping[str, str]) -> Form:
    kind, extra = _bare(kind, extra)
    match kind:
        case inspect.StructType(fields=fields):
            return Form("struct", tuple(_member(field) for field in fields))
        case inspect.ListType(item_type=item):
            return Form("list", item=_form(item, _NOTHING))
        case inspect.DictType(value_type=value):
            names = (extra.get("key", "Name"), extra.get("value", "Value"))
            return Form("map", item=_form(value, _NOTHING), key_name=names[0], value_name=names[1])
        case _:
            return Form("scalar")


def _member(field: inspect.Field) -> Member:
    _, extra = _bare(field.type, _NOTHING)
    form = _form(field.type, _NOTHING)
    return Member(field.name, field.encode_name, extra.get("query", field.encode_name), form, field.required)


def _bare(kind: Any, extra: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
    """The type itself, without None, UNSET and what is noted beside it; and those notes."""
    while True:
        if isinstance(kind, inspect.Metadata):
            extra, kind = {**(kind.extra or {}), **extra}, kind.type
        elif isinstance(kind, inspect.UnionType):
            others = [
                each
                for each in kind.types
                if not isinstance(each, inspect.NoneType) and getattr(each, "cls", None) is not msgspec.UnsetType
            ]
            if len(others) != 1:
                return kind, extra
            kind = others[0]
        else:
            return kind, extra
