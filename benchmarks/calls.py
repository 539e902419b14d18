"""Synchronous calls, through the SDK and over HTTP, beside a bare request and reply through Redis; and Invoke of the
asynchronous kind over HTTP beside a constant answer.

Caller, gateway, worker and Redis are processes of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import repeat
from typing import Final

import msgspec

from benchmarks import apps, bare
from benchmarks.harness import Bed, Stage, child, event
from benchmarks.records import Figure, Round, Target, figure
from benchmarks.wire_client import Requests, each_of, run_scripts, timed

_CALLERS: Final = 100
_CONNECTIONS: Final = 64
_SAMPLES: Final = 1_500
_CALLS: Final = 15_000
_INVOKES: Final = 20_000
_WARM_UP: Final = 200
_CHANNEL: Final = "bare-calls"
_SHARES: Final = {"p50": 0.50, "p99": 0.99}
_SDK_LATENCY: Final = {"p50": Target(of="ratio", at_most=1.5)}
_SDK_RATE: Final = Target(of="value", at_least=5_000)
_ASYNC_RATE: Final = Target(of="ratio", at_least=1 / 3)


class _Findings(msgspec.Struct):
    """The rounds so far, by the figure that they are of."""

    latencies: dict[tuple[str, str], list[Round]] = msgspec.field(default_factory=dict)
    rates: dict[str, list[Round]] = msgspec.field(default_factory=dict)

    def late(self, way: str, product_ms: list[float], bare_ms: list[float]) -> None:
        """Notes the percentiles of one round."""
        for name, share in _SHARES.items():
            found = Round(_at(product_ms, share), _at(bare_ms, share))
            self.latencies.setdefault((way, name), []).append(found)

    def rate(self, way: str, product: float, ceiling: float) -> None:
        """Notes the rates of one round."""
        self.rates.setdefault(way, []).append(Round(product, ceiling))


async def measure(stage: Stage) -> list[Figure]:
    """Percentiles and rates of every way beside those of the bare loop."""
    found = _Findings()
    async with stage.bed() as bed:
        await bed.register(apps.noop_app())
        await bed.register(apps.kept_app())  # takes events, and has no worker that would run beside the measurement
        async with (
            child(bed, "worker_process", apps.NOOP),
            child(bed, "bare", "echo", "function", _CHANNEL),
            child(bed, "wire_server", "gateway") as gateway,
            child(bed, "wire_server", "constant") as constant,
            aclosing(bare.Echoes(bed.url, _CHANNEL)) as echoes,
        ):
            ports = _Ports(int(await gateway.ask("port")), int(await constant.ask("port")))
            for number in range(stage.rounds):
                stage.say(f"round {number + 1} of {stage.rounds}")
                await _round(stage, bed, ports, echoes, found)
    return _figures(found, aof=stage.aof)


class _Ports(msgspec.Struct, frozen=True):
    gateway: int
    constant: int


async def _round(stage: Stage, bed: Bed, ports: _Ports, echoes: bare.Echoes, found: _Findings) -> None:
    samples, calls, invokes = stage.size(_SAMPLES), stage.size(_CALLS), stage.size(_INVOKES)
    payload = event(0)
    packed = msgspec.json.encode(payload)

    async def ask() -> None:
        await echoes.ask(packed)

    async def call() -> None:
        await bed.broker.call(apps.NOOP, payload)

    for one in (ask, call):
        await _latencies_ms(one, _WARM_UP)
    bare_ms = await _latencies_ms(ask, samples)
    found.late("SDK", await _latencies_ms(call, samples), bare_ms)
    bare_rate = await _rate(ask, calls)
    found.rate("SDK", await _rate(call, calls), bare_rate)

    invoke = Requests(ports.gateway, service="lambda").invoke
    request = invoke(apps.NOOP, "RequestResponse", packed)
    took_ms: list[float] = []
    await run_scripts(ports.gateway, [timed(repeat(request, samples), took_ms)])
    found.late("HTTP", sorted(took_ms), bare_ms)
    found.rate("HTTP", await _wire_rate(ports.gateway, request, calls, _CALLERS), bare_rate)

    request = invoke(apps.KEPT, "Event", packed)
    ceiling = await _wire_rate(ports.constant, request, invokes, _CONNECTIONS)
    found.rate("Event", await _wire_rate(ports.gateway, request, invokes, _CONNECTIONS), ceiling)


async def _latencies_ms(one: Callable[[], Awaitable[object]], samples: int) -> list[float]:
    """How long each of so many took, one after another; sorted."""
    took_ms: list[float] = []
    for _ in range(samples):
        started = time.perf_counter()
        await one()
        took_ms.append(1e3 * (time.perf_counter() - started))
    return sorted(took_ms)


async def _rate(one: Callable[[], Awaitable[object]], calls: int) -> float:
    """How many a second a hundred callers get through."""
    numbers = iter(range(calls))

    async def caller() -> None:
        for _ in numbers:
            await one()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return calls / (time.perf_counter() - started)


async def _wire_rate(port: int, request: bytes, requests: int, connections: int) -> float:
    left = repeat(request, requests)
    return requests / await run_scripts(port, [each_of(left) for _ in range(connections)])


def _at(ordered: list[float], share: float) -> float:
    """The value below which that share lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _figures(found: _Findings, *, aof: bool) -> list[Figure]:
    names = {"SDK": "synchronous call, SDK", "HTTP": "synchronous Invoke, HTTP"}
    figures = [
        figure(
            "calls",
            f"{names[way]}, {name}",
            unit="ms",
            aof=aof,
            rounds=rounds,
            target=_SDK_LATENCY.get(name) if way == "SDK" else None,
        )
        for (way, name), rounds in found.latencies.items()
    ]
    targets = {"SDK": _SDK_RATE, "Event": _ASYNC_RATE}
    rates = {
        "SDK": (f"synchronous calls, SDK, {_CALLERS} callers", ""),
        "HTTP": (f"synchronous Invoke, HTTP, {_CALLERS} connections", ""),
        "Event": (
            f"asynchronous Invoke, HTTP, {_CONNECTIONS} connections",
            "its ceiling is the same HTTP server's constant answer",
        ),
    }
    return figures + [
        figure(
            "calls",
            rates[way][0],
            unit="calls/s",
            aof=aof,
            rounds=rounds,
            target=targets.get(way),
            note=rates[way][1],
        )
        for way, rounds in found.rates.items()
    ]
