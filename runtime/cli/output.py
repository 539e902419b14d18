"""What a command prints: results to stdout, remarks to stderr; with --json nothing but JSON on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker.errors import FunctionError

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WIDE_ENOUGH: Final = 1_000


class Output:
    """The two ways to print, chosen once by ``--json``."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json: Final = as_json

    def emit(self, value: object) -> None:
        """A value as one line of JSON; for ``--json``."""
        sys.stdout.buffer.write(encode(value) + b"\n")
        sys.stdout.buffer.flush()

    def answer(self, value: object, text: str) -> None:
        """The result of a command: the value with ``--json``, else the text."""
        if self.as_json:
            self.emit(value)
        else:
            print(printable(text), flush=True)  # noqa: T201 - the command's output

    def note(self, text: str) -> None:
        """A remark for a person, on stderr; none with ``--json``."""
        if not self.as_json:
            print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 - the command's output

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: Sequence[str]) -> None:
        """A table for a person; the columns named in ``left`` hold text, the others numbers."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        terminal = sys.stdout.isatty()
        console = Console(markup=False, highlight=False, emoji=False, width=None if terminal else _WIDE_ENOUGH)
        table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=terminal, header_style="bold")
        for column in columns:
            table.add_column(column, justify="left" if column in left else "right", overflow="fold")
        for row in rows:
            table.add_row(*("-" if cell is None else printable(str(cell)) for cell in row))
        with console.capture() as captured:
            console.print(table)
        # Elsewhere than on a terminal, no line ends in blanks up to the console's width.
        lines = captured.get().splitlines() if terminal else [line.rstrip() for line in captured.get().splitlines()]
        print("\n".join(lines), flush=True)  # noqa: T201 - the command's output


def encode(value: object) -> bytes:
    """JSON in one line; what JSON has no form for (dates, paths) as text."""
    return _ENCODER.encode(value)


_ENCODER: Final[msgspec.json.Encoder] = msgspec.json.Encoder(enc_hook=str, decimal_format="number")


def printable(text: str) -> str:
    """The text without what could steer a terminal: control characters are spelled out in hex."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def duration(seconds: float | None) -> str | None:
    """A time span as a person says it: ``12 s``, ``3 min``, ``2 h``, ``5 d``; None stays None."""
    if seconds is None:
        return None
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def counted(number: int, noun: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def error_object(error: FunctionError) -> dict[str, Any]:
    """Lambda's error object, as the handler's failure has it."""
    return {
        "errorMessage": error.message,
        "errorType": error.error_type,
        "requestId": error.request_id,
        "stackTrace": error.stack,
    }


def builtin(record: msgspec.Struct) -> dict[str, Any]:
    """A settings struct with all its fields, those at their defaults too."""
    return {name: getattr(record, name) for name in record.__struct_fields__}
