"""The worker of a measurement, in a process of its own: ``python -m benchmarks.worker_process URL APP [NUMBER]``."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

from benchmarks import apps
from benchmarks.answering import answer, run, say
from runtime import Worker
from runtime.engine import DEFAULT_CALLS
from runtime.logs import configure_logs


async def serve(url: str, app: str, *numbers: str) -> None:
    """Serves until the parent has no more questions."""
    max_calls = apps.NAPS if app == apps.NAP else DEFAULT_CALLS
    worker = Worker(apps.build(app, *map(int, numbers)), url, max_calls=max_calls, on_ready=partial(say, "ready"))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(), name="worker")
        await answer({"cpu_s": time.process_time, "latencies_ns": apps.take_latencies_ns})
        worker.stop()


if __name__ == "__main__":
    configure_logs()  # as in production: what the lines cost belongs to the figures
    run(serve(*sys.argv[1:]))
