"""Settling by receipt handle, with SQS's rules for old ones: on a standard queue an old handle still deletes; on a FIFO
queue one whose time is over does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from broker import limits
from broker.core import Core
from broker.errors import QueueNotFound
from broker.ids import nonce_of, partition_of
from broker.names import Resource
from broker.receipts import Receipt, read_receipt

Problem: TypeAlias = Literal["invalid", "expired", "gone", "too long"]
"""``invalid``: no handle of this queue; ``expired``: FIFO, its time is over; ``gone``: the message does not exist (any
more); ``too long``: hidden for more than twelve hours since its receive."""


async def delete(core: Core, queue: Resource, handles: Sequence[str]) -> list[Problem | None]:
    """Deletes the messages of receipt handles; what was deleted before is no problem. Raises QueueNotFound."""
    receipts = await _read(core, queue, handles)
    problems: list[Problem | None] = ["invalid" if receipt is None else None for receipt in receipts]
    parts: dict[Resource, list[int]] = {}
    for index, receipt in enumerate(receipts):
        if receipt is not None:
            parts.setdefault(queue.part(partition_of(receipt.mark)), []).append(index)
    for part, places in (parts or {queue: []}).items():
        members = [receipt.member for index in places if (receipt := receipts[index]) is not None]
        settled = await core.messages.finish(part, members, counter="deleted")
        if not settled.known and not part.partition:
            core.directory.forget(queue)
            raise QueueNotFound(queue.name)
        for at, refusal in settled.refused.items():
            receipt = receipts[places[at]]
            if refusal == "unknown" or receipt is None:
                continue
            if queue.fifo:
                problems[places[at]] = "expired"
            else:
                await _delete_with_old(core, part, receipt)
    return problems


async def _delete_with_old(core: Core, queue: Resource, receipt: Receipt) -> None:
    """The message has been received again since, or waits to be."""
    if await core.messages.discard(queue, receipt.entry):
        return
    member = await core.messages.lease_of(queue, receipt.entry)
    if member is not None:
        await core.messages.finish(queue, [member], counter="deleted")


class VisibilityChange(msgspec.Struct, frozen=True):
    """One message is to be hidden for so many seconds from now."""

    handle: str
    timeout_s: float


async def change_visibility(core: Core, queue: Resource, changes: Sequence[VisibilityChange]) -> list[Problem | None]:
    """Hides the messages of receipt handles for another time. Raises QueueNotFound.

    On a standard queue an old handle, of a message that was handed out again, changes nothing and is no problem.
    """
    receipts = await _read(core, queue, [change.handle for change in changes])
    now_ms = await core.messages.now_ms()
    return [
        await _change(core, queue, receipt, change.timeout_s, now_ms=now_ms)
        for receipt, change in zip(receipts, changes, strict=True)
    ]


async def _change(
    core: Core, queue: Resource, receipt: Receipt | None, timeout_s: float, *, now_ms: int
) -> Problem | None:
    if receipt is None:
        return "invalid"
    if now_ms + timeout_s * 1000 - receipt.received_ms > limits.MAX_LEASE_TOTAL_S * 1000:
        return "too long"
    part = queue.part(partition_of(receipt.mark))
    if not await core.messages.extend(part, [receipt.member], lease_ms=round(timeout_s * 1000)):
        return None
    if not await core.messages.exists(part, receipt.entry):
        if await core.directory.describe(queue) is None:
            core.directory.forget(queue)
            raise QueueNotFound(queue.name)
        return "gone"
    return "expired" if queue.fifo else None


async def _read(core: Core, queue: Resource, handles: Sequence[str]) -> list[Receipt | None]:
    """The receipts, None for what is not one of this queue."""
    receipts = [read_receipt(handle) for handle in handles]
    nonce = await core.directory.nonce(queue)
    if any(receipt is not None and nonce_of(receipt.mark) != nonce for receipt in receipts):
        core.directory.forget(queue)  # it may have been deleted and made again since
        nonce = await core.directory.nonce(queue)
    if nonce is None:
        raise QueueNotFound(queue.name)
    return [receipt if receipt is not None and nonce_of(receipt.mark) == nonce else None for receipt in receipts]
