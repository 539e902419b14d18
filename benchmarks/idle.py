"""What a worker process costs that has nothing to do: commands that it sends to Redis, and its CPU."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections import Counter
from typing import Final

import msgspec

from benchmarks import apps
from benchmarks.harness import Bed, Stage, child
from benchmarks.records import Figure, Round, Target, figure

_SETTLE_S: Final = 10.0
_WATCH_S: Final = 30.0
_COMMANDS: Final = {1: Target(of="value", at_most=1), 1_000: Target(of="value", at_most=10)}
_CPU_PERCENT: Final = {1_000: Target(of="value", at_most=3)}


class _Idle(msgspec.Struct, frozen=True):
    commands_s: float
    inner_s: float
    cpu_percent: float
    names: str


async def measure(stage: Stage) -> list[Figure]:
    """Workers of 1 and of 1,000 functions at the same time, each on a Redis of its own."""
    stage.say(f"watching for {_WATCH_S:g} s" if not stage.quick else "watching for 10 s")
    found = await asyncio.gather(*(_watch(stage, functions) for functions in _COMMANDS))
    figures = []
    for functions, idle in zip(_COMMANDS, found, strict=True):
        served = f"idle worker, {functions:,} function{'s' if functions > 1 else ''}"
        note = f"{idle.names}; {idle.inner_s:.2f}/s more inside scripts"
        for what, unit, value, target, remark in (
            ("commands", "commands/s", idle.commands_s, _COMMANDS[functions], note),
            ("CPU", "% of a core", idle.cpu_percent, _CPU_PERCENT.get(functions), ""),
        ):
            figures.append(
                figure(
                    "idle",
                    f"{served}, {what}",
                    unit=unit,
                    aof=stage.aof,
                    rounds=[Round(value)],
                    target=target,
                    note=remark,
                )
            )
    return figures


async def _watch(stage: Stage, functions: int) -> _Idle:
    watch_s, settle_s = (10.0, 2.0) if stage.quick else (_WATCH_S, _SETTLE_S)
    async with stage.bed() as bed, child(bed, "worker_process", apps.NOOP, str(functions)) as worker:
        await asyncio.sleep(settle_s)
        started, cpu_s = time.monotonic(), float(await worker.ask("cpu_s"))
        sent, inner = await _commands(bed, watch_s)
        elapsed_s = time.monotonic() - started
        used_s = float(await worker.ask("cpu_s")) - cpu_s
    names = ", ".join(f"{name} {number}" for name, number in sent.most_common())
    total = sum(sent.values())
    return _Idle(total / elapsed_s, inner / elapsed_s, 100 * used_s / elapsed_s, f"{names} in {elapsed_s:.0f} s")


async def _commands(bed: Bed, seconds: float) -> tuple[Counter[str], int]:
    """What clients send to Redis, by name, and how many commands their scripts call.

    By MONITOR, because INFO's sums do not tell the two apart.
    """
    path = urllib.parse.unquote(bed.url.removeprefix("unix://"))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    sent: Counter[str] = Counter()
    inner = 0
    try:
        async with asyncio.timeout(seconds):
            while line := await reader.readline():
                source, _, command = line.partition(b"] ")
                if source.endswith(b" lua"):
                    inner += 1
                else:
                    sent[command.split(b'"')[1].decode().upper()] += 1
    except TimeoutError:
        pass
    finally:
        writer.close()
    return sent, inner
