"""The Markdown page about what a run found: always the same text for the same results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, get_args

from tests.faults.mutations import MUTATIONS
from tests.faults.results import Case, Outcome, Ran, Results
from tests.faults.scenarios import SCENARIOS, Scenario

_HEAD: Final = """\
# Reliability report

Written by `make faults` from what its runs measured; nothing here is typed by hand. `make faults ARGS="R1 R3"` runs
scenarios again and replaces their sections alone; all figures: [reliability-report.json](reliability-report.json).
What is promised: [promises](promises.md). The scenarios and their checkers: [tests/faults](../tests/faults). Size N is
that of this report, P the smaller one of `make test`. Times are those of the machine named, with what else it was
doing.
"""
_LIMITS: Final = """\
## What these tests cannot show

* **Power loss for real.** R4 cuts the file where the disk might have stopped. Disks that lie, and torn sectors, are
  another matter.
* **Several machines**: everything runs on one, so drifting clocks and lost network cards are imitated at most.
* **Days of load, very large clusters.**
"""


def markdown(results: Results) -> str:
    """The page."""
    parts = [_HEAD, _overview(results)]
    parts += [_section(scenario, results.scenarios.get(scenario.id)) for scenario in SCENARIOS]
    parts += [_mutations(results), _LIMITS]
    return "\n".join(parts)


def _overview(results: Results) -> str:
    lines = ["| scenario | | result | lost | size | seconds |", "|---|---|---|---|---|---|"]
    for scenario in SCENARIOS:
        ran = results.scenarios.get(scenario.id)
        verdict, lost = _verdict(ran), _lost(ran)
        size, seconds = (ran.size, f"{ran.seconds:.0f}") if ran is not None and not ran.not_run else ("", "")
        lines.append(
            f"| [{scenario.id}](#{_anchor(scenario)}) | {scenario.title} | {verdict} | {lost} | {size} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def _verdict(ran: Ran | None) -> str:
    if ran is None:
        return "not run yet"
    if ran.not_run:
        return f"not run: {ran.not_run}"
    failed = sum(case.outcome == "failed" for case in ran.cases)
    skipped = sum(case.outcome == "skipped" for case in ran.cases)
    if failed:
        return f"**{failed} of {len(ran.cases)} tests failed**"
    return f"passed ({len(ran.cases) - skipped} tests" + (f", {skipped} skipped)" if skipped else ")")


def _lost(ran: Ran | None) -> str:
    """The sum of what tests say was lost; nothing where none looks at it."""
    if ran is None:
        return ""
    told = [int(str(value)) for case in ran.cases for name, value in _told(case) if name == "lost"]
    return f"{sum(told):,}" if told else ""


def _told(case: Case) -> Iterator[tuple[str, object]]:
    if "lost" not in case.figures:
        yield from case.judged.items()
    yield from case.figures.items()


def _anchor(scenario: Scenario) -> str:
    words = f"{scenario.id}: {scenario.title}".lower()
    return "".join(letter for letter in words.replace(" ", "-") if letter.isalnum() or letter in "-_")


def _section(scenario: Scenario, ran: Ran | None) -> str:
    lines = [f"## {scenario.id}: {scenario.title}", "", f"Must hold: {scenario.promise}.", ""]
    if ran is None or ran.not_run:
        return "\n".join([*lines, f"{_verdict(ran).capitalize()}.", ""])
    machine = ran.machine
    server = "The servers below" if ran.parts else machine.server
    lines += [
        f"{_verdict(ran).capitalize()} in {ran.seconds:.0f} s. Size {ran.size}, seed {ran.seed}, {scenario.topology}.",
        f"{server}, Python {machine.python}, {machine.system}, {machine.cores} cores,",
        f"{machine.memory_gb} GB, load {machine.load:.1f} before; commit {machine.commit}, {ran.began} UTC.",
        "",
    ]
    if ran.parts:
        return "\n".join([*lines, *_parts(ran), ""])
    told = [case for case in ran.cases if case.figures or case.judged or case.outcome != "passed"]
    lines += [line for case in told for line in _case(case)]
    silent = len(ran.cases) - len(told)
    if silent:
        files = ", ".join(f"`{name}`" for name in sorted({_file(case) for case in ran.cases if case not in told}))
        lines.append(f"{silent} more tests passed, without figures: {files}.")
    return "\n".join([*lines, ""])


def _parts(ran: Ran) -> Iterator[str]:
    yield "| | passed | skipped | failed | seconds |"
    yield "|---|---:|---:|---:|---:|"
    for part in ran.parts:
        outcomes = [case.outcome for case in ran.cases if case.variant == part.name]
        counts = " | ".join(f"{outcomes.count(outcome):,}" for outcome in get_args(Outcome))
        yield f"| {part.name} | " + (
            f"not run: {part.not_run} | | | |" if part.not_run else f"{counts} | {part.seconds:.0f} |"
        )
    failed = [case for case in ran.cases if case.outcome == "failed"]
    if failed:
        yield ""
    for case in failed:
        yield f"* {case.variant}: `{case.name.partition('::')[2]}`: {case.reason}"


def _file(case: Case) -> str:
    return case.name.partition("::")[0]


def _case(case: Case) -> Iterator[str]:
    yield f"* `{case.name.partition('::')[2]}`: {case.outcome}" + (f", {case.reason}" if case.reason else "")
    if case.figures:
        yield f"  * {_words(case.figures.items())}"
    if case.judged:
        total = sum(case.judged.values())
        yield f"  * violations in the histories: {total} ({_words(case.judged.items())})"


def _words(items: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value if name == 'seed' else _number(value)}" for name, value in items)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _mutations(results: Results) -> str:
    lines = [
        "## Safeguards switched off",
        "",
        "One at a time, in a copy of the tree. A test of `make test` has to turn red, or it guards nothing.",
        "",
        "| safeguard | test | noticed |",
        "|---|---|---|",
    ]
    for mutation in MUTATIONS:
        found = results.mutations.get(mutation.name)
        noticed = "not run yet" if found is None else "yes" if found.noticed else f"**no** {found.detail}".strip()
        lines.append(f"| {mutation.safeguard} | `{mutation.test.rpartition('/')[2]}` | {noticed} |")
    return "\n".join([*lines, ""])
