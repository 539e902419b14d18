"""What goes in: events for functions, messages for queues, one or many."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from broker import Broker, FunctionError
from broker.errors import InvalidInput, InvalidOption, StoreError
from broker.limits import MAX_ASYNC_EVENT_BYTES
from broker.outgoing import event_json, queue_message
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, counted, error_object
from runtime.cli.payloads import as_text, parse_attributes, read_lines, read_payload, read_text

_LINES_A_STEP: Final = 1_000


async def invoke(
    function: str,
    payload: str,
    /,
    *,
    id: Annotated[str | None, Parameter(help="Your own id: repeated within five minutes it counts once.")] = None,  # noqa: A002
    lines: Annotated[
        bool, Parameter(negative=(), show_default=False, help="The payload is many events, one JSON text a line.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Store an event for a function, to run asynchronously; print its request id.

    PAYLOAD is JSON, @FILE, or - for standard input. With --lines all lines are
    checked before the first is stored.
    """
    if lines:
        _refuse_with_lines(id=id)
        events = [(number, _checked_event(function, number, line)) for number, line in read_lines(payload)]
        async with Broker(common.url) as broker:
            await _send_lines(
                common.output, f'for function "{function}"', "request", events, _invoker(broker, function)
            )
        return
    event = read_payload(payload)
    async with Broker(common.url) as broker:
        request_id = await broker.invoke(function, event, id=id)
    common.output.answer({"request_id": request_id}, request_id)


async def call(
    function: str,
    payload: str,
    /,
    *,
    timeout: Annotated[float, Parameter(help="Seconds to wait for the answer.")] = 60.0,
    stream: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print what the function yields as it comes.")
    ] = False,
    common: Common = COMMON,
) -> int:
    """Run a function on a live worker and print its result as JSON; never tried again.

    PAYLOAD is JSON, @FILE, or - for standard input. When the function fails,
    Lambda's error object is printed instead, and the exit status is 1. With
    --stream the output is the chunks as they are, and what goes wrong is told
    on standard error.
    """
    event = read_payload(payload)
    output = common.output
    if stream:
        from runtime.cli.chunks import print_chunks

        return await print_chunks(common, function, event, timeout_s=timeout)
    async with Broker(common.url) as broker:
        try:
            result = await broker.call(function, event, timeout=timeout)
        except FunctionError as error:
            output.emit(error_object(error))
            output.note(f'penstock: function "{function}" failed: {error}')
            return 1
    output.emit(result)
    return 0


async def send(
    queue: str,
    body: str,
    /,
    *,
    delay: Annotated[
        float | None, Parameter(help="Seconds until it can be received; the queue's own if left out.")
    ] = None,
    attribute: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="NAME=TEXT, NAME:=NUMBER or NAME:TYPE=VALUE (base64 for Binary); may be repeated.",
        ),
    ] = (),
    id: Annotated[str | None, Parameter(help="Your own id: repeated within five minutes it counts once.")] = None,  # noqa: A002
    group: Annotated[
        str | None, Parameter(help="FIFO: what keeps its order, needed there. Standard: whose turn it is.")
    ] = None,
    deduplication_id: Annotated[
        str | None, Parameter(help="FIFO: repeated within five minutes it counts once.")
    ] = None,
    lines: Annotated[
        bool, Parameter(negative=(), show_default=False, help="The body is many messages, one a line.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Send a message to a queue; print its id.

    BODY is text, @FILE, or - for standard input, and is stored as it is. With
    --lines all lines are checked before the first is stored.
    """
    if lines:
        _refuse_with_lines(id=id, attribute=attribute or None, deduplication_id=deduplication_id)
        bodies = [(number, _checked_body(queue, number, line, group)) for number, line in read_lines(body)]
        async with Broker(common.url) as broker:
            target = broker.queue(queue)

            async def store(some: Sequence[str]) -> list[str]:
                return await target.send_many(some, delay=delay, group=group)

            await _send_lines(common.output, f'for queue "{queue}"', "message", bodies, store)
        return
    text, attributes = read_text(body), parse_attributes(attribute)
    async with Broker(common.url) as broker:
        message_id = await broker.queue(queue).send(
            text, delay=delay, attributes=attributes, id=id, group=group, deduplication_id=deduplication_id
        )
    common.output.answer({"message_id": message_id}, message_id)


# -- many -------------------------------------------------------------------------------------------------------------


def _refuse_with_lines(**given: object) -> None:
    for option, value in given.items():
        if value is not None:
            raise InvalidOption(option.replace("_", "-"), value, "is for one, not for --lines")


def _checked_event(function: str, number: int, line: bytes) -> bytes:
    return event_json(f'event in line {number} for function "{function}"', line, limit_bytes=MAX_ASYNC_EVENT_BYTES)


def _checked_body(queue: str, number: int, line: bytes, group: str | None) -> str:
    text = as_text(f"line {number}", line)
    try:
        queue_message(queue, text, group=group)
    except InvalidInput as error:
        raise InvalidInput(f"line {number}: {error}") from error
    return text


def _invoker(broker: Broker, function: str) -> Callable[[Sequence[bytes]], Awaitable[list[str]]]:
    async def store(some: Sequence[bytes]) -> list[str]:
        return await broker.invoke_many(function, some)

    return store


async def _send_lines(
    output: Output,
    where: str,
    noun: str,
    numbered: list[tuple[int, Any]],
    store: Callable[[Sequence[Any]], Awaitable[list[str]]],
) -> None:
    """Stores in steps behind a progress bar; when a step fails, says what had been stored before."""
    from rich.console import Console
    from rich.progress import Progress

    stored = 0
    shown = not output.as_json and sys.stderr.isatty()
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as progress:
            task = progress.add_task("storing", total=len(numbered))
            for start in range(0, len(numbered), _LINES_A_STEP):
                step = numbered[start : start + _LINES_A_STEP]
                ids = await store([item for _, item in step])
                stored += len(ids)
                progress.update(task, completed=stored)
                if output.as_json:
                    for (number, _), new_id in zip(step, ids, strict=True):
                        output.emit({"line": number, f"{noun}_id": new_id})
    except StoreError:
        last = numbered[stored - 1][0] if stored else 0
        total = counted(len(numbered), "line")
        output.note(f"penstock: {stored} of {total} {where} are stored for certain: those up to line {last}")
        raise
    if not output.as_json:
        output.answer(None, f"{counted(stored, 'line')} stored {where}")
