"""What a measurement answers: figures with their ceilings, targets and spread. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a figure is to reach: a bound on itself, or on its ratio to the ceiling."""

    of: Literal["ratio", "value"]
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, *, value: float, ratio: float | None) -> bool:
        """Whether the bound holds; a ratio without a ceiling meets none."""
        judged = value if self.of == "value" else ratio
        if judged is None:
            return False
        low = self.at_least is None or judged >= self.at_least
        return low and (self.at_most is None or judged <= self.at_most)

    @property
    def text(self) -> str:
        """As the table shows it."""
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:.3g} of the ceiling" if self.of == "ratio" else f"{sign} {bound:g}"


class Round(msgspec.Struct, frozen=True):
    """One measurement and the ceiling that was measured right beside it."""

    value: float
    ceiling: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value in ceilings."""
        return self.value / self.ceiling if self.ceiling else None


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: medians over the rounds, and how far the ratios lay apart."""

    family: str
    name: str
    unit: str
    aof: bool
    value: float
    ceiling: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    target: str
    met: bool | None
    rounds_met: int | None
    """In how many rounds the target was reached: less than all of them means that the median alone decides."""
    note: str
    rounds: list[Round]


def figure(
    family: str,
    name: str,
    *,
    unit: str,
    aof: bool,
    rounds: Sequence[Round],
    target: Target | None = None,
    note: str = "",
) -> Figure:
    """Sums rounds up. Medians, because a machine that others use too spoils single rounds."""
    value = statistics.median(one.value for one in rounds)
    ceilings = [one.ceiling for one in rounds if one.ceiling is not None]
    ratios = [one.ratio for one in rounds if one.ratio is not None]
    ratio = statistics.median(ratios) if ratios else None
    return Figure(
        family=family,
        name=name,
        unit=unit,
        aof=aof,
        value=value,
        ceiling=statistics.median(ceilings) if ceilings else None,
        ratio=ratio,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        target=target.text if target else "",
        met=target.is_met(value=value, ratio=ratio) if target else None,
        rounds_met=sum(target.is_met(value=one.value, ratio=one.ratio) for one in rounds) if target else None,
        note=note,
        rounds=list(rounds),
    )


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what it was measured."""

    date: str
    cpu: str
    cores: int
    load_before: float
    system: str
    python: str
    loop: str
    server: str
    packages: dict[str, str]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    machine: Machine
    quick: bool
    took_s: float
    figures: list[Figure]
