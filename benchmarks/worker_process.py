"""The worker of a measurement, in a process of its own: ``python -m benchmarks.worker_process URL APP [NUMBER]``."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import structlog

from benchmarks import apps
from benchmarks.answering import answer, run, say
from runtime import Worker


async def serve(url: str, app: str, *numbers: str) -> None:
    """Serves until the parent has no more questions."""
    worker = Worker(apps.build(app, *map(int, numbers)), url, on_ready=partial(say, "ready"))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(), name="worker")
        await answer({"cpu_s": time.process_time, "latencies_ns": apps.take_latencies_ns})
        worker.stop()


def log_as_in_production() -> None:
    """JSON lines from info on; what they cost belongs to the figures."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    log_as_in_production()
    run(serve(*sys.argv[1:]))
