"""Doctor: one line a matter, the worst one decides about the exit status."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter

from broker.core import Core
from broker.doctor.checkup import Checkup
from broker.doctor.findings import Finding, Severity, worst
from broker.records import check_range
from broker.settings import Settings, find_redis
from broker.store.connection import server_at
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, counted

_STATUS: Final[dict[Severity, int]] = {"ok": 0, "note": 0, "warning": 3, "error": 4}
_MARKS: Final[dict[Severity, str]] = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "error": "ERROR  "}
_SERVER: Final = server_at("")


async def doctor(
    *,
    watch: Annotated[float, Parameter(help="Seconds between two looks, to see what grows.")] = 2.0,
    repair: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Give a place again to messages that are in no set.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Look at Redis, its settings, and all queues, functions and mappings.

    One line a matter, with what to do. Nothing is changed without --repair.
    Exit status 0 where all is well, 3 where there are warnings, 4 where there
    are errors, 1 where Redis cannot be asked. With --json one object a line.
    """
    check_range("watch", watch, 0, 3600)
    core = Core(find_redis(common.url), Settings.from_environment())
    found: list[Finding] = []
    server = ""
    try:
        async for finding in Checkup(core, watch_s=watch, progress=common.output.note, repair=repair).run():
            found.append(finding)
            server = _show(common.output, finding, after=server)
    finally:
        await core.close()
    severity = worst(found)
    counts = {name: sum(finding.severity == name for finding in found) for name in ("error", "warning", "note", "ok")}
    common.output.note(
        ", ".join(f"{number} ok" if name == "ok" else counted(number, name) for name, number in counts.items())
    )
    return _STATUS[severity]


def _show(output: Output, finding: Finding, *, after: str) -> str:
    """Names a server once, above all that is said of it: its address on each line would push what matters out of sight.
    Answers whose lines these are."""
    server = finding.subject if finding.subject.startswith(_SERVER) else ""
    heading = f"{server}\n" if server not in {"", after} else ""
    subject = "" if server else f"{finding.subject}: "
    text = f"{heading}{_MARKS[finding.severity]} {finding.check}: {subject}{finding.text}"
    output.answer(finding, f"{text}\n          -> {finding.advice}" if finding.advice else text)
    return server
