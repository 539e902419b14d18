"""The rules for batches of a mapped queue as a table: what the handler answers, and which messages stay.

Sources: the table of partial batch responses for SQS (Lambda Developer Guide, and recorded answers of the service).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Records: TypeAlias = list[dict[str, Any]]
SENT = ("a1", "a2", "b1", "b2")
"""In a FIFO queue the letter is the group."""


@dataclass(frozen=True)
class Answer:
    """One row: what a handler answers to a batch of ``SENT``, and what of it is received again."""

    name: str
    answers: Callable[[Records], Any]
    """A coroutine function where the answer needs time."""
    left: tuple[str, ...]
    problem: str = ""
    """The beginning of what the log says of the batch."""
    settings: dict[str, Any] = field(default_factory=lambda: {"partial_failures": True})


def always(answer: object) -> Callable[[Records], Any]:
    return lambda _: answer


def items(*identifiers: object) -> Callable[[Records], Any]:
    return always({"batchItemFailures": [{"itemIdentifier": each} for each in identifiers]})


def ids_of(*bodies: str) -> Callable[[Records], Any]:
    """Names the messages of those bodies, in that order."""

    def answer(records: Records) -> Any:
        known = {record["body"]: record["messageId"] for record in records}
        return {"batchItemFailures": [{"itemIdentifier": known.get(body, body)} for body in bodies]}

    return answer


def raises(_: Records) -> Any:
    raise ValueError("no")


def exits(_: Records) -> Any:
    sys.exit(2)


async def never_ends(_: Records) -> Any:
    await asyncio.sleep(60)


def wrong_key(records: Records) -> Any:
    return {"batchItemFailures": [{"foo": records[0]["messageId"]}]}


def bare_ids(records: Records) -> Any:
    return {"batchItemFailures": [record["messageId"] for record in records[:1]]}


def bare_list(records: Records) -> Any:
    return [{"itemIdentifier": records[0]["messageId"]}]


BAD_ITEM = "batchItemFailures: each item must be"
OFF: dict[str, Any] = {"partial_failures": False}
SLOW: dict[str, Any] = {"partial_failures": True, "timeout": 0.2}

ANSWERS = (
    # -- complete success ---------------------------------------------------------------------------------------------
    Answer("null", always(None), ()),
    Answer("an empty object", always({}), ()),
    Answer("an empty list of failures", always({"batchItemFailures": []}), ()),
    Answer("null for the list", always({"batchItemFailures": None}), ()),
    Answer("an empty list beside other keys", always({"batchItemFailures": [], "more": 1}), ()),
    # -- what is named stays ------------------------------------------------------------------------------------------
    Answer("the first", ids_of("a1"), ("a1",)),
    Answer("the last", ids_of("b2"), ("b2",)),
    Answer("several", ids_of("a1", "b2"), ("a1", "b2")),
    Answer("several in another order", ids_of("b2", "a1"), ("a1", "b2")),
    Answer("all", ids_of(*SENT), SENT),
    Answer("one of them twice", ids_of("a2", "a2"), ("a2",)),
    Answer("stop at the first failure: it and all that follow", ids_of("a2", "b1", "b2"), ("a2", "b1", "b2")),
    Answer("stop within each group", ids_of("a1", "a2", "b2"), ("a1", "a2", "b2")),
    Answer("nothing is added to what is named", ids_of("a1", "b1"), ("a1", "b1")),
    # -- complete failure ---------------------------------------------------------------------------------------------
    Answer("an empty id", items(""), SENT, BAD_ITEM),
    Answer("null for an id", items(None), SENT, BAD_ITEM),
    Answer("a number for an id", items(7), SENT, BAD_ITEM),
    Answer("an id that is not in the batch", items("nobody"), SENT, BAD_ITEM),
    Answer("one that is and one that is not", ids_of("a1", "nobody"), SENT, BAD_ITEM),
    Answer("an item with another key", wrong_key, SENT, BAD_ITEM),
    Answer("ids without their key", bare_ids, SENT, BAD_ITEM),
    Answer("another key for the list", always({"foo": []}), SENT, "the handler answered a dict"),
    Answer("an object for the list", always({"batchItemFailures": {}}), SENT, "the handler answered a dict"),
    Answer("an empty text", always(""), SENT, "the handler answered a str"),
    Answer("a text", always("done"), SENT, "the handler answered a str"),
    Answer("a list", always([]), SENT, "the handler answered a list"),
    Answer("a list of items", bare_list, SENT, "the handler answered a list"),
    Answer("a number", always(6), SENT, "the handler answered a int"),
    Answer("true", always(True), SENT, "the handler answered a bool"),  # noqa: FBT003 - the answer
    Answer("no JSON", always(object()), SENT, "Runtime.MarshalError"),
    Answer("more than six megabytes", always("x" * 6_291_555), SENT, "Function.ResponseSizeTooLarge"),
    Answer("an exception", raises, SENT, "ValueError: no"),
    Answer("an exit", exits, SENT, "Runtime.ExitError"),
    Answer("a timeout", never_ends, SENT, "RequestId: ", SLOW),
    # -- without ReportBatchItemFailures ------------------------------------------------------------------------------
    Answer("ids that nobody asked for", ids_of("a1"), (), "", OFF),
    Answer("a text that nobody reads", always("done"), (), "", OFF),
    Answer("an exception without partial failures", raises, SENT, "ValueError: no", OFF),
    Answer("a timeout without partial failures", never_ends, SENT, "RequestId: ", {**OFF, "timeout": 0.2}),
)
