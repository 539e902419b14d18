"""Sending, one message or up to ten. A message without attributes costs no more than its send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker import limits
from broker.errors import DeduplicationIdMissing, PayloadTooLarge, StoreError
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import message_shapes as shapes
from broker.gateway.aws.sqs.access import usable_queue
from broker.gateway.aws.sqs.batches import check_entries, failed, failed_in_store
from broker.gateway.aws.sqs.errors import NO_DEDUPLICATION, invalid, too_large
from broker.gateway.aws.sqs.messages import Draft, draft, size_of
from broker.log import log
from broker.names import Resource
from broker.queue_settings import describe_queue
from broker.store.values import Accepted

_ENTRY = "SendMessageBatchRequestEntry"


async def send(call: Call, wanted: shapes.SendMessageRequest) -> shapes.SendMessageResult:
    """Stores one message; answering means stored."""
    queue = await usable_queue(call, wanted.queue_url, "SendMessage")
    made = draft(queue, wanted, sender=_sender(call, queue), trace=call.trace)
    if made.message.size > limits.MAX_MESSAGE_BYTES:  # not worth a way to Redis
        described = await describe_queue(call.broker.core, queue)
        raise too_large(described.settings.max_message_bytes)
    accepted = await call.broker.sender.send(queue, made.message)
    return shapes.SendMessageResult(
        message_id=accepted.id,
        md5_of_message_body=made.body_md5,
        md5_of_message_attributes=made.attributes_md5,
        md5_of_message_system_attributes=made.system_attributes_md5,
        sequence_number=accepted.sequence_number if queue.fifo else None,
    )


def _sender(call: Call, queue: Resource) -> str:
    return "" if call.principal == queue.account else call.principal


async def send_batch(call: Call, wanted: shapes.SendMessageBatchRequest) -> shapes.SendMessageBatchResult:
    """Stores up to ten messages, each for itself, in one step where all are good."""
    check_entries(wanted.entries, _ENTRY)
    queue = await usable_queue(call, wanted.queue_url, "SendMessageBatch")
    if queue.fifo:
        await _check_fifo(call, queue, wanted.entries)
    made = [_draft(call, queue, entry, number) for number, entry in enumerate(wanted.entries, start=1)]
    _check_sum(wanted.entries, made)
    good = [each for each in made if isinstance(each, Draft)]
    sends = (call.broker.sender.send(queue, each.message) for each in good)
    return batch_result(queue, wanted.entries, made, await asyncio.gather(*sends, return_exceptions=True))


def batch_result(
    queue: Resource,
    entries: Sequence[shapes.SendMessageBatchRequestEntry],
    made: Sequence[Draft | ServiceError],
    outcomes: Sequence[Accepted | BaseException],
) -> shapes.SendMessageBatchResult:
    """What became of a batch; ``outcomes`` are those of its drafts, in their order.

    Raises what is no fault of an entry alone; of the store only where nothing was stored.
    """
    answer = _Answer(queue, in_part=any(isinstance(outcome, Accepted) for outcome in outcomes))
    left = iter(outcomes)
    for entry, each in zip(entries, made, strict=True):
        if isinstance(each, ServiceError):
            answer.failed.append(failed(entry.id, each))
        else:
            answer.add(entry.id, each, next(left))
    return answer.written()


async def _check_fifo(call: Call, queue: Resource, entries: list[shapes.SendMessageBatchRequestEntry]) -> None:
    """What fails the whole request: a message without group, or without any deduplication id."""
    if not all(entry.message_group_id for entry in entries):
        raise invalid("The request must contain the parameter MessageGroupId.")
    with_id = [bool(entry.message_deduplication_id) for entry in entries]
    # Where none has an id the store says whether it needs one; some without must be known before any is stored.
    if any(with_id) and not all(with_id):
        described = await describe_queue(call.broker.core, queue)
        if not described.settings.content_deduplication:
            raise invalid(NO_DEDUPLICATION)


def _draft(
    call: Call, queue: Resource, entry: shapes.SendMessageBatchRequestEntry, number: int
) -> Draft | ServiceError:
    try:
        return draft(
            queue,
            entry,
            sender=_sender(call, queue),
            trace=call.trace,
            body_parameter=f"{_ENTRY}.{number}.MessageBody",
        )
    except ServiceError as error:
        return error


def _check_sum(entries: list[shapes.SendMessageBatchRequestEntry], made: list[Draft | ServiceError]) -> None:
    size = sum(
        each.message.size if isinstance(each, Draft) else size_of(entry)
        for entry, each in zip(entries, made, strict=True)
    )
    if size > limits.MAX_MESSAGE_BYTES:
        said = f"Batch requests cannot be longer than {limits.MAX_MESSAGE_BYTES} bytes. You have sent {size} bytes."
        raise ServiceError("BatchRequestTooLong", said)


class _Answer:
    def __init__(self, queue: Resource, *, in_part: bool) -> None:
        self._queue = queue
        self._in_part = in_part
        self._successful: list[shapes.SendMessageBatchResultEntry] = []
        self.failed: list[shapes.BatchResultErrorEntry] = []

    def add(self, entry_id: str, made: Draft, outcome: Accepted | BaseException) -> None:
        """What became of one entry. Raises what is no fault of that entry alone."""
        if isinstance(outcome, PayloadTooLarge):
            reason = f"Message must be shorter than {outcome.limit_bytes} bytes."
            error = invalid(f"One or more parameters cannot be validated. Reason: {reason}")
            self.failed.append(failed(entry_id, error))
        elif isinstance(outcome, StoreError) and self._in_part:
            log.warning("send_failed", queue=self._queue.name, code=outcome.code, reason=str(outcome))
            self.failed.append(failed_in_store(entry_id, outcome))
        elif isinstance(outcome, DeduplicationIdMissing):
            raise invalid(NO_DEDUPLICATION)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            self._successful.append(
                shapes.SendMessageBatchResultEntry(
                    id=entry_id,
                    message_id=outcome.id,
                    md5_of_message_body=made.body_md5,
                    md5_of_message_attributes=made.attributes_md5,
                    md5_of_message_system_attributes=made.system_attributes_md5,
                    sequence_number=outcome.sequence_number if self._queue.fifo else None,
                )
            )

    def written(self) -> shapes.SendMessageBatchResult:
        return shapes.SendMessageBatchResult(successful=self._successful or None, failed=self.failed or None)
