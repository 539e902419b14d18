"""More worker processes: what they get done together, and what an event then costs Redis. On two cores the processes
share what there is; so beside rates stands the cost, and handlers that wait, as most do, show how rates add up.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

import msgspec

from benchmarks import apps
from benchmarks.harness import Bed, Stage, child, reaches
from benchmarks.records import Figure, Round, Target, figure
from benchmarks.sizing import STORED_US

_PROCESSES: Final = (1, 2, 4)
_EVENTS: Final = 60_000
_NAPS: Final = 8_000
_WARM_SHARE: Final = 0.1
_COST: Final = {2: Target(of="ratio", at_most=1.15)}
_NAPPING: Final = Target(of="ratio", at_least=1.9)


class _Run(msgspec.Struct, frozen=True):
    rate: float
    """Events a second."""
    redis_us: float
    """CPU of Redis an event that is claimed and finished, in microseconds."""
    stored_us: float
    """The same for one that is stored, a thousand at a time."""


async def measure(stage: Stage) -> list[Figure]:
    """Rates and Redis's CPU by the number of processes, each beside those of one process in the same round."""
    rates: dict[int, list[Round]] = {number: [] for number in _PROCESSES}
    costs: dict[int, list[Round]] = {number: [] for number in _PROCESSES}
    naps: list[Round] = []
    stored: list[Round] = []
    async with stage.bed() as bed:
        for app in (apps.noop_app(), apps.nap_app()):
            await bed.register(app)
        for turn in range(stage.rounds):
            stage.say(f"round {turn + 1} of {stage.rounds}")
            runs = {number: await _run(bed, apps.NOOP, stage.size(_EVENTS), number) for number in _PROCESSES}
            one = runs[1]
            stored.append(Round(one.stored_us))
            for number, run in runs.items():
                rates[number].append(Round(run.rate, None if number == 1 else one.rate))
                costs[number].append(Round(run.redis_us, None if number == 1 else one.redis_us))
            one = await _run(bed, apps.NAP, stage.size(_NAPS), 1)
            naps.append(Round((await _run(bed, apps.NAP, stage.size(_NAPS), 2)).rate, one.rate))
    figures = _figures(rates, costs, naps, aof=stage.aof)
    return [figure("scaling", STORED_US, unit="us", aof=stage.aof, rounds=stored), *figures]


async def _run(bed: Bed, function: str, count: int, processes: int) -> _Run:
    """What so many processes do with a backlog: they are there before it is let go."""
    ours = bed.broker.function(function)
    async with AsyncExitStack() as stack:
        for _ in range(processes):
            await stack.enter_async_context(child(bed, "worker_process", function))
        await ours.pause()
        before = await bed.done(ours.resource)
        empty_s = await _redis_cpu_s(bed)
        await bed.fill(ours.resource, count)
        cpu_s = await _redis_cpu_s(bed)
        await ours.resume()
        warm, warm_at = await reaches(bed, ours.resource, before + int(count * _WARM_SHARE))
        ended, ended_at = await reaches(bed, ours.resource, before + count)
        used_s = await _redis_cpu_s(bed) - cpu_s
    return _Run((ended - warm) / (ended_at - warm_at), 1e6 * used_s / count, 1e6 * (cpu_s - empty_s) / count)


async def _redis_cpu_s(bed: Bed) -> float:
    info = await bed.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _figures(
    rates: dict[int, list[Round]], costs: dict[int, list[Round]], naps: list[Round], *, aof: bool
) -> list[Figure]:
    figures = []
    for number in _PROCESSES:
        said = "one worker process" if number == 1 else f"{number} worker processes"
        beside = "" if number == 1 else ", beside one"
        figures.append(figure("scaling", f"{said}{beside}", unit="events/s", aof=aof, rounds=rates[number]))
        figures.append(
            figure(
                "scaling",
                f"Redis CPU an event, {said}{beside}",
                unit="us",
                aof=aof,
                rounds=costs[number],
                target=_COST.get(number),
            )
        )
    figures.append(
        figure(
            "scaling",
            f"handlers that wait {1_000 * apps.NAP_S:g} ms, {apps.NAPS} at a time in each of 2 processes, beside one",
            unit="events/s",
            aof=aof,
            rounds=naps,
            target=_NAPPING,
        )
    )
    return figures
