"""Lines of the library in a program that has not configured structlog."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from broker.log import log

card = "4111" + "1111"
try:
    raise ValueError("no")
except ValueError:
    log.exception("handler_failed", n=1)
log.info("not_shown")
"""


def test_an_unconfigured_program_gets_tracebacks_without_local_variables_on_stderr() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "handler_failed" in done.stderr
    assert "ValueError: no" in done.stderr
    assert "41111111" not in done.stderr
    assert "not_shown" not in done.stderr
