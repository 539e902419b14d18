"""Settling by receipt handle: deleting messages and changing their visibility, one or up to ten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from broker import limits
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import message_shapes as shapes
from broker.gateway.aws.sqs.access import usable_queue
from broker.gateway.aws.sqs.batches import check_entries, failed
from broker.gateway.aws.sqs.errors import invalid_value, missing, told
from broker.settling import Problem, VisibilityChange, change_visibility, delete


def problem_error(problem: Problem, handle: str, timeout_s: int = 0) -> ServiceError:
    """SQS's words for what is wrong with a handle, or with the time for it."""
    match problem:
        case "invalid":
            said = f'The input receipt handle "{told(handle)}" is not a valid receipt handle.'
            return ServiceError("ReceiptHandleIsInvalid", said)
        case "expired":
            return invalid_value("ReceiptHandle", handle, "The receipt handle has expired.")
        case "gone":
            reason = "Message does not exist or is not available for visibility timeout change."
            return invalid_value("ReceiptHandle", handle, reason)
        case "too long":
            reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]."
            return invalid_value("VisibilityTimeout", timeout_s, reason)
        case _:
            assert_never(problem)


def handle_error(handle: str) -> ServiceError | None:
    """What is wrong with a handle by itself."""
    return None if handle.strip() else missing("ReceiptHandle")


def timeout_error(timeout_s: int | None) -> ServiceError | None:
    """What is wrong with a visibility timeout by itself."""
    if timeout_s is None:
        return missing("VisibilityTimeout")
    if not 0 <= timeout_s <= limits.MAX_VISIBILITY_TIMEOUT_S:
        reason = f"Must be >= 0 and <= {limits.MAX_VISIBILITY_TIMEOUT_S}, if provided."
        return invalid_value("VisibilityTimeout", timeout_s, reason)
    return None


# -- deleting ---------------------------------------------------------------------------------------------------------


async def delete_one(call: Call, wanted: shapes.DeleteMessageRequest) -> None:
    """Deletes a message; what was deleted before is no error."""
    queue = await usable_queue(call, wanted.queue_url, "DeleteMessage")
    handle = wanted.receipt_handle
    if error := handle_error(handle):
        raise error
    (problem,) = await delete(call.broker.core, queue, [handle])
    if problem is not None:
        raise problem_error(problem, handle)


async def delete_batch(call: Call, wanted: shapes.DeleteMessageBatchRequest) -> shapes.DeleteMessageBatchResult:
    """Deletes up to ten messages, each for itself, in one step."""
    check_entries(wanted.entries, "DeleteMessageBatchRequestEntry")
    queue = await usable_queue(call, wanted.queue_url, "DeleteMessageBatch")
    found = [handle_error(entry.receipt_handle) for entry in wanted.entries]
    handles = [entry.receipt_handle for entry, error in zip(wanted.entries, found, strict=True) if error is None]
    problems = iter(await delete(call.broker.core, queue, handles))
    errors = [
        error or _told(next(problems), entry.receipt_handle) for entry, error in zip(wanted.entries, found, strict=True)
    ]
    done, bad = _sorted(wanted.entries, errors)
    successful = [shapes.DeleteMessageBatchResultEntry(id=entry_id) for entry_id in done]
    return shapes.DeleteMessageBatchResult(successful=successful or None, failed=bad or None)


# -- changing visibility ----------------------------------------------------------------------------------------------


async def change_one(call: Call, wanted: shapes.ChangeMessageVisibilityRequest) -> None:
    """Hides a message for another time, from now."""
    queue = await usable_queue(call, wanted.queue_url, "ChangeMessageVisibility")
    handle, timeout_s = wanted.receipt_handle, wanted.visibility_timeout
    if error := handle_error(handle) or timeout_error(timeout_s):
        raise error
    (problem,) = await change_visibility(call.broker.core, queue, [VisibilityChange(handle, timeout_s)])
    if problem is not None:
        raise problem_error(problem, handle, timeout_s)


async def change_batch(
    call: Call, wanted: shapes.ChangeMessageVisibilityBatchRequest
) -> shapes.ChangeMessageVisibilityBatchResult:
    """Hides up to ten messages for other times, each for itself."""
    check_entries(wanted.entries, "ChangeMessageVisibilityBatchRequestEntry")
    queue = await usable_queue(call, wanted.queue_url, "ChangeMessageVisibilityBatch")
    entries = wanted.entries
    found = [handle_error(entry.receipt_handle) or timeout_error(entry.visibility_timeout) for entry in entries]
    changes = [
        VisibilityChange(entry.receipt_handle, entry.visibility_timeout or 0)
        for entry, error in zip(entries, found, strict=True)
        if error is None
    ]
    problems = iter(await change_visibility(call.broker.core, queue, changes))
    errors = [
        error or _told(next(problems), entry.receipt_handle, entry.visibility_timeout or 0)
        for entry, error in zip(entries, found, strict=True)
    ]
    done, bad = _sorted(entries, errors)
    successful = [shapes.ChangeMessageVisibilityBatchResultEntry(id=entry_id) for entry_id in done]
    return shapes.ChangeMessageVisibilityBatchResult(successful=successful or None, failed=bad or None)


def _told(problem: Problem | None, handle: str, timeout_s: int = 0) -> ServiceError | None:
    return None if problem is None else problem_error(problem, handle, timeout_s)


def _sorted(
    entries: Sequence[shapes.DeleteMessageBatchRequestEntry | shapes.ChangeMessageVisibilityBatchRequestEntry],
    errors: Sequence[ServiceError | None],
) -> tuple[list[str], list[shapes.BatchResultErrorEntry]]:
    """The ids of the entries that went well, and those that failed."""
    done: list[str] = []
    bad: list[shapes.BatchResultErrorEntry] = []
    for entry, error in zip(entries, errors, strict=True):
        if error is None:
            done.append(entry.id)
        else:
            bad.append(failed(entry.id, error))
    return done, bad
