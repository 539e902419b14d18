"""Dead letters from a shell: sent back at once, or by a move task that goes on by itself."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

import anyio
from cyclopts import Parameter

from broker import Broker, Function, Queue
from broker.errors import InvalidOption, PenstockError, StoreError
from broker.invocation_records import iso_timestamp
from broker.mover import Mover
from broker.moves import MoveTask
from broker.queues import QueueClient
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, counted
from runtime.cli.serving import first_error
from runtime.logs import configure_logs

_LOOK_S: Final = 0.2
_ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


async def redrive(
    queue: str,
    /,
    *,
    to: Annotated[str | None, Parameter(help="Queue to send them to, instead of where each came from.")] = None,
    to_function: Annotated[str | None, Parameter(help="Function to send them to instead.")] = None,
    count: Annotated[int | None, Parameter(help="At most so many; all if left out.")] = None,
    rate: Annotated[int | None, Parameter(help="By a move task, with at most so many a second: 1 to 500.")] = None,
    detach: Annotated[
        bool, Parameter(negative=(), show_default=False, help="By a move task; print its handle and do not wait.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Send the dead letters of a queue back to where each came from, with fresh counters.

    One whose source is not known, or is gone, stays. A move task takes what is
    there when it starts, and outlives this command: with --detach a worker or a
    gateway must run to do the work. `penstock moves` shows and cancels it.
    """
    if to is not None and to_function is not None:
        raise InvalidOption("to-function", to_function, "give one of --to and --to-function")
    target = Queue(to) if to is not None else Function(to_function) if to_function is not None else None
    output = common.output
    async with Broker(common.url) as broker:
        source = broker.queue(queue)
        if rate is None and not detach:
            moved = await source.redrive(to=target, count=count)
            left = (await source.counts()).total
            document = {"queue": queue, "redriven": moved, "left": left}
            output.answer(document, f'{counted(moved, "message")} sent back, {left} left in queue "{queue}"')
            return 0
        if count is not None:
            raise InvalidOption("count", count, "goes without --rate and --detach: a move task takes all there are")
        task = await source.start_move(to=target, rate=rate)
        if detach:
            output.answer(_described(task), task.handle)
            return 0
        return await _follow(broker, source, task, output=output)


async def moves(
    queue: str,
    /,
    *,
    cancel: Annotated[
        str | None, Parameter(metavar="HANDLE", help="End this task; what it has moved stays moved.")
    ] = None,
    count: Annotated[int, Parameter(help="At most so many, 1 to 10, newest first.")] = 10,
    common: Common = COMMON,
) -> None:
    """Show the move tasks of a queue: the one that runs, and those that ended last.

    With --json each has its handle. A task that is cancelled is CANCELLING until
    whoever runs it has stopped.
    """
    output = common.output
    async with Broker(common.url) as broker:
        source = broker.queue(queue)
        if cancel is not None:
            ended = await source.cancel_move(cancel)
            output.answer(_described(ended), f"{ended.status}; {counted(ended.moved, 'message')} moved before")
            return
        found = await source.moves(count)
    if common.json:
        for task in found:
            output.emit(_described(task))
        return
    if not found:
        output.note(f'no move task has run on queue "{queue}"; `penstock redrive {queue} --rate 10` starts one')
        return
    columns = ("started", "status", "moved", "of", "a second", "to", "handle")
    output.table(columns, [_row(task) for task in found], left=("started", "status", "to", "handle"))


def _row(task: MoveTask) -> tuple[object, ...]:
    status = f"{task.status}: {task.failure_reason}" if task.failure_reason else task.status
    to = task.destination.name if task.destination else "their sources"
    handle = None if task.status in _ENDED else task.handle
    return (iso_timestamp(task.started_ms), status, task.moved, task.to_move, task.max_per_s, to, handle)


def _described(task: MoveTask) -> dict[str, object]:
    return {
        "handle": task.handle,
        "queue": task.source.name,
        "status": task.status,
        "to": task.destination.arn if task.destination else None,
        "rate": task.max_per_s,
        "moved": task.moved,
        "to_move": task.to_move,
        "started_ms": task.started_ms,
        "failure_reason": task.failure_reason or None,
    }


async def _follow(broker: Broker, source: QueueClient, task: MoveTask, *, output: Output) -> int:
    """Does the work, unless a worker or a gateway does, and shows how far it is; answers the exit status."""
    configure_logs(level="error")  # the mover's own lines would say again what the answer says
    try:
        ended = await _done(broker, source, task, shown=not output.as_json and sys.stderr.isatty())
    except (asyncio.CancelledError, StoreError):
        output.note(f"the move goes on where a worker or gateway runs; its end: {_how_to_cancel(task)}")
        raise
    left = (await source.counts()).total
    text = f'{counted(ended.moved, "message")} sent back, {left} left in queue "{source.name}"'
    output.answer({**_described(ended), "left": left}, text)
    if ended.status == "COMPLETED":
        return 0
    output.note(f"penstock: the move ended as {ended.status} {ended.failure_reason}".rstrip())
    return 1


async def _done(broker: Broker, source: QueueClient, task: MoveTask, *, shown: bool) -> MoveTask:
    ended = task
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_work, broker, source, name="move")
            ended = await _watched(source, task, shown=shown)
            group.cancel_scope.cancel()
    except* PenstockError as errors:
        raise first_error(errors) from None
    return ended


def _how_to_cancel(task: MoveTask) -> str:
    return f"`penstock moves {task.source.name} --cancel {task.handle}`"


async def _work(broker: Broker, source: QueueClient) -> None:
    mover = Mover(broker.core, broker.deliver, source.resource)
    while True:
        await mover.run()
        await anyio.sleep(_LOOK_S)


async def _watched(source: QueueClient, task: MoveTask, *, shown: bool) -> MoveTask:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
        bar = progress.add_task("moving", total=task.to_move)
        while True:
            now = next((each for each in await source.moves() if each.handle == task.handle), task)
            progress.update(bar, completed=now.moved)
            if now.status in _ENDED:
                return now
            await anyio.sleep(_LOOK_S)
