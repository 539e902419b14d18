"""Streams from a shell: list them, read one, follow one."""

from __future__ import annotations

from typing import Annotated, Final

import anyio
from cyclopts import Parameter

from broker import Broker
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output

_FOLLOW_EVERY_S: Final = 0.3
_PAGE: Final = 1_000


async def stream(
    name: str | None = None,
    /,
    *,
    after: Annotated[str, Parameter(help="Read behind this position; 0 is the beginning.")] = "0",
    count: Annotated[int | None, Parameter(help="At most so many records; 100, with --follow no limit.")] = None,
    follow: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Go on with what is appended, until Ctrl-C.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Print the records of a stream, oldest first; without a NAME, list the streams.

    Each record has a position, from which `--after` goes on.
    """
    async with Broker(common.url) as broker:
        if name is None:
            await _list(broker, common.output)
        else:
            await _read(broker, name, after, follow=follow, count=count, output=common.output)


async def _read(broker: Broker, name: str, after: str, *, follow: bool, count: int | None, output: Output) -> None:
    source = broker.stream(name)
    left = count if count is not None else None if follow else 100
    while left is None or left > 0:
        records = await source.read(after=after, count=_PAGE if left is None else min(left, _PAGE))
        for record in records:
            document = {"position": record.position, "id": record.id, "body": record.body}
            output.answer(document, f"{record.position}  {record.body}")
            after = record.position
        left = None if left is None else left - len(records)
        if not records:
            if not follow:
                return
            await anyio.sleep(_FOLLOW_EVERY_S)


async def _list(broker: Broker, output: Output) -> None:
    names = await broker.streams()
    lengths = [await broker.stream(name).length() for name in names]
    if output.as_json:
        for name, length in zip(names, lengths, strict=True):
            output.emit({"stream": name, "records": length})
    elif names:
        output.table(("stream", "records"), list(zip(names, lengths, strict=True)), left=("stream",))
    else:
        output.note("there are no streams; a function's destination makes one")
