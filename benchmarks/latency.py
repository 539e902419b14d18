"""From `invoke` to the start of the handler at 100 events a second, between two processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import msgspec

from benchmarks import apps, bare
from benchmarks.harness import Bed, Child, Stage, child
from benchmarks.records import Figure, Round, Target, figure

_EVERY_S: Final = 0.01
_SAMPLES: Final = 300
_WARM_UP: Final = 50
_BARE: Final = "bare-stamp"
_SHARES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
_TARGETS: Final = {"p50": Target(of="ratio", at_most=2.5), "p99": Target(of="ratio", at_most=2.0)}


class _Lane(msgspec.Struct, frozen=True):
    """One way from a producer to a consumer in another process."""

    send: Callable[[], Awaitable[object]]
    consumer: Child

    async def latencies_ms(self, samples: int) -> list[float]:
        """How late each of so many events was, sorted."""
        next_at = time.monotonic()
        for _ in range(samples):
            next_at += _EVERY_S
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            await self.send()
        found: list[int] = []
        while len(found) < samples:
            await asyncio.sleep(_EVERY_S)
            found += json.loads(await self.consumer.ask("latencies_ns"))
        return sorted(nanoseconds / 1e6 for nanoseconds in found)


async def measure(stage: Stage) -> list[Figure]:
    """Percentiles of the product beside those of the bare send, wake-up and claim."""
    async with stage.bed() as bed:
        await bed.register(apps.stamp_app())
        app = apps.noop_app()
        await bed.register(app)
        rounds = await _measure(stage, bed)
    return [
        figure(
            "latency",
            f"from invoke to handler, {name}",
            unit="ms",
            aof=stage.aof,
            rounds=rounds[name],
            target=_TARGETS.get(name),
        )
        for name in _SHARES
    ]


async def _measure(stage: Stage, bed: Bed) -> dict[str, list[Round]]:
    core, broker = bed.broker.core, bed.broker
    plain = core.resource("function", apps.NOOP)  # registered, served by nobody but the bare consumer
    tokens = count()
    rounds: dict[str, list[Round]] = {name: [] for name in _SHARES}
    async with (
        child(bed, "worker_process", apps.STAMP) as worker,
        child(bed, "bare", "wake", "function", apps.NOOP) as consumer,
    ):
        product = _Lane(lambda: broker.invoke(apps.STAMP, {"sent_ns": time.monotonic_ns()}), worker)
        ceiling = _Lane(lambda: bare.send(core, plain, [bare.stamped()], f"{_BARE}{next(tokens)}"), consumer)
        for lane in (product, ceiling):
            await lane.latencies_ms(_WARM_UP)
        for number in range(stage.rounds):
            stage.say(f"round {number + 1} of {stage.rounds}")
            bare_ms = await ceiling.latencies_ms(stage.size(_SAMPLES))
            product_ms = await product.latencies_ms(stage.size(_SAMPLES))
            for name, share in _SHARES.items():
                rounds[name].append(Round(_at(product_ms, share), _at(bare_ms, share)))
    return rounds


def _at(ordered: list[float], share: float) -> float:
    """The value below which that share lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
