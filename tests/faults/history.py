"""What handlers did: one append-only file a process, one line an event of a run.

A line is written with one system call, so a SIGKILL loses no line that was written; times are CLOCK_MONOTONIC, which
all processes of a machine share and Redis knows nothing of.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

Kind: TypeAlias = Literal["start", "effect", "end", "cut"]
"""``cut``: the run was cancelled and has stopped."""
_TAIL_BYTES: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that one run of a handler did."""

    kind: Kind
    at_ns: int
    pid: int
    event: str
    fence: int
    attempt: int


class Recorder:
    """Appends to the history of this process."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file: Final = os.open(folder / f"{os.getpid()}.history", flags, 0o600)

    def write(self, kind: Kind, event: str, *, fence: int, attempt: int) -> None:
        line = f"{kind} {time.monotonic_ns()} {os.getpid()} {event} {fence} {attempt}\n"
        os.write(self._file, line.encode())


def read_histories(folder: Path) -> list[Line]:
    """All lines of all processes in the order of their times."""
    lines = [line for path in folder.glob("*.history") for line in _lines_of(path)]
    return sorted(lines, key=lambda line: line.at_ns)


def newest_lines(folder: Path) -> Iterator[Line]:
    """The last lines of every process: what is going on now, however long the histories are."""
    for path in folder.glob("*.history"):
        with path.open("rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES)
            file.seek(start)
            text = file.read().decode()
        whole = text[: text.rfind("\n") + 1]  # the last line may be only half written
        yield from _parsed(whole.splitlines()[1 if start else 0 :])


def _lines_of(path: Path) -> Iterator[Line]:
    return _parsed(path.read_text().splitlines())


def _parsed(texts: Iterable[str]) -> Iterator[Line]:
    for text in texts:
        kind, at_ns, pid, event, fence, attempt = text.split(" ")
        yield Line(cast("Kind", kind), int(at_ns), int(pid), event, int(fence), int(attempt))
