"""Move tasks: all messages of a queue go back to where each came from, or to one target, while the program goes on.

A task is started, cancelled and looked at here; whatever process runs an upkeep does the moving (:mod:`broker.mover`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from typing import Final

import msgspec

from broker.core import Core
from broker.errors import FunctionNotFound, InvalidName, InvalidOption, MoveInProgress, MoveNotFound, QueueNotFound
from broker.ids import random_token
from broker.names import Resource
from broker.partitions import counts
from broker.records import QueueSettings, check_whole
from broker.store.moves import MoveState, MoveStatus

MAX_RATE_PER_S: Final = 500
MAX_LISTED: Final = 10
_LEAD_MS: Final = 10_000
_RUNS: Final = frozenset({"RUNNING", "CANCELLING"})
_READ_AT_ONCE: Final = 32


class MoveTask(msgspec.Struct, frozen=True, kw_only=True):
    """One move task as it is at this moment."""

    handle: str
    """Names it when it is to be cancelled."""
    source: Resource
    destination: Resource | None
    """None: each message goes back to where it came from."""
    max_per_s: int | None
    """None: as fast as it goes."""
    status: MoveStatus
    failure_reason: str
    """As SQS names it; '' where it did not fail."""
    moved: int
    to_move: int
    """Messages that were visible at the start."""
    started_ms: int
    """In milliseconds of Redis's clock."""


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task is to do, as it is stored."""

    destination: str | None = None
    max_per_s: int | None = None
    elsewhere: int = 0
    """What the other partitions of the source had counted as moved at the start."""
    newest_elsewhere_ms: int = 0


class _Handle(msgspec.Struct, frozen=True):
    taskId: str  # noqa: N815 - the names in SQS's own handles
    sourceArn: str  # noqa: N815


async def start_move(
    core: Core, source: Resource, *, destination: Resource | None = None, max_per_s: int | None = None
) -> MoveTask:
    """Starts moving the messages of a queue to ``destination``, or each back to where it came from.

    They get fresh counters and their retention begins anew. What is in flight elsewhere, or arrives after the start, is
    not waited for. A process with an upkeep (a worker, a gateway) does it; it goes on when that process dies. Raises
    MoveInProgress, QueueNotFound, FunctionNotFound, InvalidOption.
    """
    if max_per_s is not None:
        check_whole("rate", max_per_s, 1, MAX_RATE_PER_S)
    if source.kind != "queue":
        raise InvalidOption("source", source.arn, "must be a queue")
    if destination is not None:
        await _check_destination(core, source, destination)
    found = await counts(core, source, expire=True)
    if found is None:
        raise QueueNotFound(source.name)
    elsewhere, newest_ms = await core.moves.counted(core.splits.parts(source)[1:])
    details = Details(
        destination=destination.arn if destination else None,
        max_per_s=max_per_s,
        elsewhere=elsewhere,
        newest_elsewhere_ms=newest_ms,
    )
    task_id = uuid.uuid4().hex
    await core.moves.enlist(source, task_id)
    state = await core.moves.start(source, task_id, msgspec.json.encode(details), to_move=found.visible)
    if state == "unknown":
        raise QueueNotFound(source.name)
    if state == "busy":
        raise MoveInProgress(source.name)
    await core.moves.enlist(source, task_id)  # whoever saw it before its task began may have taken it from the list
    return await _task(core, source, state)


async def _check_destination(core: Core, source: Resource, destination: Resource) -> None:
    if destination.kind == "stream":
        raise InvalidOption("destination", destination.arn, "must be a queue or a function")
    if destination == source:
        raise InvalidOption("destination", destination.arn, "a queue cannot be moved to itself")
    if (destination.account, destination.region) != (source.account, source.region):
        raise InvalidOption("destination", destination.arn, "must be in the account and region of the source")
    if destination.kind == "queue" and destination.fifo != source.fifo:
        raise InvalidOption(
            "destination", destination.arn, "a FIFO queue moves to FIFO queues, others to standard ones"
        )
    if await core.directory.describe(destination) is None:
        raise (QueueNotFound if destination.kind == "queue" else FunctionNotFound)(destination.name)


async def cancel_move(core: Core, handle: str) -> MoveTask:
    """Ends a task; what it has moved stays moved. It is CANCELLING until whoever runs it has stopped.

    Raises InvalidOption for text that is no handle, MoveNotFound where that task does not run (any more).
    """
    task_id, source = _read_handle(handle)
    own = source.kind, source.account, source.region
    if own != ("queue", core.settings.account, core.settings.region):
        raise MoveNotFound(handle)
    state = await core.moves.cancel(source, task_id)
    if state is None:
        raise MoveNotFound(handle)
    owner = random_token()
    lead = await core.moves.lead(source, owner, lease_ms=_LEAD_MS)
    if lead.state is not None and lead.state.id == task_id:  # nobody runs it at the moment
        await end_move(core, source, owner, lead.state, status="CANCELLED")
    found = [each for each in await core.moves.all(source) or () if each.id == task_id]
    return await _task(core, source, found[0] if found else state)


async def end_move(
    core: Core, source: Resource, owner: str, state: MoveState, *, status: MoveStatus, reason: str = ""
) -> int | None:
    """Ends a task that this owner leads; answers how many it has moved, None where it was not this owner's to end.

    First it gives back what the task holds, so that nothing is counted later.
    """
    for part in await core.partitions.parts(source):
        await core.messages.release_claim(part, lease_token(state))
    elsewhere = await _moved_elsewhere(core, source, state)
    moved = await core.moves.end(source, owner, state.id, status=status, reason=reason, elsewhere=elsewhere)
    await core.moves.delist(source, state.id)
    return moved


def lease_token(state: MoveState) -> str:
    """Under which a task leases messages: the same whoever runs it, so that the next one can take them over."""
    return f"r{state.id}"


async def list_moves(core: Core, source: Resource, *, count: int = 1) -> list[MoveTask]:
    """The newest tasks of a queue, newest first: at most the one that runs and the ten that ended last.

    Raises QueueNotFound, InvalidOption.
    """
    check_whole("count", count, 1, MAX_LISTED)
    states = await core.moves.all(source)
    if states is None:
        raise QueueNotFound(source.name)
    return [await _task(core, source, state) for state in states[:count]]


async def dead_letter_sources(core: Core, queue: Resource) -> list[Resource]:
    """The queues of the same account and region whose dead-letter queue this one is, by name.

    It reads the settings of all queues there, many at a time.
    """
    within = core.within(queue.account, queue.region)
    resources = [within.resource("queue", name) for name in await within.directory.names("queue")]
    found: list[Resource] = []
    for start in range(0, len(resources), _READ_AT_ONCE):
        some = resources[start : start + _READ_AT_ONCE]
        for resource, described in zip(some, await asyncio.gather(*map(within.directory.describe, some)), strict=True):
            if described is not None:
                settings = msgspec.json.decode(described.settings, type=QueueSettings)
                if settings.dead_letter == queue.name:
                    found.append(resource)
    return found


async def _moved_elsewhere(core: Core, source: Resource, state: MoveState) -> int:
    """How many a task that runs has moved out of other partitions than the first, which alone counts by itself."""
    others = (await core.partitions.parts(source))[1:]
    if not others:
        return 0
    moved, _ = await core.moves.counted(others)
    return max(0, moved - msgspec.json.decode(state.details, type=Details).elsewhere)


async def _task(core: Core, source: Resource, state: MoveState) -> MoveTask:
    details = msgspec.json.decode(state.details, type=Details)
    handle = msgspec.json.encode(_Handle(state.id, source.arn))
    return MoveTask(
        handle=base64.b64encode(handle).decode(),
        source=source,
        destination=Resource.from_arn(details.destination) if details.destination else None,
        max_per_s=details.max_per_s,
        status=state.status,
        failure_reason=state.reason,
        moved=state.moved + (await _moved_elsewhere(core, source, state) if state.status in _RUNS else 0),
        to_move=state.to_move,
        started_ms=state.started_ms,
    )


def _read_handle(handle: str) -> tuple[str, Resource]:
    try:
        read = msgspec.json.decode(base64.b64decode(handle, validate=True), type=_Handle)
        return read.taskId, Resource.from_arn(read.sourceArn)
    except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError, InvalidName):
        raise InvalidOption("handle", handle, "not the handle of a move task") from None
