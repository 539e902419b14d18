"""REST-JSON: where the members of an operation's input come from in a request, and where those of its output go.

A field says so in its annotation; what says nothing is a member of the JSON body::

    function_name: Annotated[str, Meta(extra={"in": "path", "name": "FunctionName"})]
    max_items: Annotated[int | None, Meta(extra={"in": "query", "name": "MaxItems"})] = None
    payload: Annotated[bytes, Meta(extra={"in": "payload"})] = b""

Inputs know ``path``, ``query``, ``header`` and ``payload`` (the body as it is); outputs ``header``, ``payload``,
``status`` and ``request_id`` (the id of the answer, where it is not the gateway's own). Bounds that AWS checks by
itself stand beside them and are checked by :mod:`broker.gateway.aws.bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect

from broker.gateway.aws.bounds import Bounds, bounds_of, check, told_name, violation, violations
from broker.gateway.aws.json import read_input as read_json
from broker.gateway.aws.service import ErrorKind, ServiceError
from broker.gateway.sigv4 import printable

Place: TypeAlias = Literal["path", "query", "header", "payload", "status", "request_id", "body"]
CONTENT_TYPE: Final = b"application/json"
MAX_PARAMETERS: Final = 2_000
_TEXT: Final = (str, str | None)
_encoder: Final = msgspec.json.Encoder()


class Located(msgspec.Struct, frozen=True):
    """One member that is not in the JSON body."""

    attribute: str
    """Its name in Python."""
    place: Place
    name: str
    """Its name in the path, query or head; heads' in small letters."""
    header: bytes
    """The same as a head has it."""
    type: Any
    text: bool
    """Taken as it is."""
    many: bool
    """A list: the parameter may come several times."""


class Input(msgspec.Struct, frozen=True):
    """How the input of one operation is read."""

    struct: type[msgspec.Struct]
    path: tuple[Located, ...]
    query: tuple[Located, ...]
    header: tuple[Located, ...]
    payload: tuple[Located, ...]
    body: msgspec.json.Decoder[Any] | None
    """Decodes what is left for the JSON body; None where nothing is, so that the body is not looked at."""
    bounds: Bounds


class Output(msgspec.Struct, frozen=True):
    """How one type of output is written."""

    located: tuple[Located, ...]
    members: tuple[tuple[str, str], ...]
    """Name in Python and in JSON of what goes into the body."""


class Written(msgspec.Struct, frozen=True):
    """An output as parts of an answer; None where the answer's own holds."""

    body: bytes
    headers: list[tuple[bytes, bytes]]
    status: int | None
    request_id: str | None


@lru_cache(maxsize=1_024)
def input_of(struct: type[msgspec.Struct]) -> Input:
    """The reading of a type; made once for each."""
    located, rest = _parted(struct)
    path, query, header, payload = (
        tuple(each for each in located if each.place == place) for place in ("path", "query", "header", "payload")
    )
    body = None if payload or not rest else msgspec.json.Decoder(_body_struct(struct, rest))
    return Input(struct, path, query, header, payload, body, bounds_of(struct))


@lru_cache(maxsize=1_024)
def output_of(struct: type[msgspec.Struct]) -> Output:
    """The writing of a type; made once for each."""
    located, rest = _parted(struct)
    return Output(located, tuple((field.name, field.encode_name) for field in rest))


def _parted(struct: type[msgspec.Struct]) -> tuple[tuple[Located, ...], list[inspect.Field]]:
    described = inspect.type_info(struct)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{struct!r} is not a struct")
    hints = get_type_hints(struct)
    located: list[Located] = []
    rest: list[inspect.Field] = []
    for field in described.fields:
        extra = (field.type.extra or {}) if isinstance(field.type, inspect.Metadata) else {}
        place = extra.get("in", "body")
        if place == "body":
            rest.append(field)
            continue
        name = str(extra.get("name", field.encode_name))
        many = isinstance(_bare(field.type), inspect.ListType)
        name = name.lower() if place == "header" else name
        hint = hints[field.name]
        located.append(Located(field.name, place, name, name.encode(), hint, hint in _TEXT, many))
    return tuple(located), rest


def _bare(kind: Any) -> Any:
    while True:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(each for each in kind.types if not isinstance(each, inspect.NoneType))
        else:
            return kind


def _body_struct(struct: type[msgspec.Struct], fields: Sequence[inspect.Field]) -> type[msgspec.Struct]:
    """The same struct with nothing but the members of the body."""
    hints = get_type_hints(struct, include_extras=True)
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in fields:
        if field.required:
            members.append((field.name, hints[field.name]))
        elif field.default_factory is not msgspec.NODEFAULT:
            members.append((field.name, hints[field.name], msgspec.field(default_factory=field.default_factory)))
        else:
            members.append((field.name, hints[field.name], field.default))
    names = {field.name: field.encode_name for field in fields}
    return msgspec.defstruct(struct.__name__, members, rename=names, kw_only=True, frozen=True)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_input(
    form: Input,
    path: Mapping[str, str],
    query: bytes,
    headers: Mapping[bytes, bytes],
    body: bytes | bytearray,
) -> Any:
    """The operation's input, within its bounds. Raises ServiceError."""
    given: dict[str, Any] = {member.attribute: _converted(member, path[member.name]) for member in form.path}
    if query:
        parameters = _parameters(query)
        for member in form.query:
            if values := parameters.get(member.name):
                given[member.attribute] = _converted(member, values if member.many else values[-1])
    for member in form.header:
        if (raw := headers.get(member.header)) is not None:
            given[member.attribute] = _converted(member, raw.decode("latin-1"))
    for member in form.payload:
        given[member.attribute] = bytes(body)
    if form.body is not None:
        from_body = read_json(form.body, body, missing=_missing)
        given.update({name: getattr(from_body, name) for name in from_body.__struct_fields__})
    try:
        result = form.struct(**given)
    except TypeError as error:
        raise ServiceError("Serialization", f"A required parameter is missing: {error}.") from None
    check(form.bounds, result)
    return result


def _missing(name: str) -> ServiceError:
    return violations([violation(None, told_name(name), "not be null")])


def _parameters(query: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise ServiceError("InvalidQueryParameter", f"There are more than {MAX_PARAMETERS} parameters.") from None
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _converted(member: Located, value: Any) -> Any:
    if member.text:
        return value
    try:
        return msgspec.convert(value, member.type, strict=False)
    except msgspec.ValidationError as error:
        said = f"Value {printable(str(value))} for parameter {member.name} is invalid. Reason: {error}."
        raise ServiceError("Serialization", said) from None


# -- writing ----------------------------------------------------------------------------------------------------------


def written(result: msgspec.Struct | None) -> Written:
    """An operation's output. None is nothing at all."""
    if result is None:
        return Written(b"", [], None, None)
    form = output_of(type(result))
    if not form.located:
        return Written(_encoder.encode(result), [], None, None)
    headers: list[tuple[bytes, bytes]] = []
    status: int | None = None
    request_id: str | None = None
    body: bytes | None = None
    for member in form.located:
        value = getattr(result, member.attribute)
        if member.place == "payload":
            body = value or b""
        elif value is None:
            continue
        elif member.place == "status":
            status = value
        elif member.place == "request_id":
            request_id = value
        else:
            headers.append((member.header, str(value).encode("latin-1", "replace")))
    if body is None:
        body = _body(form, result)
    return Written(body, headers, status, request_id)


def _body(form: Output, result: msgspec.Struct) -> bytes:
    if not form.members:
        return b""
    values = {name: getattr(result, attribute) for attribute, name in form.members}
    absent = (None, msgspec.UNSET)
    return _encoder.encode({name: value for name, value in values.items() if value not in absent})


def error(kind: ErrorKind, error: ServiceError) -> bytes:
    """The body of an error: whose fault, the text under the name that its shape has for it, and what it adds."""
    fields: dict[str, object] = {"Type": kind.fault} if kind.fault else {}
    return _encoder.encode({**fields, kind.message_key: error.message, **error.members})
