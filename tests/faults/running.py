"""Runs the tests of one scenario in a process of their own, and gathers what they say."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from broker.embedded import find_server
from tests.faults.results import Case, Machine, Outcome, Part, Ran
from tests.faults.scenarios import ROOT, Scenario
from tests.faults.scene import RESULTS_VARIABLE
from tests.faults.variants import name_of

_LOOK_S: Final = 0.5
_GB: Final = 1 << 30
_REASON: Final = 300


def this_machine() -> Machine:
    """What the next scenario runs on."""
    return Machine(
        commit=commit(),
        python=platform.python_version(),
        server=name_of(find_server()),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB),
        load=round(os.getloadavg()[0], 1),
    )


def commit() -> str:
    """The commit that is tested; ``+`` behind it when files differ from it."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", "broker", "runtime", "tests")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def run(scenario: Scenario, *, size: Literal["P", "N"], seed: int, say: Callable[[str], None]) -> Ran:
    """Runs it; ``say`` is told the figures as they come."""
    machine, began, started = this_machine(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), time.monotonic()
    reason = scenario.missing() or _absent(scenario)
    cases: list[Case] = []
    parts: list[Part] = []
    variants = () if reason else scenario.variants()
    for variant in variants:
        began_s = time.monotonic()
        tell = functools.partial(_tell, say, variant.name)
        found = [] if variant.missing else _cases(variant.tests, variant.environment, size=size, seed=seed, say=tell)
        cases += [msgspec.structs.replace(case, variant=variant.name) for case in found]
        seconds = round(time.monotonic() - began_s, 1)
        parts.append(Part(name=variant.name, seconds=seconds, not_run=variant.missing))
    if not reason and not variants:
        environment = scenario.environment if size == "N" else {}
        cases = _cases(scenario.tests, environment, size=size, seed=seed, say=say)
    return Ran(
        scenario=scenario.id,
        size=size,
        seed=seed,
        began=began,
        seconds=round(time.monotonic() - started, 1),
        machine=machine,
        cases=cases,
        not_run=reason,
        parts=parts,
    )


def _tell(say: Callable[[str], None], variant: str, text: str) -> None:
    say(f"{variant}: {text}")


def _absent(scenario: Scenario) -> str:
    missing = [test for test in scenario.tests if not (ROOT / test.partition("::")[0]).exists()]
    return f"{', '.join(missing)}: not there" if missing else ""


def _cases(
    tests: Sequence[str],
    variables: Mapping[str, str],
    *,
    size: Literal["P", "N"],
    seed: int,
    say: Callable[[str], None],
) -> list[Case]:
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as name:
        folder = Path(name)
        figures, outcomes, log = folder / "figures.jsonl", folder / "outcomes.xml", folder / "log.txt"
        figures.touch()
        environment = {
            **os.environ,
            **variables,
            "PENSTOCK_FAULT_SIZE": size,
            "PENSTOCK_FAULT_SEED": str(seed),
            "PYTHONPATH": str(ROOT),
            RESULTS_VARIABLE: str(figures),
        }
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-n0", f"--junitxml={outcomes}"),
            *("-o", "junit_family=xunit1", f"--basetemp={folder / 'pytest'}", *tests),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            try:
                _follow(process, figures, say)
            finally:
                process.kill()
                process.wait()
        if not outcomes.exists():
            tail = log.read_text(errors="replace")[-_REASON:]
            return [Case(name=tests[0], outcome="failed", reason=f"pytest did not finish: {tail}", seconds=0)]
        return _read(outcomes, figures)


def _follow(process: subprocess.Popen[bytes], figures: Path, say: Callable[[str], None]) -> None:
    with figures.open() as file:
        while process.poll() is None:
            for line in file:
                told = msgspec.json.decode(line)
                say(f"{told['test'].rpartition('::')[2]}: {told.get('figures') or told.get('judged')}")
            time.sleep(_LOOK_S)


def _read(outcomes: Path, figures: Path) -> list[Case]:
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for line in figures.read_text().splitlines():
        found = msgspec.json.decode(line)
        of_test = told.setdefault(found.pop("test"), {"figures": {}, "judged": {}})
        for kind, values in found.items():
            _add(of_test[kind], values)
    return [_case(element, told) for element in ET.parse(outcomes).getroot().iter("testcase")]  # noqa: S314 - our own


def _add(known: dict[str, Any], values: Mapping[str, Any]) -> None:
    """A test may judge several times, or report parts."""
    for name, value in values.items():
        summed = isinstance(value, int) and isinstance(known.get(name), int) and name != "seed"
        known[name] = known[name] + value if summed else value


def _case(element: ET.Element, told: Mapping[str, dict[str, dict[str, Any]]]) -> Case:
    name = f"{element.get('file')}::{element.get('name')}"
    outcome: Outcome = "passed"
    reason = ""
    for kind, means in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = element.find(kind)
        if found is not None:
            outcome, reason = means, (found.get("message") or "").splitlines()[0][:_REASON]  # type: ignore[assignment]
            if outcome == "failed":  # the report keeps the reason alone
                print(name, found.text, sep="\n", file=sys.stderr)
    figures = told.get(name, {"figures": {}, "judged": {}})
    seconds = round(float(element.get("time") or 0), 2)
    return Case(
        name=name,
        outcome=outcome,
        reason=reason,
        seconds=seconds,
        figures=figures["figures"],
        judged=figures["judged"],
    )
