"""Results as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.records import Figure, Machine, Results
from benchmarks.sizing import sizing
from broker.store.server import Software

_PACKAGES: Final = (
    "redis",
    "hiredis",
    "msgspec",
    "anyio",
    "structlog",
    "uvloop",
    "uvicorn",
    "httptools",
    "moto",
    "boto3",
)
_COLUMNS: Final = ("figure", "AOF", "measured", "ceiling or peer", "ratio", "lowest-highest", "target", "met")
_WHOLE_FROM: Final = 100


def this_machine(*, server: Software, loop: str) -> Machine:
    """What it is measured with; to be asked before anything runs."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        load_before=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        loop=loop,
        server=f"{server.name.capitalize()} {server.version}",
        packages=packages,
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(results: Results, stem: Path) -> tuple[Path, Path]:
    """Writes ``<stem>.json`` and ``<stem>.md`` and answers their paths."""
    as_json, as_markdown = stem.with_suffix(".json"), stem.with_suffix(".md")
    as_json.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    as_markdown.write_text(_markdown(results))
    return as_json, as_markdown


def show(results: Results, console: Console) -> None:
    """Prints the table."""
    table = Table(*_COLUMNS, title=f"Penstock, {results.machine.date}, {results.took_s:.0f} s")
    for index in range(2, 6):
        table.columns[index].justify = "right"
    family = results.figures[0].family if results.figures else ""
    for one in results.figures:
        if one.family != family:
            table.add_section()
            family = one.family
        style = {True: "green", False: "red", None: ""}[one.met]
        *cells, met = _cells(one)
        table.add_row(*cells, f"[{style}]{met}[/{style}]" if style else met)
    console.print(table)
    for one in results.figures:
        if one.note:
            console.print(f"{one.name}: {one.note}", style="dim", highlight=False)


def _markdown(results: Results) -> str:
    machine = results.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    quick = "; --quick, one short round" if results.quick else ""
    lines = [
        "# What Penstock costs",
        "",
        f"Measured by `make bench` in {results.took_s:.0f} s, {machine.date}{quick}.",
        "",
        f"- {machine.cpu}, {machine.cores} cores, {machine.system}; load before the start {machine.load_before}",
        f"- {machine.python} on {machine.loop}, {machine.server}; {packages}",
        "",
        "Each ceiling is the bare loop of the same Redis scripts, on the wire the same HTTP server with a constant",
        "answer, for a FIFO queue the standard queue; measured in turn with the figure beside it. Measured values,",
        "ceilings and ratios are medians of the rounds; the ratios' lowest and highest follow. On a machine that",
        "others use, a ceiling sinks as a figure does, but not by as much in the same moment: where the rounds",
        "disagree, measure again on a quiet one.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(one))} |" for one in results.figures]
    notes = [f"- {one.name}: {one.note}" for one in results.figures if one.note]
    return "\n".join([*lines, "", *notes, sizing(results.figures)]).rstrip() + "\n"


def _cells(one: Figure) -> tuple[str, ...]:
    ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
    spread = "" if one.ratio_low is None or len(one.rounds) < 2 else f"{one.ratio_low:.2f}-{one.ratio_high:.2f}"  # noqa: PLR2004 - one round has no spread
    met = {True: "yes", False: "no", None: ""}[one.met]
    if one.rounds_met not in {None, 0, len(one.rounds)}:
        met += f" ({one.rounds_met} of {len(one.rounds)} rounds)"
    ceiling = "" if one.ceiling is None else _number(one.ceiling)
    value = f"{_number(one.value)} {one.unit}"
    return one.name, "yes" if one.aof else "no", value, ceiling, ratio, spread, one.target, met


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE_FROM else f"{value:.3g}"
