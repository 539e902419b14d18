"""Answers of the query protocol: XML, written from structs."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from broker.gateway.aws.service import ErrorKind
from broker.gateway.aws.wire import Form, form_of

CONTENT_TYPE: Final = b"text/xml"
_DECLARATION: Final = '<?xml version="1.0"?>'
# XML 1.0 has no form for these, not even an escaped one.
_FORBIDDEN: Final = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_SPECIAL: Final = re.compile(f"[&<>\"'\r{_FORBIDDEN}]")
_RUN: Final = re.compile(f"[{_FORBIDDEN}]+")
_ESCAPES: Final = {
    "&": "&amp;",  # first, so that it does not escape the others
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&apos;",
    "\r": "&#xD;",  # a parser would make a line feed of a bare one
}
_REPLACEMENT: Final = "\ufffd"


def escaped(text: str) -> str:
    """The text as it can stand in a document; what XML forbids becomes U+FFFD."""
    if _SPECIAL.search(text) is None:
        return text
    for character, form in _ESCAPES.items():  # far quicker than one character at a time
        text = text.replace(character, form)
    return _RUN.sub(lambda found: _REPLACEMENT * len(found.group()), text)


def success(operation: str, result: msgspec.Struct | None, *, namespace: str, request_id: str) -> bytes:
    """The answer of an operation; one without a result has no Result element."""
    body = "" if result is None else _result(operation, result)
    return (
        f'{_DECLARATION}<{operation}Response xmlns="{namespace}">{body}<ResponseMetadata><RequestId>{request_id}'
        f"</RequestId></ResponseMetadata></{operation}Response>"
    ).encode()


def error(kind: ErrorKind, message: str, *, namespace: str, request_id: str) -> bytes:
    """The answer to a request that failed."""
    return (
        f'{_DECLARATION}<ErrorResponse xmlns="{namespace}"><Error><Type>{"Sender" if kind.sender else "Receiver"}'
        f"</Type><Code>{escaped(kind.code)}</Code><Message>{escaped(message)}</Message><Detail/></Error>"
        f"<RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()


def _result(operation: str, result: msgspec.Struct) -> str:
    return f"<{operation}Result>{''.join(_members(result, form_of(type(result))))}</{operation}Result>"


def _members(struct: msgspec.Struct, form: Form) -> Iterator[str]:
    for member in form.members:
        value = getattr(struct, member.attribute)
        if value is not None and value is not msgspec.UNSET:
            yield from _named(member.query_name, value, member.form)


def _named(name: str, value: Any, form: Form) -> Iterator[str]:
    """A list or map is flattened: its name once for each item."""
    if form.item is not None and form.shape == "list":
        for item in value:
            yield f"<{name}>{_content(item, form.item)}</{name}>"
    elif form.item is not None and form.shape == "map":
        for key, item in value.items():
            yield f"<{name}><{form.key_name}>{escaped(str(key))}</{form.key_name}>"
            yield f"<{form.value_name}>{_content(item, form.item)}</{form.value_name}></{name}>"
    else:
        yield f"<{name}>{_content(value, form)}</{name}>"


def _content(value: Any, form: Form) -> str:
    if form.shape == "struct":
        return "".join(_members(value, form))
    match value:
        case bool():
            return "true" if value else "false"
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case _:
            return escaped(str(value))
