"""Redis memory: a queued event that nobody has claimed, and what is given back when most have finished."""

from __future__ import annotations

import asyncio
from typing import Final

from benchmarks import apps
from benchmarks.harness import EVENT_BYTES, Bed, Stage, child, event
from benchmarks.records import Figure, Round, Target, figure
from broker.names import Resource

_EVENTS: Final = 100_000
_LOOK_S: Final = 0.05
_PATIENCE_S: Final = 120
_TARGET: Final = Target(of="value", at_most=250)
_KEPT: Final = ("ready", "bodies", "facts", "waiting", "notes")


async def measure(stage: Stage) -> list[Figure]:
    """Both, of one lot of events that a real worker works off."""
    count = stage.size(_EVENTS)
    async with stage.bed() as bed:
        await bed.register(apps.stragglers_app())
        function = bed.broker.function(apps.STRAGGLERS)
        before = await _used_bytes(bed)
        stage.say(f"queueing {count:,} events")
        await function.invoke_many(event(index) for index in range(count))
        full = await _used_bytes(bed)
        stage.say(f"working them off but for every {apps.FAIL_EVERY}th")
        async with child(bed, "worker_process", apps.STRAGGLERS), asyncio.timeout(_PATIENCE_S):
            while (counts := await function.counts()).visible or counts.in_flight:  # noqa: ASYNC110 - another process's work
                await asyncio.sleep(_LOOK_S)
        waiting = counts.retrying
        after = await _used_bytes(bed)
        kept = await _kept(bed, function.resource)
    given_back = 100 * (full - after) / (full - before)
    return [
        figure(
            "memory",
            f"a queued event of {EVENT_BYTES} bytes",
            unit="bytes",
            aof=stage.aof,
            rounds=[Round((full - before) / count)],
            target=_TARGET,
        ),
        figure(
            "memory",
            f"given back when all but {waiting / count:.0%} of {count:,} have finished",
            unit="%",
            aof=stage.aof,
            rounds=[Round(given_back)],
            note=f"{before / 1e6:.1f} MB empty, {full / 1e6:.1f} MB full, {after / 1e6:.1f} MB after, of which {kept}; "
            "a note is the error of the last try",
        ),
    ]


async def _kept(bed: Bed, function: Resource) -> str:
    """What lies where, in kilobytes."""
    core = bed.broker.core
    sizes = []
    for name in _KEPT:
        size = await core.runner.fetch("MEMORY", "USAGE", getattr(core.keys.of(function), name), "SAMPLES", 0)
        sizes.append(f"{name} {(size or 0) / 1e3:.0f} kB")
    return ", ".join(sizes)


async def _used_bytes(bed: Bed) -> int:
    return int((await bed.info("memory"))["used_memory"])
