"""Versions and aliases from a shell: publishing one, naming one; how `penstock functions` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from broker import Broker
from broker.builds import Alias, Catalogue
from broker.errors import InvalidOption
from broker.names import SPARE
from broker.versions import read_catalogue
from broker.workers import Serves
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output


async def publish(
    function: str,
    /,
    *,
    description: Annotated[str | None, Parameter(help="What to say of it; else the function's own.")] = None,
    common: Common = COMMON,
) -> None:
    """Publish the registered build of a function as a numbered version.

    The worker's build must have a name: penstock runtime --build NAME. When
    nothing has changed since the newest version, that one is the answer.
    """
    async with Broker(common.url) as broker:
        made = await broker.function(function).publish(description=description)
    name = f"{function}:{made.number}"
    answer = {"function": function, "version": made.number, "build": made.build}
    common.output.answer(answer, f"{name} is the build {made.build}")


async def alias(
    function: str,
    name: str,
    version: str,
    /,
    *,
    weight: Annotated[
        str | None, Parameter(help="VERSION=SHARE: one more version, and its share of the calls.")
    ] = None,
    description: Annotated[str | None, Parameter(help="What to say of it; else what was said before.")] = None,
    common: Common = COMMON,
) -> None:
    """Let an alias of a function name a version, perhaps with a share for another.

    VERSION is a number or $LATEST. What waits for the alias runs as the version
    that it names by then. `penstock delete function FUNCTION:NAME` removes it.
    """
    weights = None if weight is None else dict([_weight(weight)])
    async with Broker(common.url) as broker:
        made = await broker.function(function).set_alias(name, version, weights=weights, description=description)
    common.output.answer(
        {"function": function, "alias": name, "version": made.version, "weights": made.weights},
        f"{function}:{name} is {_names(made)}",
    )


def _weight(text: str) -> tuple[str, float]:
    version, equals, share = text.partition("=")
    try:
        if not (equals and version.isdecimal()):
            raise ValueError
        return version, float(share)
    except ValueError:
        raise InvalidOption("--weight", text, "must be VERSION=SHARE, as 3=0.1") from None


def _names(alias: Alias) -> str:
    shares = "".join(f", {share:.0%} version {version}" for version, share in alias.weights.items())
    return f"version {alias.version}{shares}"


async def described_versions(broker: Broker, function: str, live: Sequence[Serves]) -> list[dict[str, Any]]:
    """What there is of a function besides itself, each with its queued events and live workers."""
    catalogue = await read_catalogue(broker.core, function)
    return [
        {
            "name": f"{function}:{qualifier}",
            "is": is_,
            "build": build,
            "queued": await _queued(broker, f"{function}:{qualifier}"),
            "live_workers": sum(f"{function}:{qualifier}" in worker.functions and not worker.alone for worker in live),
        }
        for qualifier, is_, build in _rows(catalogue)
    ]


def _rows(catalogue: Catalogue) -> list[tuple[str, str, str | None]]:
    numbers = sorted(catalogue.versions.values(), key=lambda version: version.number)
    rows: list[tuple[str, str, str | None]] = [
        (each.qualifier, f"version {each.number}", each.build) for each in numbers
    ]
    for name in sorted(catalogue.aliases):
        found = catalogue.aliases[name]
        rows.append((name, _names(found), catalogue.build_of(found.version, "")))
    return rows


async def _queued(broker: Broker, name: str) -> int:
    """All events, running ones too; of an alias those of both its versions."""
    total = 0
    for each in (name, f"{name}{SPARE}"):
        counts = await broker.core.messages.counts(broker.core.resource("function", each))
        total += 0 if counts is None else counts.total
    return total


def print_versions(output: Output, found: list[dict[str, Any]]) -> None:
    """The table of them."""
    columns = ("version or alias", "is", "build", "events", "workers")
    rows = [(each["name"], each["is"], each["build"], each["queued"], each["live_workers"]) for each in found]
    output.table(columns, rows, left=("version or alias", "is", "build"), below=True)
