"""One worker process on a cluster: what an event costs Redis on one node and on three, and how even the nodes' shares
are, by the number of partitions of its function.

The events are queued by the SDK, which spreads them; nodes, worker and producer are processes of their own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import apps
from benchmarks.harness import Bed, Stage, child, event
from benchmarks.records import Figure, Round, Target, figure
from broker import Broker
from broker.names import Resource
from tests.servers import RedisCluster

_EVENTS: Final = 60_000
_SETTINGS: Final = ((1, 1), (1, 8), (3, 1), (3, 8), (3, 16))
_FEW: Final = 8  # of which one node of three has three, the next two
_CHUNK: Final = 250
_LOOK_S: Final = 0.02
_WARM_SHARE: Final = 0.1
_PATIENCE_S: Final = 120.0
_COST: Final = Target(of="ratio", at_most=1.15)
_EVEN: Final = Target(of="value", at_most=1.15)


class _Run(msgspec.Struct, frozen=True):
    rate: float
    redis_us: float
    """CPU of all nodes an event, in microseconds."""
    most_events: float
    most_cpu: float
    """The largest share of a node, in fair shares: 1 is even."""


async def measure(stage: Stage) -> list[Figure]:
    """Rate, cost and shares for each number of nodes and partitions; costs beside one node with as many partitions."""
    rounds: dict[tuple[int, int], list[_Run]] = {}
    for nodes, partitions in _SETTINGS:
        async with _bed(nodes) as bed:
            await bed.register(apps.noop_app(partitions=partitions))
            function = bed.broker.core.resource("function", apps.NOOP)
            await bed.broker.function(apps.NOOP).pause()
            for number in range(stage.rounds):
                stage.say(f"{nodes} nodes, {partitions} partitions, round {number + 1} of {stage.rounds}")
                run = await _run(bed, function, stage.size(_EVENTS), partitions)
                rounds.setdefault((nodes, partitions), []).append(run)
    return _figures(rounds, aof=stage.aof)


@asynccontextmanager
async def _bed(nodes: int) -> AsyncIterator[Bed]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        cluster = RedisCluster(Path(name) / "redis", primaries=nodes, replicas=0)
        await asyncio.to_thread(cluster.__enter__)
        try:
            async with Broker(cluster.url) as broker:
                yield Bed(cluster.url, Path(name), broker)
        finally:
            await asyncio.to_thread(cluster.__exit__, None, None, None)


async def _run(bed: Bed, function: Resource, count: int, partitions: int) -> _Run:
    core, parts = bed.broker.core, function.parts(partitions)
    places = [core.place_of(part) for part in parts]
    async with child(bed, "worker_process", apps.NOOP, "1", str(partitions)):
        for start in range(0, count, _CHUNK):  # in chunks, as many producers would send them
            await bed.broker.invoke_many(apps.NOOP, [event(start + index) for index in range(_CHUNK)])
        before, cpu_before = await _done(bed, parts), await _cpu_s(bed)
        await bed.broker.function(apps.NOOP).resume()
        warm, warm_at = await _reaches(bed, parts, sum(before) + int(count * _WARM_SHARE))
        ended, ended_at = await _reaches(bed, parts, sum(before) + count)
        after, cpu_after = await _done(bed, parts), await _cpu_s(bed)
        await bed.broker.function(apps.NOOP).pause()
    used_s = [after_s - before_s for after_s, before_s in zip(cpu_after, cpu_before, strict=True)]
    by_node: dict[object, int] = dict.fromkeys(places, 0)
    for place, first, last in zip(places, before, after, strict=True):
        by_node[place] += last - first
    nodes = len(used_s)
    return _Run(
        (ended - warm) / (ended_at - warm_at),
        1e6 * sum(used_s) / count,
        nodes * max(by_node.values()) / count,
        nodes * max(used_s) / sum(used_s),
    )


async def _done(bed: Bed, parts: Sequence[Resource]) -> list[int]:
    return [await bed.done(part) for part in parts]


async def _reaches(bed: Bed, parts: Sequence[Resource], count: int) -> tuple[int, float]:
    async with asyncio.timeout(_PATIENCE_S):
        while (done := sum(await _done(bed, parts))) < count:  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(_LOOK_S)
    return done, time.monotonic()


async def _cpu_s(bed: Bed) -> list[float]:
    """What each node has used."""
    found = []
    for reply in await bed.broker.core.runner.fetch_everywhere("INFO", "cpu"):
        info = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        found.append(float(info["used_cpu_user"]) + float(info["used_cpu_sys"]))
    return found


def _figures(rounds: dict[tuple[int, int], list[_Run]], *, aof: bool) -> list[Figure]:
    figures = []
    for (nodes, partitions), runs in rounds.items():
        name = f"{nodes} node{'s' if nodes > 1 else ''}, {partitions} partition{'s' if partitions > 1 else ''}"
        beside = rounds[1, min(partitions, 8)] if nodes > 1 else None
        figures.append(figure("cluster", name, unit="events/s", aof=aof, rounds=_beside(runs, beside, "rate")))
        figures.append(
            figure(
                "cluster",
                f"Redis CPU an event, {name}",
                unit="us",
                aof=aof,
                rounds=_beside(runs, beside, "redis_us"),
                target=_COST if nodes > 1 else None,
            )
        )
        if nodes > 1 and partitions > 1:
            for what, attribute in (("events", "most_events"), ("CPU", "most_cpu")):
                figures.append(
                    figure(
                        "cluster",
                        f"largest share of {what} of a node, {name}",
                        unit="fair shares",
                        aof=aof,
                        rounds=_beside(runs, None, attribute),
                        target=_EVEN if partitions > _FEW else None,
                    )
                )
    return figures


def _beside(runs: Sequence[_Run], others: Sequence[_Run] | None, attribute: str) -> list[Round]:
    ceilings = [None] * len(runs) if others is None else [getattr(other, attribute) for other in others]
    return [Round(getattr(run, attribute), ceiling) for run, ceiling in zip(runs, ceilings, strict=True)]
