"""What the doctor says: one line a matter, with what to do about it."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Severity: TypeAlias = Literal["ok", "note", "warning", "error"]
SEVERITIES: Final[tuple[Severity, ...]] = ("ok", "note", "warning", "error")


class Finding(msgspec.Struct, frozen=True):
    """One matter: what was looked at, how it is, and what to do (empty where there is nothing to do)."""

    severity: Severity
    check: str
    subject: str
    text: str
    advice: str = ""


def worst(findings: list[Finding]) -> Severity:
    """The severest of all; ``ok`` where there are none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")
