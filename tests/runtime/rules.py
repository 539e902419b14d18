"""The rules for asynchronous events as a table: what happens to one event, and how it must end.

Sources: Lambda Developer Guide, asynchronous error handling and destinations; recorded behaviour of the service for
ages, counts and which parts of the invocation record are there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from broker.invocation_records import Condition

Try: TypeAlias = Literal["succeeds", "answers 500", "raises", "times out", "exits", "no json", "too large"]
"""What one try of the handler does."""
Deed: TypeAlias = Literal["paused", "resumed", "limit 0", "no limit", "limit full", "limit free", "cancelled"]
"""What somebody else does meanwhile."""


@dataclass(frozen=True)
class Retry:
    """The event waits for its next try, exactly so many seconds after the last; then they are over."""

    after_s: float


@dataclass(frozen=True)
class Later:
    """So many seconds go by while the event waits, whatever for."""

    seconds: float


Step: TypeAlias = Try | Deed | Retry | Later

ERROR_TYPES: dict[str, str] = {
    "raises": "ValueError",
    "times out": "Sandbox.Timedout",
    "exits": "Runtime.ExitError",
    "no json": "Runtime.MarshalError",
    "too large": "Function.ResponseSizeTooLarge",
}
NEVER_RAN: dict[Condition, str] = {
    "EventAgeExceeded": "The event was older than the function's maximum event age before it could run.",
    "ZeroReservedConcurrency": "Rate Exceeded.",
    "Quarantined": "The event ended its worker process every time it ran.",
}
"""What the dead letter of an event that never ran says."""


@dataclass(frozen=True)
class Rule:
    """One row."""

    name: str
    story: tuple[Step, ...]
    ends: Condition
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def tries(self) -> list[Try]:
        """The tries of the story: as many as the record must count."""
        return [step for step in self.story if step in ERROR_TYPES or step in {"succeeds", "answers 500"}]  # type: ignore[misc]


MINUTE, TWO_MINUTES = Retry(60), Retry(120)
SIX_HOURS_S = 21_600
LONG: dict[str, Any] = {"timeout": 60}

RULES = (
    # -- function errors: three tries, after one and two minutes ------------------------------------------------------
    Rule("success at the first try", ("succeeds",), "Success"),
    Rule("success at the second", ("raises", MINUTE, "succeeds"), "Success"),
    Rule("success at the third", ("raises", MINUTE, "raises", TWO_MINUTES, "succeeds"), "Success"),
    Rule("errors use the tries up", ("raises", MINUTE, "raises", TWO_MINUTES, "raises"), "RetriesExhausted"),
    Rule("timeouts are errors", ("times out", MINUTE, "times out", TWO_MINUTES, "times out"), "RetriesExhausted"),
    Rule("exits are errors", ("exits", MINUTE, "exits", TWO_MINUTES, "exits"), "RetriesExhausted"),
    Rule("every kind counts", ("times out", MINUTE, "no json", TWO_MINUTES, "too large"), "RetriesExhausted"),
    Rule("what a result says is no error", ("answers 500",), "Success"),
    Rule("a success after a timeout", ("times out", MINUTE, "succeeds"), "Success"),
    # -- the number of retries ----------------------------------------------------------------------------------------
    Rule("no retry", ("raises",), "RetriesExhausted", {"retries": 0}),
    Rule("no retry after a timeout", ("times out",), "RetriesExhausted", {"retries": 0}),
    Rule("one retry", ("raises", MINUTE, "raises"), "RetriesExhausted", {"retries": 1}),
    Rule("one retry that helps", ("raises", MINUTE, "succeeds"), "Success", {"retries": 1}),
    Rule(
        "more retries than Lambda's: the last delay repeats",
        ("raises", Retry(5), "raises", Retry(7), "raises", Retry(7), "raises"),
        "RetriesExhausted",
        {"retries": 3, "retry_delays": (5, 7)},
    ),
    # -- age ----------------------------------------------------------------------------------------------------------
    Rule("at an age of 60 s no retry comes in time", ("raises",), "EventAgeExceeded", {"max_event_age": 60}),
    Rule("nor after a timeout", ("times out",), "EventAgeExceeded", {"max_event_age": 60}),
    Rule("at 90 s exactly one", ("raises", MINUTE, "raises"), "EventAgeExceeded", {"max_event_age": 90}),
    Rule(
        "at 200 s both: used up goes before too old",
        ("raises", MINUTE, "raises", TWO_MINUTES, "raises"),
        "RetriesExhausted",
        {"max_event_age": 200},
    ),
    Rule("an error at last goes before too old", ("raises",), "RetriesExhausted", {"retries": 0, "max_event_age": 60}),
    Rule("too old before its first try", ("paused", Later(101), "resumed"), "EventAgeExceeded", {"max_event_age": 100}),
    Rule("too old after six hours", ("paused", Later(SIX_HOURS_S + 1), "resumed"), "EventAgeExceeded"),
    Rule("not yet after almost six", ("paused", Later(SIX_HOURS_S - 60), "resumed", "succeeds"), "Success"),
    Rule(
        "the age of a try that came late counts",
        ("paused", Later(SIX_HOURS_S - 100), "resumed", "raises", MINUTE, "raises"),
        "EventAgeExceeded",
    ),
    Rule("too old while it waits for a retry", ("raises", Later(101)), "EventAgeExceeded", {"max_event_age": 100}),
    Rule(
        "too old while it waits for the second",
        ("raises", MINUTE, "raises", Later(150)),
        "EventAgeExceeded",
        {"max_event_age": 190},
    ),
    # -- throttles: no try is used up, the age goes on ----------------------------------------------------------------
    Rule("zero reserved concurrency", ("paused", "limit 0", "resumed"), "ZeroReservedConcurrency"),
    Rule("zero from the beginning", (), "ZeroReservedConcurrency", {"concurrency": 0}),
    Rule(
        "zero goes before too old", ("paused", "limit 0", Later(SIX_HOURS_S + 1), "resumed"), "ZeroReservedConcurrency"
    ),
    Rule("zero between two tries", ("raises", "limit 0", MINUTE), "ZeroReservedConcurrency"),
    Rule("a limit that is full", ("limit full", Later(3_000), "limit free", "succeeds"), "Success", LONG),
    Rule(
        "a full limit uses up no try",
        ("limit full", Later(3_000), "limit free", "raises", MINUTE, "raises", TWO_MINUTES, "raises"),
        "RetriesExhausted",
        LONG,
    ),
    Rule(
        "a full limit until it is too old",
        ("limit full", Later(101), "limit free"),
        "EventAgeExceeded",
        LONG | {"max_event_age": 100},
    ),
    Rule(
        "a full limit at the retry",
        ("raises", "limit full", MINUTE, Later(3_000), "limit free", "succeeds"),
        "Success",
        LONG,
    ),
    Rule(
        "a full limit at the retry, until it is too old",
        ("raises", "limit full", MINUTE, Later(100), "limit free"),
        "EventAgeExceeded",
        LONG | {"max_event_age": 150},
    ),
    Rule("zero for a while keeps nothing back", ("paused", "limit 0", "no limit", "resumed", "succeeds"), "Success"),
    # -- taken out ----------------------------------------------------------------------------------------------------
    Rule("cancelled before it ran", ("paused", "cancelled"), "Cancelled"),
    Rule("cancelled between two tries", ("raises", "cancelled"), "Cancelled"),
)

SYSTEM_ERRORS = Rule(
    "what the system cannot run waits 1 s, doubling to five minutes, until it is too old",
    (*(Retry(2**doubling) for doubling in range(9)), *(Retry(300) for _ in range(4))),
    "EventAgeExceeded",
    {"max_event_age": 1_600},
)
"""Each delay follows a hand-out that could not be run; none of them is a try."""
QUARANTINE = Rule("its workers died over it", (), "Quarantined", {"max_crashes": 2})
