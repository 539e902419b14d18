"""Queues from a shell: list, create, configure, receive, redrive."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import anyio
from cyclopts import Parameter

from broker import Broker, Function, Message, NotFound, Queue
from broker.errors import InvalidOption
from broker.invocation_records import iso_timestamp
from broker.records import QueueSettings
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, builtin, counted, duration

_AT_ONCE = 16


# -- list -------------------------------------------------------------------------------------------------------------


async def queues(name: str | None = None, /, *, common: Common = COMMON) -> None:
    """Show all queues, or one: what is visible, in flight, retrying, delayed.

    The age is that of the oldest message that nobody has received yet. With
    --json one object a queue, with its settings.
    """
    async with Broker(common.url) as broker:
        names = await broker.queues() if name is None else [name]
        found = await _in_order(broker, names, must_exist=name is not None)
    if common.json:
        for queue in found:
            common.output.emit(queue)
        return
    if not found:
        common.output.note("there are no queues; `penstock create NAME` makes one")
        return
    columns = ("queue", "visible", "in flight", "retrying", "delayed", "oldest", "dead-letter queue")
    common.output.table(columns, [_row(queue) for queue in found], left=("queue", "dead-letter queue"))


async def _in_order(broker: Broker, names: list[str], *, must_exist: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)
    now_ms = await broker.core.messages.now_ms()

    async def look(name: str) -> None:
        async with limiter:
            try:
                found[name] = await _described(broker, name, now_ms)
            except NotFound:  # deleted since it was listed
                return

    if must_exist:
        return [await _described(broker, names[0], now_ms)]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(look, name, name=f"look at queue {name}")
    return [found[name] for name in names if name in found]


async def _described(broker: Broker, name: str, now_ms: int) -> dict[str, Any]:
    queue = broker.queue(name)
    counts, settings = await queue.counts(), await queue.settings()
    oldest_s = None if counts.oldest_ms is None else max(0, now_ms - counts.oldest_ms) / 1000
    return {
        "queue": name,
        "visible": counts.visible,
        "in_flight": counts.in_flight,
        "retrying": counts.retrying,
        "delayed": counts.delayed,
        "set_apart": counts.set_apart,
        "sending_on": counts.outbox,
        "oldest_age_s": oldest_s,
        "settings": builtin(settings),
    }


def _row(queue: dict[str, Any]) -> tuple[object, ...]:
    settings = queue["settings"]
    dead_letter = f"{settings['dead_letter']} after {settings['max_receives']}" if settings["dead_letter"] else None
    counts = (queue[column] for column in ("visible", "in_flight", "retrying", "delayed"))
    return (queue["queue"], *counts, duration(queue["oldest_age_s"]), dead_letter)


# -- create, configure ------------------------------------------------------------------------------------------------


async def create(
    queue: str,
    /,
    *,
    visibility_timeout: Annotated[float | None, Parameter(help="Seconds hidden after a receive; 30.")] = None,
    delay: Annotated[float | None, Parameter(help="Seconds until a message can be received; 0.")] = None,
    retention: Annotated[float | None, Parameter(help="Seconds that messages are kept; 345600, four days.")] = None,
    max_message_bytes: Annotated[int | None, Parameter(help="Largest message; 1048576.")] = None,
    receive_wait: Annotated[float | None, Parameter(help="Seconds that a receive waits; 0.")] = None,
    dead_letter: Annotated[str | None, Parameter(help="Queue for what was received too often.")] = None,
    max_receives: Annotated[int | None, Parameter(help="Receives before a message goes there.")] = None,
    common: Common = COMMON,
) -> None:
    """Create a queue, and its dead-letter queue where that is missing.

    A second time with the same settings changes nothing; with others it is an
    error, and `penstock configure` changes them.
    """
    defaults = QueueSettings()
    async with Broker(common.url) as broker:
        target = broker.queue(queue)
        await target.create(
            visibility_timeout=_or(visibility_timeout, defaults.visibility_timeout_s),
            delay=_or(delay, defaults.delay_s),
            retention=_or(retention, defaults.retention_s),
            max_message_bytes=defaults.max_message_bytes if max_message_bytes is None else max_message_bytes,
            receive_wait=_or(receive_wait, defaults.receive_wait_s),
            dead_letter=None if dead_letter is None else Queue(dead_letter),
            max_receives=max_receives,
        )
        settings = await target.settings()
    common.output.answer({"queue": queue, "settings": builtin(settings)}, f'queue "{queue}" is there')


async def configure(
    queue: str,
    /,
    *,
    visibility_timeout: Annotated[float | None, Parameter(help="Seconds hidden after a receive.")] = None,
    delay: Annotated[float | None, Parameter(help="Seconds until a message can be received.")] = None,
    retention: Annotated[float | None, Parameter(help="Seconds that messages are kept.")] = None,
    max_message_bytes: Annotated[int | None, Parameter(help="Largest message.")] = None,
    receive_wait: Annotated[float | None, Parameter(help="Seconds that a receive waits.")] = None,
    dead_letter: Annotated[str | None, Parameter(help="Queue for what was received too often.")] = None,
    max_receives: Annotated[int | None, Parameter(help="Receives before a message goes there.")] = None,
    remove_dead_letter: Annotated[
        bool, Parameter(negative=(), show_default=False, help="No dead-letter queue any more.")
    ] = False,
    common: Common = COMMON,
) -> None:
    """Change the given settings of a queue; the others stay."""
    async with Broker(common.url) as broker:
        target = broker.queue(queue)
        await target.configure(
            visibility_timeout=visibility_timeout,
            delay=delay,
            retention=retention,
            max_message_bytes=max_message_bytes,
            receive_wait=receive_wait,
            dead_letter=None if dead_letter is None else Queue(dead_letter),
            max_receives=max_receives,
            remove_dead_letter=remove_dead_letter,
        )
        settings = await target.settings()
    shown = ", ".join(f"{name} {value}" for name, value in builtin(settings).items() if value is not None)
    common.output.answer({"queue": queue, "settings": builtin(settings)}, f'queue "{queue}": {shown}')


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


# -- receive ----------------------------------------------------------------------------------------------------------


async def receive(
    queue: str,
    /,
    *,
    count: Annotated[int, Parameter(help="At most so many messages.")] = 1,
    wait: Annotated[float | None, Parameter(help="Seconds to wait for the first; the queue's own if left out.")] = None,
    visibility_timeout: Annotated[
        float | None, Parameter(help="Seconds that they are hidden from others; the queue's own if left out.")
    ] = None,
    delete: Annotated[bool, Parameter(negative=(), show_default=False, help="Delete each once it is printed.")] = False,
    peek: Annotated[bool, Parameter(negative=(), show_default=False, help="Look only: nothing is received.")] = False,
    common: Common = COMMON,
) -> None:
    """Receive messages and print them.

    They are visible again after the timeout, unless --delete is given.
    """
    output = common.output
    if peek:
        _refuse_with_peek(wait=wait, visibility_timeout=visibility_timeout, delete=delete or None)
    async with Broker(common.url) as broker:
        source = broker.queue(queue)
        if peek:
            messages = await source.peek(count)
        else:
            messages = await source.receive(count, wait=wait, visibility_timeout=visibility_timeout)
        for message in messages:
            _show(output, message)
            if delete:
                await message.delete()
        if not messages:
            output.note(f'no message in queue "{queue}"')
        elif not peek and not delete:
            settings = await source.settings()
            seconds = settings.visibility_timeout_s if visibility_timeout is None else visibility_timeout
            output.note(f"received {len(messages)}; visible again in {seconds:g} s, as --delete was not given")


def _refuse_with_peek(**given: object) -> None:
    for option, value in given.items():
        if value is not None:
            raise InvalidOption(option, value, "goes with receiving, not with --peek")


def _show(output: Output, message: Message) -> None:
    attributes = {name: _readable(value) for name, value in message.attributes.items()}
    document = {
        "id": message.id,
        "body": message.body,
        "attributes": attributes,
        "receives": message.receives,
        "sent_ms": message.sent_ms,
        "source": message.source,
    }
    facts = [message.id, f"sent {iso_timestamp(message.sent_ms)}", f"receives {message.receives}"]
    facts += [f"from {message.source}"] if message.source else []
    facts += [f"{name}={value}" for name, value in attributes.items()]
    output.answer(document, f"{'  '.join(facts)}\n{message.body}\n")


def _readable(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


# -- redrive ----------------------------------------------------------------------------------------------------------


async def redrive(
    queue: str,
    /,
    *,
    to: Annotated[str | None, Parameter(help="Queue to send them to, instead of where each came from.")] = None,
    to_function: Annotated[str | None, Parameter(help="Function to send them to instead.")] = None,
    count: Annotated[int | None, Parameter(help="At most so many; all if left out.")] = None,
    common: Common = COMMON,
) -> None:
    """Send the dead letters of a queue back to where each came from, with fresh counters.

    One whose source is not known, or is gone, stays.
    """
    if to is not None and to_function is not None:
        raise InvalidOption("to-function", to_function, "give one of --to and --to-function")
    target = Queue(to) if to is not None else Function(to_function) if to_function is not None else None
    async with Broker(common.url) as broker:
        source = broker.queue(queue)
        moved = await source.redrive(to=target, count=count)
        left = (await source.counts()).total
    document = {"queue": queue, "redriven": moved, "left": left}
    common.output.answer(document, f'{counted(moved, "message")} sent back, {left} left in queue "{queue}"')
