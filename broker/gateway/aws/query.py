"""Requests of the query protocol: a form becomes the operation's input, guided by the input's type.

Lists and maps are flattened and count from 1: ``AttributeName.1=All``, ``Attribute.1.Name=…&Attribute.1.Value=…``. What
the type does not know is left out, as AWS does. Whatever a client counts or nests, the work is bounded by the number of
its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from broker.gateway.aws.errors import missing_parameter
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.wire import Form, Member, form_of
from broker.gateway.sigv4 import printable

MAX_PARAMETERS: Final = 2_000
MAX_DEPTH: Final = 8
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")
_AT: Final = re.compile(r" - at `\$([^`]*)`$")

Parameters: TypeAlias = dict[str, str]
_Tree: TypeAlias = dict[str, Any]
_TEXT: Final = ""
"""The place of a parameter's own value in its node, beside what is below it."""


def read_form(*forms: bytes | bytearray) -> Parameters:
    """The parameters of the URL's query and of the body. Raises ServiceError."""
    parameters: Parameters = {}
    for form in forms:
        parts = bytes(form).split(b"&", MAX_PARAMETERS + 1) if form else ()
        if len(parts) + len(parameters) > MAX_PARAMETERS:
            raise ServiceError("InvalidQueryParameter", f"There are more than {MAX_PARAMETERS} parameters.")
        for part in parts:
            if part:
                _add(parameters, part)
    return parameters


def _add(parameters: Parameters, part: bytes) -> None:
    name_part, _, value_part = part.partition(b"=")
    try:
        name, value = _decoded(name_part), _decoded(value_part)
    except UnicodeDecodeError:
        raise ServiceError("MalformedQueryString", "The query string is not UTF-8.") from None
    if name in parameters:
        raise ServiceError("InvalidQueryParameter", f"The parameter {printable(name)} is there twice.")
    parameters[name] = value


def _decoded(part: bytes) -> str:
    if b"%" not in part and b"+" not in part:
        return part.decode()
    return unquote_to_bytes(part.replace(b"+", b" ")).decode()


def read_input(parameters: Parameters, kind: type[msgspec.Struct]) -> Any:
    """The operation's input. Raises ServiceError for what is missing, of the wrong type, or badly numbered."""
    form = form_of(kind)
    found = _struct(_tree(parameters.items(), {member.query_name for member in form.members}), form, "")
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, path = str(error), ""
        if place := _AT.search(reason):
            reason, path = reason[: place.start()], place[1].strip(".")
        said = f"Value for parameter {path} is invalid." if path else "One or more parameters are invalid."
        raise ServiceError("InvalidParameterValue", f"{said} Reason: {reason}.") from None


def _tree(parameters: Iterable[tuple[str, str]], wanted: set[str]) -> _Tree:
    tree: _Tree = {}
    for name, value in parameters:
        steps = name.split(".", MAX_DEPTH)
        if steps[0] not in wanted:
            continue
        if len(steps) > MAX_DEPTH:
            raise ServiceError("InvalidQueryParameter", f"The parameter {printable(name)} is nested too deeply.")
        node = tree
        for step in steps:
            node = node.setdefault(f".{step}", {})
        node[_TEXT] = value
    return tree


def _struct(tree: _Tree, form: Form, path: str) -> _Tree:
    found: _Tree = {}
    for member in form.members:
        node = tree.get(f".{member.query_name}")
        if node is not None:
            found[member.json_name] = _value(node, member.form, f"{path}{member.query_name}")
        elif member.required:
            _absent(found, member, path)
    return found


def _absent(found: _Tree, member: Member, path: str) -> None:
    """An empty list or map has no form at all: a required one that is not there is empty."""
    if member.form.shape == "list":
        found[member.json_name] = []
    elif member.form.shape == "map":
        found[member.json_name] = {}
    else:
        raise missing_parameter(f"{path}{member.query_name}")


def _value(node: _Tree, form: Form, path: str) -> Any:
    if form.shape == "struct":
        return _struct(node, form, f"{path}.")
    if form.item is not None:
        items = _numbered(node, path)
        if form.shape == "list":
            return [_value(item, form.item, where) for where, item in items]
        return dict(_pair(item, form, where) for where, item in items)
    if _TEXT not in node:
        raise ServiceError("InvalidQueryParameter", f"The parameter {printable(path)} is not a structure or list.")
    return node[_TEXT]


def _pair(node: _Tree, form: Form, path: str) -> tuple[str, Any]:
    if form.item is None:
        raise TypeError("a map has values")
    key, value = node.get(f".{form.key_name}"), node.get(f".{form.value_name}")
    if key is None or _TEXT not in key:
        raise missing_parameter(f"{path}.{form.key_name}")
    if value is None:
        raise missing_parameter(f"{path}.{form.value_name}")
    return key[_TEXT], _value(value, form.item, f"{path}.{form.value_name}")


def _numbered(node: _Tree, path: str) -> list[tuple[str, _Tree]]:
    """The items in order: 1, 2, 3 without a gap; or the one item that AWS's older examples write without a number."""
    numbers: dict[int, _Tree] = {}
    for step, below in node.items():
        if _NUMBER.fullmatch(step[1:]):
            numbers[int(step[1:])] = below
    if not numbers:
        return [(path, node)]
    if len(numbers) != len(node) or max(numbers) != len(numbers):
        raise ServiceError(
            "InvalidQueryParameter", f"The parameters {printable(path)}.N must count from 1, in steps of 1."
        )
    return [(f"{path}.{number}", numbers[number]) for number in sorted(numbers)]
