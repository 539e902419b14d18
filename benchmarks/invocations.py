"""Asynchronous invocations a second through one worker process: one event a call, acknowledged after execution."""

from __future__ import annotations

from typing import Final

from benchmarks import apps
from benchmarks.harness import Bed, Stage, rate
from benchmarks.records import Figure, Round, Target, figure

_EVENTS: Final = 60_000
_TARGET: Final = Target(of="ratio", at_least=1 / 2)
_TARGET_KEPT: Final = Target(of="ratio", at_least=0.8)


async def measure(stage: Stage) -> list[Figure]:
    """The worker's rate beside that of the bare claim and finish; and what keeping the status of every event costs."""
    count, rounds, kept = stage.size(_EVENTS), list[Round](), list[Round]()
    async with stage.bed() as bed:
        await bed.register(apps.noop_app())
        await bed.register(apps.kept_app())
        function = bed.broker.core.resource("function", apps.NOOP)
        for number in range(stage.rounds):
            stage.say(f"round {number + 1} of {stage.rounds}")
            ceiling = await rate(bed, function, count, "bare", "drain", "function", apps.NOOP)
            off = await _worker(bed, apps.NOOP, count)
            rounds.append(Round(off, ceiling))
            kept.append(Round(await _worker(bed, apps.KEPT, count), off))
    return [
        figure(
            "invocations",
            "asynchronous invocations, one worker process",
            unit="events/s",
            aof=stage.aof,
            rounds=rounds,
            target=_TARGET,
        ),
        figure(
            "invocations",
            "the same with every status kept, beside the same without",
            unit="events/s",
            aof=stage.aof,
            rounds=kept,
            target=_TARGET_KEPT,
        ),
    ]


async def _worker(bed: Bed, name: str, count: int) -> float:
    return await rate(bed, bed.broker.core.resource("function", name), count, "worker_process", name)
