"""What a command prints: results to stdout, remarks to stderr; with --json nothing but JSON on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker.errors import FunctionError

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_GAP: Final = 2


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

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: Sequence[str], below: bool = False
    ) -> None:
        """A table for a person; the columns named in ``left`` hold text, the others numbers. One that stands ``below``
        another begins with an empty line.

        On a terminal that is too narrow cells are broken between words. Where that does not help, lines are longer than
        the terminal: a name in pieces can neither be read nor copied.
        """
        from rich.console import Console
        from rich.table import Table

        terminal = sys.stdout.isatty()
        cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
        widths = _widths([columns, *cells], room=Console().width if terminal else None)
        # Both, as a terminal that is called dumb has 80 columns otherwise.
        width, height = sum(widths) + _GAP * len(widths), len(cells)
        console = Console(markup=False, highlight=False, emoji=False, width=width, height=height)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold" if terminal else None)
        for column, width in zip(columns, widths, strict=True):
            table.add_column(column, justify="left" if column in left else "right", width=width)
        for row in cells:
            table.add_row(*row)
        with console.capture() as captured:
            console.print(table)
        lines = (line.rstrip() for line in captured.get().splitlines())
        print(*([""] if below else []), *lines, sep="\n", flush=True)  # noqa: T201 - the command's output


def _widths(lines: Sequence[Sequence[str]], *, room: int | None) -> list[int]:
    """How wide the columns are: as their longest cell where that fits into the room, else, from the right, as narrow as
    their longest word. Where that does not fit either: as if there were room.
    """
    wanted = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    if room is None:
        return wanted
    least = [max(len(word) for text in column for word in text.split() or [""]) for column in zip(*lines, strict=True)]
    spare = room - _GAP * (len(wanted) - 1) - sum(least)
    if spare < 0:
        return wanted
    widths = []
    for most, few in zip(wanted, least, strict=True):
        widths.append(min(most, few + spare))
        spare -= widths[-1] - few
    return widths


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
