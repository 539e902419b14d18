"""Payloads as they are given on a command line: text, ``@FILE``, or ``-`` for standard input."""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Iterator
from pathlib import Path

from broker.errors import InvalidInput, InvalidOption
from broker.message_attributes import AttributeValue
from broker.records import decode_json
from runtime.cli.options import STANDARD_INPUT


def read_payload(argument: str) -> bytes:
    """The bytes that an argument stands for. Raises InvalidOption for a file that cannot be read."""
    if argument == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    if argument.startswith("@"):
        try:
            return Path(argument[1:]).expanduser().read_bytes()
        except OSError as error:
            raise InvalidOption("payload", argument, f"the file cannot be read: {error.strerror}") from error
    return argument.encode(errors="surrogateescape")


def read_text(argument: str) -> str:
    """The text that an argument stands for, unchanged. Raises InvalidOption where it is not UTF-8."""
    return as_text(argument, read_payload(argument))


def as_text(what: str, data: bytes) -> str:
    """The bytes as text. Raises InvalidOption where they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidOption("payload", what, f"is not UTF-8 text: {error}") from error


def read_lines(argument: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(read_payload(argument).split(b"\n"), start=1):
        stripped = line.removesuffix(b"\r")
        if stripped.strip():
            yield number, stripped


def parse_attributes(pairs: tuple[str, ...]) -> dict[str, AttributeValue]:
    """Message attributes from ``NAME=TEXT``, ``NAME:=NUMBER`` and ``NAME:TYPE=VALUE``. Raises InvalidOption.

    A name has no colon, so that one before the ``=`` always begins a type, as ``Number.eur``; the value of a Binary is
    base64.
    """
    attributes: dict[str, AttributeValue] = {}
    for pair in pairs:
        named, equals, value = pair.partition("=")
        name, colon, data_type = named.partition(":")
        if not equals or not name:
            raise InvalidOption("attribute", pair, "must be NAME=TEXT, NAME:=NUMBER or NAME:TYPE=VALUE")
        if name in attributes:
            raise InvalidOption("attribute", pair, f"{name} is given twice")
        attributes[name] = _typed(pair, data_type, value) if colon else value
    return attributes


def _typed(pair: str, data_type: str, value: str) -> AttributeValue:
    if not data_type:
        return _number(pair, value)
    if data_type.partition(".")[0] != "Binary":
        return (data_type, value)
    try:
        return (data_type, base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidOption("attribute", pair, "the value of a Binary is base64") from None


def parse_tags(pairs: tuple[str, ...]) -> dict[str, str]:
    """Tags from ``KEY=VALUE``; the value may be empty. Raises InvalidOption."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidOption("tag", pair, "must be KEY=VALUE")
        if key in tags:
            raise InvalidOption("tag", pair, f"{key} is given twice")
        tags[key] = value
    return tags


def _number(pair: str, text: str) -> int | float:
    try:
        value = decode_json("number", text)
    except InvalidInput:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption("attribute", pair, "NAME:=NUMBER needs a number")
    return value
