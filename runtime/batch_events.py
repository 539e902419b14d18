"""What a batch's handler is given: the event, made of those of its messages that can be read."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.names import Resource
from runtime.batches import Held, not_behind
from runtime.handlers import HandlerFunction, Unreadable
from runtime.shaping import sqs_record, typed_record


class BatchEvent(msgspec.Struct, frozen=True):
    """The event of one call, and the messages that it carries."""

    event: Any
    held: list[Held]
    """What it carries; none where the whole batch fails, unrun."""
    unread: list[Held] = []
    """What fails alone: it cannot be read, or stands behind such a message in its group."""
    problem: str = ""


def batch_event(function: HandlerFunction, queue: Resource, held: list[Held], *, partial_failures: bool) -> BatchEvent:
    """The event that a function is called with: a message that does not decode fails alone where it can."""
    if not function.takes_records:
        records = [
            sqs_record(item.letter, queue, receipt_handle=item.receipt, claimed_ms=item.claimed_ms) for item in held
        ]
        try:
            return BatchEvent(function.typed({"Records": records}), held)
        except Unreadable as error:
            return BatchEvent(None, [], problem=str(error))
    bodies, unreadable, problem = {}, set[str](), ""
    for item in held:
        try:
            bodies[item.member] = function.decode_record(item.letter.body)
        except Unreadable as error:
            unreadable.add(item.member)
            problem = f"message {item.letter.id}: {error}"
    good, bad = not_behind(unreadable, held, fifo=queue.fifo)
    if bad and (not partial_failures or not good):
        return BatchEvent(None, [], problem=problem)
    typed = [typed_record(item.letter, bodies[item.member], fencing_token=item.fence) for item in good]
    return BatchEvent(typed, good, bad, problem)
