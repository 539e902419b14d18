"""The one home of retry, age, quarantine and partial-failure rules. Pure: values in, a verdict out.

Sources: Lambda Developer Guide, asynchronous error handling; recorded behaviour of the service for the age rule
("age now + delay of the next retry > maximum age: dropped at once"); the table of partial batch responses for SQS.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, assert_never

import msgspec

from broker.invocation_records import Condition
from broker.limits import SYSTEM_BACKOFF_FIRST_S, SYSTEM_BACKOFF_LAST_S
from broker.lineage import MAX_INVOCATIONS
from broker.records import Facts, FunctionSettings
from runtime.outcomes import Abandoned, Completed, Failed, Outcome, Throttled, TimedOut

MAX_BACKOFF_DOUBLINGS: Final = 16


class Finish(msgspec.Struct, frozen=True):
    """It succeeded: to the success destination."""

    tries: int


class Retry(msgspec.Struct, frozen=True):
    """It failed and runs again after the delay; one try is used up."""

    delay_s: float


class Release(msgspec.Struct, frozen=True):
    """It goes back to the queue; no try is used up."""

    delay_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """It ends here: to the failure destination and the dead-letter queue."""

    condition: Condition
    tries: int


Verdict: TypeAlias = Finish | Retry | Release | GiveUp


def before_run(
    settings: FunctionSettings, facts: Facts, *, age_s: float, limit: int | None, invocations: int = 0
) -> GiveUp | None:
    """Why an event must not run at all; None when it may. ``limit`` is the concurrency limit in force, ``invocations``
    how often the function has run in the chain that the event comes from."""
    if facts.crashes > settings.max_crashes:
        return GiveUp("Quarantined", facts.tries)
    if limit == 0:
        return GiveUp("ZeroReservedConcurrency", facts.tries)
    if age_s > settings.max_event_age_s:
        return GiveUp("EventAgeExceeded", facts.tries)
    if in_loop(settings, invocations):
        return GiveUp("RecursiveInvocation", facts.tries)
    return None


def in_loop(settings: FunctionSettings, invocations: int) -> bool:
    """Whether a function that has run so often in one chain is stopped."""
    return invocations >= MAX_INVOCATIONS and settings.recursive_loop == "Terminate"


def after_run(settings: FunctionSettings, facts: Facts, outcome: Outcome, *, age_s: float) -> Verdict:
    """What becomes of an event after one call."""
    match outcome:
        case Completed():
            return Finish(facts.tries + 1)
        case Failed() | TimedOut():
            tries = facts.tries + 1
            if tries > settings.retries:
                return GiveUp("RetriesExhausted", tries)
            delay_s = settings.retry_delays_s[min(tries, len(settings.retry_delays_s)) - 1]
            if age_s + delay_s > settings.max_event_age_s:
                return GiveUp("EventAgeExceeded", tries)
            return Retry(delay_s)
        case Throttled():
            return Release(system_backoff_s(facts))
        case Abandoned():
            return Release(0)
        case _:
            assert_never(outcome)


def system_backoff_s(facts: Facts) -> float:
    """1 s to 5 min, doubling with every time that the event was handed out and could not run."""
    went_without = max(0, facts.receives - facts.tries - facts.crashes - 1)
    return min(SYSTEM_BACKOFF_LAST_S, SYSTEM_BACKOFF_FIRST_S * 2.0 ** min(went_without, MAX_BACKOFF_DOUBLINGS))


# -- batches ----------------------------------------------------------------------------------------------------------


class BatchVerdict(msgspec.Struct, frozen=True):
    """Which messages of a batch failed, by index; ``problem`` says why a whole batch did."""

    failed: frozenset[int]
    problem: str = ""


_ALL_WELL: Final = BatchVerdict(frozenset())


def after_batch(outcome: Outcome, message_ids: list[str], *, partial_failures: bool) -> BatchVerdict:
    """Which messages of a batch go back to the queue: every row of the table of partial batch responses."""
    if isinstance(outcome, Completed):
        return _partial(outcome.result, message_ids) if partial_failures else _ALL_WELL
    everything = frozenset(range(len(message_ids)))
    match outcome:
        case Failed(_, error_type, message):
            return BatchVerdict(everything, f"{error_type}: {message}")
        case TimedOut(_, message):
            return BatchVerdict(everything, message)
        case Throttled() | Abandoned():
            return BatchVerdict(everything)
        case _:
            assert_never(outcome)


_BAD_ITEM: Final = "batchItemFailures: each item must be {'itemIdentifier': <a messageId of this batch>}"
_ANSWER_RULE: Final = "it must be null, {} or {'batchItemFailures': [...]}"


def _partial(result: bytes, message_ids: list[str]) -> BatchVerdict:
    answer: Any = msgspec.json.decode(result)
    match answer:
        case None:
            return _ALL_WELL
        case dict() if not answer:
            return _ALL_WELL
        case {"batchItemFailures": None}:
            return _ALL_WELL
        case {"batchItemFailures": list(items)}:
            places: dict[str, list[int]] = {}
            for index, message_id in enumerate(message_ids):  # a caller's own id may be there twice
                places.setdefault(message_id, []).append(index)
            failed: set[int] = set()
            for item in items:
                identifier = item.get("itemIdentifier") if isinstance(item, dict) else None
                if not isinstance(identifier, str) or identifier not in places:
                    return BatchVerdict(frozenset(range(len(message_ids))), _BAD_ITEM)
                failed.update(places[identifier])
            return BatchVerdict(frozenset(failed))
        case _:
            everything = frozenset(range(len(message_ids)))
            return BatchVerdict(everything, f"the handler answered a {type(answer).__name__}: {_ANSWER_RULE}")


def visible_again_s(
    *, visibility_timeout_s: float, batch_window_s: float, timeout_s: float, since_claim_s: float
) -> float:
    """When messages of a failed batch are visible again: at claim time plus the queue's visibility timeout (with a
    window that does not fit in it: window + function timeout + 30 s), at once if that is past."""
    effective_s = visibility_timeout_s
    if batch_window_s > 0 and batch_window_s + timeout_s > visibility_timeout_s:
        effective_s = batch_window_s + timeout_s + 30
    return max(0.0, effective_s - since_claim_s)
