"""Standard output and standard error of what runs on: a line is written when it ends, and one that cannot be is lost.

A log whose reader has gone, or whose disk is full, must not end a worker, fail a handler that prints, or keep a
supervisor from starting a process again. And what a handler printed is there before its process dies of what it does
next, as in Lambda; Python itself would hold it back wherever the output is no terminal.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STREAMS: Final = ("stdout", "stderr")


class _LossyFile(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def make_output_steady() -> None:
    """For this process, from now on. What somebody has put in a stream's place keeps its own rules."""
    for name in _STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and type(_file_of(stream)) is io.FileIO:
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, _steady(stream))


def _file_of(stream: io.TextIOWrapper) -> object:
    return getattr(stream.buffer, "raw", stream.buffer)


def _steady(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    file = _LossyFile(stream.fileno(), "wb", closefd=False)
    # PYTHONUNBUFFERED leaves the buffer out, so that parts of lines are written, too.
    is_buffered = _file_of(stream) is not stream.buffer
    return io.TextIOWrapper(
        io.BufferedWriter(file) if is_buffered else file,  # as Python itself does it
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=True,
        write_through=not is_buffered,
    )
