"""The other side of :class:`benchmarks.harness.Child`: says that it is ready, answers lines, ends with its input."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a child on uvloop where it exists, as `penstock runtime` does."""
    try:
        import uvloop  # noqa: PLC0415 - there is none on some platforms
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def say(line: str) -> None:
    """Tells the parent."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def answer(answers: Mapping[str, Callable[[], object]]) -> None:
    """Answers the parent's questions as JSON until it has no more."""
    loop = asyncio.get_running_loop()
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while line := await questions.readline():
        say(json.dumps(answers[line.decode().strip()]()))
