"""Queues from a shell: list, create, configure, receive."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, TypeAlias

import anyio
from cyclopts import Parameter

from broker import Broker, Message, NotFound, Queue
from broker.errors import InvalidOption
from broker.invocation_records import iso_timestamp
from broker.message_attributes import Attribute
from broker.names import Resource
from broker.partitions import counters
from broker.queue_settings import describe_queue
from broker.queues import RedriveFrom as RedriveSources
from broker.records import DeduplicationScope, QueueSettings, ThroughputLimit
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output, builtin, duration
from runtime.cli.payloads import parse_tags

_AT_ONCE: Final = 16
_NONE: Final = "none"
_ALL: Final = "all"

Scope: TypeAlias = Annotated[
    DeduplicationScope | None,
    Parameter(help="FIFO: repeats are found in the whole queue, or in each group.", show_choices=True),
]
Limit: TypeAlias = Annotated[
    ThroughputLimit | None,
    Parameter(help="FIFO: kept for clients of SQS; needs --deduplication-scope messageGroup.", show_choices=True),
]
RedriveFrom: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        negative=(),
        show_default=False,
        help="Only this queue may have it as dead-letter queue; may be repeated. none: nobody; all: everybody.",
    ),
]
Durable: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="What a send must reach before it is answered: memory, everysec, fsync, replica:N, replica-fsync:N."
    ),
]
Tags: TypeAlias = Annotated[
    tuple[str, ...], Parameter(negative=(), show_default=False, help="KEY=VALUE; may be repeated.")
]


# -- list -------------------------------------------------------------------------------------------------------------


async def queues(name: str | None = None, /, *, common: Common = COMMON) -> None:
    """Show all queues, or one: what is visible, in flight, retrying, delayed.

    The age is that of the oldest message that nobody has received yet. The
    kind, where there are FIFO queues, says by what they know a repeat. The
    durability, where a queue requires one, is that, and what Redis gives. With
    --json one object a queue, with its settings and counters.
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
    columns = ["queue", "visible", "in flight", "retrying", "delayed", "oldest", "dead-letter queue"]
    rows = [_row(queue) for queue in found]
    if any(queue["settings"]["fifo"] for queue in found):
        columns.append("kind")
        rows = [(*row, _kind(queue["settings"])) for row, queue in zip(rows, found, strict=True)]
    if any(queue["settings"]["durability"] for queue in found):
        columns.append("durability")
        rows = [(*row, _durability(queue)) for row, queue in zip(rows, found, strict=True)]
    common.output.table(columns, rows, left=("queue", "dead-letter queue", "kind", "durability"))


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
    counts, found = await queue.counts(), await describe_queue(broker.core, queue.resource)
    counted = await counters(broker.core, queue.resource, found.counters)
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
        "durability_in_force": await broker.durability(),
        "counters": counted,
        "settings": builtin(found.settings),
    }


def _row(queue: dict[str, Any]) -> tuple[object, ...]:
    settings = queue["settings"]
    dead_letter = f"{settings['dead_letter']} after {settings['max_receives']}" if settings["dead_letter"] else None
    counts = (queue[column] for column in ("visible", "in_flight", "retrying", "delayed"))
    return (queue["queue"], *counts, duration(queue["oldest_age_s"]), dead_letter)


def _durability(queue: dict[str, Any]) -> str | None:
    """What is required, and what Redis's settings give where that is something else."""
    required, in_force = queue["settings"]["durability"], queue["durability_in_force"] or "unknown"
    return f"{required} (Redis: {in_force})" if required and required != in_force else required or None


def _kind(settings: dict[str, Any]) -> str:
    if not settings["fifo"]:
        return "standard"
    repeats = "content" if settings["content_deduplication"] else "id"
    where = ", each group" if settings["deduplication_scope"] == "messageGroup" else ""
    return f"FIFO by {repeats}{where}"


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
    content_deduplication: Annotated[
        bool, Parameter(negative=(), show_default=False, help="FIFO: a repeat is what has the same body.")
    ] = False,
    deduplication_scope: Scope = None,
    throughput_limit: Limit = None,
    redrive_from: RedriveFrom = (),
    durability: Durable = None,
    tag: Tags = (),
    partitions: Annotated[int, Parameter(help="Over how many cluster slots it is spread.")] = 1,
    common: Common = COMMON,
) -> None:
    """Create a queue, and its dead-letter queue where that is missing.

    It is a FIFO queue when its name ends in .fifo. A second time with the same
    settings changes nothing; with others it is an error, and `penstock
    configure` changes them.
    """
    defaults = QueueSettings()
    allowed, tags = _allowed(redrive_from), parse_tags(tag)
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
            content_deduplication=content_deduplication,
            deduplication_scope=deduplication_scope or defaults.deduplication_scope,
            throughput_limit=throughput_limit or defaults.throughput_limit,
            redrive_from=allowed,
            durability=_level(durability),
            tags=tags,
            partitions=partitions,
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
    content_deduplication: Annotated[
        bool | None, Parameter(show_default=False, help="FIFO: a repeat is what has the same body.")
    ] = None,
    deduplication_scope: Scope = None,
    throughput_limit: Limit = None,
    redrive_from: RedriveFrom = (),
    durability: Durable = None,
    tag: Tags = (),
    partitions: Annotated[int | None, Parameter(help="More than there are; never fewer.")] = None,
    common: Common = COMMON,
) -> None:
    """Change the given settings of a queue; the others stay.

    With --redrive-from, and with --tag, what is given takes the place of all
    that was there; --tag none takes all tags away.
    """
    allowed = _allowed(redrive_from)
    tags = {} if tag == (_NONE,) else parse_tags(tag) or None
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
            content_deduplication=content_deduplication,
            deduplication_scope=deduplication_scope,
            throughput_limit=throughput_limit,
            redrive_from=allowed,
            durability=_level(durability),
            tags=tags,
            partitions=partitions,
        )
        settings = await target.settings()
    shown = ", ".join(f"{name} {value}" for name, value in _set(settings).items())
    common.output.answer({"queue": queue, "settings": builtin(settings)}, f'queue "{queue}": {shown}')


def _allowed(names: tuple[str, ...]) -> RedriveSources | None:
    """Who may redrive to a queue; None where nothing was said. Raises InvalidOption."""
    if not names:
        return None
    for word in (_NONE, _ALL):
        if word in names and len(names) > 1:
            raise InvalidOption("redrive-from", " ".join(names), f"{word} goes alone")
    if names == (_ALL,):
        return "all"
    return [] if names == (_NONE,) else [Queue(name) for name in names]


def _level(word: str | None) -> str | None:
    """``none`` requires nothing; None where nothing was said."""
    return "" if word == _NONE else word


def _set(settings: QueueSettings) -> dict[str, object]:
    """The settings that a person wants to see: those that every queue has, and the others where they were set."""
    usual = builtin(QueueSettings(fifo=settings.fifo))
    found = builtin(settings)
    found["redrive_sources"] = " ".join(Resource.from_arn(arn).name for arn in settings.redrive_sources)
    found["tags"] = " ".join(f"{key}={value}" for key, value in settings.tags.items())
    plain = ("visibility_timeout_s", "delay_s", "retention_s", "max_message_bytes", "receive_wait_s")
    return {name: value for name, value in found.items() if name in plain or (value and value != usual[name])}


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
    attempt: Annotated[
        str | None, Parameter(help="FIFO: the same word within five minutes gives the same messages again.")
    ] = None,
    delete: Annotated[bool, Parameter(negative=(), show_default=False, help="Delete each once it is printed.")] = False,
    peek: Annotated[bool, Parameter(negative=(), show_default=False, help="Look only: nothing is received.")] = False,
    common: Common = COMMON,
) -> None:
    """Receive messages and print them.

    They are visible again after the timeout, unless --delete is given.
    Attributes are printed as `penstock send` takes them.
    """
    output = common.output
    if peek:
        _refuse_with_peek(wait=wait, visibility_timeout=visibility_timeout, attempt=attempt, delete=delete or None)
    async with Broker(common.url) as broker:
        source = broker.queue(queue)
        if peek:
            messages = await source.peek(count)
        else:
            messages = await source.receive(count, wait=wait, visibility_timeout=visibility_timeout, attempt=attempt)
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
            raise InvalidOption(option.replace("_", "-"), value, "goes with receiving, not with --peek")


def _show(output: Output, message: Message) -> None:
    typed = message.header.attributes
    document = {
        "id": message.id,
        "body": message.body,
        "attributes": {name: _readable(value) for name, value in message.attributes.items()},
        "types": {name: attribute.data_type for name, attribute in typed.items()},
        "receives": message.receives,
        "sent_ms": message.sent_ms,
        "source": message.source,
        "group": message.group,
        "deduplication_id": message.deduplication_id,
        "sequence_number": message.sequence_number,
    }
    facts = [message.id, f"sent {iso_timestamp(message.sent_ms)}", f"receives {message.receives}"]
    facts += [f"from {message.source}"] if message.source else []
    facts += [f"group {message.group}"] if message.group else []
    facts += [f"sequence {message.sequence_number}"] if message.sequence_number else []
    facts += [_as_sent(name, attribute) for name, attribute in typed.items()]
    output.answer(document, f"{'  '.join(facts)}\n{message.body}\n")


def _as_sent(name: str, attribute: Attribute) -> str:
    """An attribute as `penstock send --attribute` takes it."""
    value = _readable(attribute.data if attribute.binary else attribute.data.decode())
    sign = {"String": "=", "Number": ":="}.get(attribute.data_type, f":{attribute.data_type}=")
    return f"{name}{sign}{value}"


def _readable(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
