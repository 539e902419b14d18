"""``python -m benchmarks``: measures everything, or what ``--only`` names, and writes the results."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import (
    calls,
    clusters,
    durability,
    fifo,
    idle,
    invocations,
    latency,
    mappings,
    memory,
    producing,
    report,
    scaling,
    starting,
    wire,
)
from benchmarks.answering import run
from benchmarks.harness import Stage
from benchmarks.records import Figure, Machine, Results
from broker.store.server import software_of


class _Family(msgspec.Struct, frozen=True):
    name: str
    measure: Callable[[Stage], Awaitable[list[Figure]]]
    aof_matters: bool


_FAMILIES: Final = (
    _Family("invocations", invocations.measure, aof_matters=True),
    _Family("mappings", mappings.measure, aof_matters=True),
    _Family("producing", producing.measure, aof_matters=True),
    _Family("latency", latency.measure, aof_matters=True),
    _Family("calls", calls.measure, aof_matters=False),
    _Family("fifo", fifo.measure, aof_matters=True),
    _Family("wire", wire.measure, aof_matters=False),
    _Family("durability", durability.measure, aof_matters=False),
    _Family("scaling", scaling.measure, aof_matters=False),
    _Family("cluster", clusters.measure, aof_matters=False),
    _Family("starting", starting.measure, aof_matters=False),
    _Family("idle", idle.measure, aof_matters=False),
    _Family("memory", memory.measure, aof_matters=False),
)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Measures Penstock beside the bare Redis loop."
    )
    parser.add_argument("--quick", action="store_true", help="one short round, without AOF unless --aof is given")
    parser.add_argument("--only", metavar="NAME", choices=[family.name for family in _FAMILIES], help="one family")
    parser.add_argument(
        "--aof",
        action=argparse.BooleanOptionalAction,
        help="only with, or only without, an append-only file (everysec); both if neither is given",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="where results go")
    return parser.parse_args(argv)


def _plan(only: str | None, modes: Sequence[bool]) -> list[tuple[_Family, bool]]:
    """Which families run, and whether with AOF: those that it does not matter to run once."""
    return [
        (family, aof)
        for family in _FAMILIES
        if only in {None, family.name}
        for aof in (modes if family.aof_matters else modes[:1])
    ]


async def _measure(plan: Sequence[tuple[_Family, bool]], console: Console, *, quick: bool) -> list[Figure]:
    figures: list[Figure] = []
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread that redraws: it would run beside what is being measured.
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("", total=len(plan))
        for family, aof in plan:

            def say(text: str, what: str = f"{family.name}{', AOF' if aof else ''}") -> None:
                progress.update(bar, description=f"{what}: {text}", refresh=True)

            say("starting")
            figures += await family.measure(Stage(aof=aof, quick=quick, say=say))
            progress.advance(bar)
        progress.update(bar, description="done", refresh=True)
    return figures


async def _machine() -> Machine:
    async with Stage(aof=False, quick=True, say=lambda _: None).bed() as bed:
        software = software_of(await bed.info("server"))
    return report.this_machine(server=software, loop=type(asyncio.get_running_loop()).__module__)


async def main(argv: Sequence[str]) -> None:
    """Measures, shows and writes."""
    chosen = _arguments(argv)
    modes = [chosen.aof] if chosen.aof is not None else [False] if chosen.quick else [False, True]
    console, started = Console(), time.monotonic()
    machine = await _machine()
    figures = await _measure(_plan(chosen.only, modes), console, quick=chosen.quick)
    results = Results(machine=machine, quick=chosen.quick, took_s=time.monotonic() - started, figures=figures)
    report.show(results, console)
    whole = not chosen.quick and chosen.only is None and chosen.aof is None
    for path in report.write(results, chosen.output / ("results" if whole else "results-partial")):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(main(sys.argv[1:]))
