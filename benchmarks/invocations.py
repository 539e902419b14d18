"""Asynchronous invocations a second through one worker process: one event a call, acknowledged after execution."""

from __future__ import annotations

from typing import Final

from benchmarks import apps
from benchmarks.harness import Stage, rate
from benchmarks.records import Figure, Round, Target, figure

_EVENTS: Final = 60_000
_TARGET: Final = Target(of="ratio", at_least=1 / 3)


async def measure(stage: Stage) -> list[Figure]:
    """The worker's rate beside that of the bare claim and finish."""
    count, rounds = stage.size(_EVENTS), []
    async with stage.bed() as bed:
        await bed.register(apps.noop_app())
        function = bed.broker.core.resource("function", apps.NOOP)
        for number in range(stage.rounds):
            stage.say(f"round {number + 1} of {stage.rounds}")
            ceiling = await rate(bed, function, count, "bare", "drain", "function", apps.NOOP)
            rounds.append(Round(await rate(bed, function, count, "worker_process", apps.NOOP), ceiling))
    return [
        figure(
            "invocations",
            "asynchronous invocations, one worker process",
            unit="events/s",
            aof=stage.aof,
            rounds=rounds,
            target=_TARGET,
        )
    ]
