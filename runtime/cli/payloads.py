"""Payloads as they are given on a command line: text, ``@FILE``, or ``-`` for standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from broker.errors import InvalidInput, InvalidOption
from broker.records import AttributeValue, decode_json
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
    """Message attributes from ``NAME=TEXT`` and ``NAME:=NUMBER``. Raises InvalidOption."""
    attributes: dict[str, AttributeValue] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.rstrip(":"):
            raise InvalidOption("attribute", pair, "must be NAME=TEXT or NAME:=NUMBER")
        attributes[name.removesuffix(":")] = _number(pair, value) if name.endswith(":") else value
    return attributes


def _number(pair: str, text: str) -> int | float:
    try:
        value = decode_json("number", text)
    except InvalidInput:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption("attribute", pair, "NAME:=NUMBER needs a number")
    return value
