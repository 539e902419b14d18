"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from typing import Final

RESTART_LAST_S: Final = 5.0
"""The longest pause before another one takes the place of one that died, or could not be started."""
_RESTART_FIRST_S: Final = 0.1
_RESTART_READY_LAST_S: Final = 1.0
"""One that had been ready was ended by what it ran, or from outside: a longer pause would help nobody."""


class WorkerProcess:
    """One process and what it has said of itself; ``alone`` where it runs only events that are set apart.

    ``deaths`` is how many before it in its place died young, one after the other.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, *, alone: bool, deaths: int) -> None:
        self.process: Final = process
        self.control: Final = control
        self.alone: Final = alone
        self.deaths: Final = deaths
        self.started: Final = time.monotonic()
        self.name = ""
        self.ready: Final = asyncio.Event()
        self.ended: Final = asyncio.Event()
        self.heard: Final = asyncio.Event()
        """Set when it has nothing more to say."""
        self.retiring = False
        self.spent = False
        """Whether it has done enough, and its exchange is under way."""

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is still there."""
        if self.process.poll() is None:
            self.process.send_signal(number)


def pause_s(child: WorkerProcess, deaths: int) -> float:
    """How long to wait before another one takes its place, after so many early deaths in a row. Where events run
    alone dying is to be expected, and the others there wait for it."""
    if not child.ready.is_set():
        longest_s = RESTART_LAST_S
    else:
        longest_s = _RESTART_FIRST_S if child.alone else _RESTART_READY_LAST_S
    return min(longest_s, _RESTART_FIRST_S * 2.0 ** min(deaths - 1, 16))
