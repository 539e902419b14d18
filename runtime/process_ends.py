"""How a child process ends: waiting for that, and its cause in Lambda's words."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
from typing import Final

_SIGNAL_WORDS: Final = {signal.SIGKILL: "killed", signal.SIGSEGV: "segmentation fault", signal.SIGABRT: "aborted"}


async def end_of(process: subprocess.Popen[bytes]) -> int:
    """The status of a process once it has ended; a thread for each, as a pool has no room for many that only wait."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def tell(status: int) -> None:
        if not ended.cancelled():
            ended.set_result(status)

    def wait() -> None:
        status = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, status)

    threading.Thread(target=wait, name=f"penstock-wait-{process.pid}", daemon=True).start()
    return await ended


def cause_of(status: int) -> str:
    """How a process ended, in Lambda's words: ``signal: killed``, ``exit status 3``."""
    if status >= 0:
        return f"exit status {status}"
    number = signal.Signals(-status)
    return f"signal: {_SIGNAL_WORDS.get(number, number.name)}"
