"""What a run of scenarios found, as it is kept beside the report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["passed", "skipped", "failed"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test of a scenario."""

    name: str
    """Its id, from ``tests/`` on."""
    outcome: Outcome
    reason: str = ""
    """Why it was skipped, or the beginning of what failed."""
    seconds: float
    figures: dict[str, object] = {}
    """What it printed, in that order."""
    judged: dict[str, int] = {}
    """How many violations of each promise the histories show."""
    variant: str = ""
    """Of the scenario, where it has several."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario ran on."""

    commit: str
    python: str
    server: str
    system: str
    cores: int
    memory_gb: int
    load: float
    """The load average of one minute when it began: what else the machine was doing."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a scenario that has several."""

    name: str
    seconds: float = 0.0
    not_run: str = ""
    """Why it was not."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario."""

    scenario: str
    size: Literal["P", "N"]
    seed: int
    began: str
    """In UTC."""
    seconds: float
    machine: Machine
    cases: list[Case]
    not_run: str = ""
    """Why it was not run at all."""
    parts: list[Part] = []

    @property
    def passed(self) -> bool:
        """Whether something ran, and nothing failed."""
        return not self.not_run and all(case.outcome != "failed" for case in self.cases)


class Mutation(msgspec.Struct, frozen=True, kw_only=True):
    """One safeguard that was switched off, and what noticed."""

    safeguard: str
    test: str
    noticed: bool
    seconds: float
    commit: str
    detail: str = ""


class Results(msgspec.Struct, kw_only=True):
    """Everything in the report."""

    scenarios: dict[str, Ran] = {}
    mutations: dict[str, Mutation] = {}


def read(path: Path) -> Results:
    """What earlier runs have left; nothing where there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else Results()


def write(path: Path, results: Results) -> None:
    """Keeps them, in one step, so that a run that is broken off leaves a whole file."""
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(results, order="deterministic"), indent=1) + b"\n")
    part.replace(path)
