"""Batches: the rules for all of their entries, and how entries that failed are told. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from broker.errors import StoreError, StoreFull
from broker.gateway.aws.errors import COMMON, INTERNAL, from_store
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.errors import ERRORS, code_of, throttled
from broker.gateway.aws.sqs.message_shapes import BatchResultErrorEntry

MAX_ENTRIES: Final = 10
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Entry(Protocol):
    """What every entry has."""

    @property
    def id(self) -> str:
        """Tells the entries of one batch apart."""
        ...


def check_entries(entries: Sequence[Entry], kind: str) -> None:
    """Raises the error of the whole request: none, too many, an id that is none, an id twice."""
    if not entries:
        raise ServiceError("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > MAX_ENTRIES:
        raise ServiceError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}.",
        )
    seen: set[str] = set()
    for entry in entries:
        if not _ID.fullmatch(entry.id):
            raise ServiceError(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most "
                "80 letters long.",
            )
        if entry.id in seen:
            raise ServiceError("BatchEntryIdsNotDistinct", f"Id {entry.id} repeated.")
        seen.add(entry.id)


def failed(entry_id: str, error: ServiceError) -> BatchResultErrorEntry:
    """How an entry that failed by the sender's fault is told."""
    return BatchResultErrorEntry(id=entry_id, sender_fault=True, code=code_of(error), message=error.message)


def failed_in_store(entry_id: str, error: StoreError) -> BatchResultErrorEntry:
    """How an entry that the store did not take is told, where it took others: its sender may try again."""
    told = throttled() if isinstance(error, StoreFull) else from_store(error) or INTERNAL
    code = told.name if told.name in ERRORS else COMMON[told.name].code
    return BatchResultErrorEntry(id=entry_id, sender_fault=False, code=code, message=told.message)
