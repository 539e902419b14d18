"""Processes beside the tests' own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import broker.errors

PROJECT: Final = Path(broker.errors.__file__).parent.parent


@contextlib.contextmanager
def child(script: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A Python process running `script`, and the words of the first line that it printed."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()
        finally:
            process.kill()
