"""``python -m tests.faults``: runs scenarios at full size, then the mutations, and writes the report.

What was run is kept in JSON beside the report, after every scenario, so a run that is broken off goes on with
``--resume``, and one scenario alone replaces its own section.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import report, results
from tests.faults.mutations import MUTATIONS, Mutant, switch_off
from tests.faults.results import Results
from tests.faults.running import commit, run
from tests.faults.scenarios import ROOT, SCENARIOS, Scenario
from tests.faults.scene import SEED

_MUTATIONS: Final = "mutations"
_WIDTH: Final = 100


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults", description="Runs the fault suite, writes its report.")
    names = [scenario.id for scenario in SCENARIOS] + [_MUTATIONS]
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; all if none is given")
    parser.add_argument("--size", choices=("P", "N"), default="N", help="P: as in make test; N, the default: full")
    parser.add_argument("--seed", type=int, default=SEED, help="chooses what is hit when")
    parser.add_argument("--resume", action="store_true", help="only what has not passed at this commit, size and seed")
    parser.add_argument("--list", action="store_true", help="say what there is, and why it cannot run here")
    parser.add_argument("--write", action="store_true", help="only write the report anew from what is kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", metavar="DIR", help="where the report goes")
    chosen = parser.parse_args(argv)
    if unknown := set(chosen.scenarios) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    return chosen


class _Keeper:
    """The results so far; every change is on disk at once."""

    def __init__(self, folder: Path) -> None:
        self._json = folder / "reliability-report.json"
        self._page = folder / "reliability-report.md"
        self.results: Results = results.read(self._json)

    def keep(self) -> None:
        results.write(self._json, self.results)
        self._page.write_text(report.markdown(self.results))


def _is_done(scenario: Scenario, known: Results, chosen: argparse.Namespace) -> bool:
    ran = known.scenarios.get(scenario.id)
    if not chosen.resume or ran is None or not ran.passed:
        return False
    return (ran.machine.commit, ran.size, ran.seed) == (commit(), chosen.size, chosen.seed)


def _run_scenarios(todo: Sequence[Scenario], keeper: _Keeper, chosen: argparse.Namespace, console: Console) -> bool:
    well = True
    with _progress(console, len(todo)) as (advance, say):
        for scenario in todo:
            say(f"{scenario.id}: {scenario.title}")
            tell = functools.partial(_tell, say, scenario.id)
            ran = run(scenario, size=chosen.size, seed=chosen.seed, say=tell)
            keeper.results.scenarios[scenario.id] = ran
            keeper.keep()
            well = well and (ran.passed or bool(ran.not_run))
            word = f"not run: {ran.not_run}" if ran.not_run else "passed" if ran.passed else "FAILED"
            console.print(f"{scenario.id:9} {ran.seconds:7.1f} s  {escape(word)}", highlight=False)
            for case in ran.cases:
                if case.outcome == "failed":
                    console.print(f"  {escape(case.name)}: {escape(case.reason)}", highlight=False)
            advance()
    return well


def _tell(say: Callable[[str], None], scenario: str, text: str) -> None:
    say(f"{scenario}: {text}")


def _run_mutations(todo: Sequence[Mutant], keeper: _Keeper, console: Console) -> bool:
    well, version = True, commit()
    with _progress(console, len(todo)) as (advance, say):
        for mutant in todo:
            say(f"switched off: {mutant.safeguard}")
            found = switch_off(mutant, commit=version)
            keeper.results.mutations[mutant.name] = found
            keeper.keep()
            well = well and found.noticed
            word = "noticed" if found.noticed else f"NOT NOTICED {found.detail}"
            console.print(f"{mutant.name:17} {found.seconds:6.1f} s  {escape(word)}", highlight=False)
            advance()
    return well


@contextmanager
def _progress(console: Console, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar: how to move it, and how to say what is under way."""
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=1) as progress:
        bar = progress.add_task("", total=total)
        yield (
            lambda: progress.advance(bar),
            lambda text: progress.update(bar, description=escape(text[:_WIDTH])),
        )


def main(argv: Sequence[str]) -> int:
    """1 when something that ran has failed."""
    chosen, console, started = _arguments(argv), Console(), time.monotonic()
    if chosen.list:
        for scenario in SCENARIOS:
            console.print(f"{scenario.id:9} {scenario.title} {escape(scenario.missing())}", highlight=False)
        return 0
    keeper, well = _Keeper(chosen.output), True
    if not chosen.write:
        named = chosen.scenarios
        scenarios = [each for each in SCENARIOS if not named or each.id in named]
        todo = [each for each in scenarios if not _is_done(each, keeper.results, chosen)]
        well = _run_scenarios(todo, keeper, chosen, console)
        if not named or _MUTATIONS in named:
            known = keeper.results.mutations
            left = [m for m in MUTATIONS if not (chosen.resume and m.name in known and known[m.name].noticed)]
            well = _run_mutations(left, keeper, console) and well
    keeper.keep()
    console.print(f"wrote {chosen.output / 'reliability-report.md'} after {time.monotonic() - started:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
