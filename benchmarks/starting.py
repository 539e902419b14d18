"""From the start of a worker process to its first event, with a million events queued."""

from __future__ import annotations

import time
from typing import Final

from benchmarks import apps
from benchmarks.harness import Stage, child, reaches
from benchmarks.records import Figure, Round, Target, figure

_EVENTS: Final = 1_000_000
_TARGET: Final = Target(of="value", at_most=15)


async def measure(stage: Stage) -> list[Figure]:
    """Until it says that it is ready, and until it has finished something; once."""
    count = stage.size(_EVENTS)
    async with stage.bed() as bed:
        await bed.register(apps.noop_app())
        function = bed.broker.function(apps.NOOP)
        stage.say(f"queueing {count:,} events")
        await bed.fill(function.resource, count)
        stage.say("starting a worker")
        started = time.monotonic()
        async with child(bed, "worker_process", apps.NOOP):
            ready_s = time.monotonic() - started
            _, first_at = await reaches(bed, function.resource, 1)
    return [
        figure(
            "starting",
            f"{what}, {count:,} events queued",
            unit="s",
            aof=stage.aof,
            rounds=[Round(value)],
            target=_TARGET,
        )
        for what, value in (("a worker process is ready", ready_s), ("the first events are done", first_at - started))
    ]
