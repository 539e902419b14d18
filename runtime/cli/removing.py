"""What throws something away: delete and purge. On a terminal they ask first; elsewhere they need --yes."""

from __future__ import annotations

import sys
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from broker import Broker
from broker.errors import PenstockError
from broker.mappings import delete_mapping
from broker.workers import live_workers
from runtime.cli.options import COMMON, Common
from runtime.cli.output import counted

Deletable: TypeAlias = Literal["queue", "function", "stream", "mapping"]
Purgeable: TypeAlias = Literal["queue", "function"]
Yes: TypeAlias = Annotated[
    bool, Parameter(negative=(), show_default=False, help="Do not ask; needed without a terminal.")
]


class NotConfirmed(PenstockError):
    """Something would be thrown away, and nobody said yes."""

    code = "NotConfirmed"


async def delete(
    kind: Deletable,
    name: str,
    /,
    *,
    force: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Also with messages in it, which are lost.")
    ] = False,
    yes: Yes = False,
    common: Common = COMMON,
) -> None:
    """Delete a queue, function, stream or mapping.

    A queue or function that still holds messages is refused without --force. A
    mapping's name is QUEUE->FUNCTION, in quotes.
    """
    async with Broker(common.url) as broker:
        held = await _held(broker, kind, name)
        serving = await _serving(broker, name) if kind == "function" else 0
        _confirm(f'delete {kind} "{name}"{_with(held, kind)}', yes=yes, common=common)
        match kind:
            case "queue":
                await broker.queue(name).delete(force=force)
            case "function":
                await broker.function(name).delete(force=force)
            case "stream":
                await broker.stream(name).delete()
            case "mapping":
                await delete_mapping(broker.core, name)
    common.output.answer({"deleted": kind, "name": name}, f'{kind} "{name}" is deleted')
    if serving:
        common.output.note(
            f"{counted(serving, 'live worker')} had it: one that starts with the same code registers it again"
        )


async def purge(kind: Purgeable, name: str, /, *, yes: Yes = False, common: Common = COMMON) -> None:
    """Throw away all that a queue or function holds, what is in flight too."""
    async with Broker(common.url) as broker:
        held = await _held(broker, kind, name)
        _confirm(f'purge {kind} "{name}"{_with(held, kind)}', yes=yes, common=common)
        purged = await (broker.queue(name) if kind == "queue" else broker.function(name)).purge()
    common.output.answer({"purged": purged, kind: name}, f'{purged} thrown away from {kind} "{name}"')


async def _held(broker: Broker, kind: Deletable, name: str) -> int:
    match kind:
        case "queue":
            return (await broker.queue(name).counts()).total
        case "function":
            return (await broker.function(name).counts()).total
        case "stream":
            return await broker.stream(name).length()
        case "mapping":
            return 0


async def _serving(broker: Broker, name: str) -> int:
    return sum(name in worker.functions and not worker.alone for worker in await live_workers(broker.core))


def _with(held: int, kind: Deletable) -> str:
    words = {"queue": "message", "function": "event", "stream": "record", "mapping": ""}
    return f" with {counted(held, words[kind])}" if held else ""


def _confirm(what: str, *, yes: bool, common: Common) -> None:
    if yes:
        return
    if common.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(f"to {what} cannot be undone, and there is no terminal to ask on: say --yes if you mean it")
    sys.stderr.write(f"{what[0].upper()}{what[1:]}? This cannot be undone. [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise NotConfirmed("nothing was done")
