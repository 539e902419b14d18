"""Every row of the rules for retries, age, backoff, quarantine and batches. Sources: see runtime/policy.py."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.records import Facts, FunctionSettings
from runtime.outcomes import Abandoned, Completed, Failed, Outcome, Throttled, failed, timed_out
from runtime.policy import (
    BatchVerdict,
    Finish,
    GiveUp,
    Release,
    Retry,
    Verdict,
    after_batch,
    after_run,
    before_run,
    system_backoff_s,
    visible_again_s,
)

DEFAULTS = FunctionSettings()
FAILED = failed("KeyError", "'path'", "id")
TIMED_OUT = timed_out(3, "id")
OK = Completed(b"null")
ALL = frozenset({0, 1, 2})
IDS = ["a", "b", "c"]


def after(settings: FunctionSettings, tries: int, outcome: Outcome = FAILED, *, age_s: float = 0) -> Verdict:
    return after_run(settings, Facts(tries=tries), outcome, age_s=age_s)


# -- after a try ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tries", "expected"), [(0, 1), (1, 2), (2, 3)])
def test_a_success_finishes_whatever_went_before(tries: int, expected: int) -> None:
    assert after(DEFAULTS, tries, OK, age_s=10**6) == Finish(expected)


def test_the_value_of_a_result_does_not_matter() -> None:
    assert after(DEFAULTS, 0, Completed(b'{"statusCode":500}')) == Finish(1)


@pytest.mark.parametrize("outcome", [FAILED, TIMED_OUT])
@pytest.mark.parametrize(("tries", "expected"), [(0, Retry(60)), (1, Retry(120)), (2, GiveUp("RetriesExhausted", 3))])
def test_errors_and_timeouts_are_tried_twice_more_after_one_and_two_minutes(
    tries: int, expected: Verdict, outcome: Outcome
) -> None:
    assert after(DEFAULTS, tries, outcome) == expected


@pytest.mark.parametrize(
    ("retries", "delays", "expected"),
    [
        (0, (60,), [GiveUp("RetriesExhausted", 1)]),
        (1, (60, 120), [Retry(60), GiveUp("RetriesExhausted", 2)]),
        (4, (1, 5), [Retry(1), Retry(5), Retry(5), Retry(5), GiveUp("RetriesExhausted", 5)]),
        (2, (0,), [Retry(0), Retry(0), GiveUp("RetriesExhausted", 3)]),
    ],
)
def test_the_last_delay_repeats_until_the_retries_are_used_up(
    retries: int, delays: tuple[float, ...], expected: list[Verdict]
) -> None:
    settings = FunctionSettings(retries=retries, retry_delays_s=delays)
    assert [after(settings, tries) for tries in range(retries + 1)] == expected


@pytest.mark.parametrize(
    ("max_age_s", "age_s", "tries", "expected"),
    [
        (60, 0.1, 0, GiveUp("EventAgeExceeded", 1)),  # recorded: no retry at all
        (60, 0, 0, Retry(60)),  # not above it
        (90, 0.1, 0, Retry(60)),  # recorded: exactly one
        (90, 60.2, 1, GiveUp("EventAgeExceeded", 2)),
        (21_600, 21_479, 1, Retry(120)),
        (21_600, 21_481, 1, GiveUp("EventAgeExceeded", 2)),
        (60, 61, 2, GiveUp("RetriesExhausted", 3)),  # used up goes before too old
    ],
)
def test_no_retry_is_scheduled_that_would_come_too_late(
    max_age_s: float, age_s: float, tries: int, expected: Verdict
) -> None:
    assert after(FunctionSettings(max_event_age_s=max_age_s), tries, age_s=age_s) == expected


def test_what_never_ran_goes_back_without_using_a_try() -> None:
    assert after(DEFAULTS, 1, Abandoned()) == Release(0)
    assert after(DEFAULTS, 2, Throttled()) == Release(1)


# -- backoff for throttles and system errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        (Facts(receives=1), 1),
        (Facts(receives=2), 2),
        (Facts(receives=3), 4),
        (Facts(receives=9), 256),
        (Facts(receives=10), 300),
        (Facts(receives=10_000), 300),
        (Facts(receives=3, tries=1), 2),  # handed out for a try is not gone without
        (Facts(receives=3, tries=1, crashes=1), 1),
        (Facts(receives=1, crashes=5), 1),
    ],
)
def test_the_backoff_doubles_from_one_second_to_five_minutes(facts: Facts, seconds: float) -> None:
    assert system_backoff_s(facts) == seconds


# -- before a run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "age_s", "limit", "expected"),
    [
        (Facts(), 0, None, None),
        (Facts(), 21_600, 8, None),
        (Facts(), 21_600.1, None, GiveUp("EventAgeExceeded", 0)),
        (Facts(tries=2), 21_601, None, GiveUp("EventAgeExceeded", 2)),
        (Facts(), 0, 0, GiveUp("ZeroReservedConcurrency", 0)),
        (Facts(), 99_999, 0, GiveUp("ZeroReservedConcurrency", 0)),
        (Facts(crashes=3), 0, None, None),
        (Facts(crashes=4, tries=1), 0, None, GiveUp("Quarantined", 1)),
        (Facts(crashes=4), 99_999, 0, GiveUp("Quarantined", 0)),
    ],
)
def test_what_must_not_run_is_given_up_with_its_reason(
    facts: Facts, age_s: float, limit: int | None, expected: GiveUp | None
) -> None:
    assert before_run(DEFAULTS, facts, age_s=age_s, limit=limit) == expected


def test_without_allowed_crashes_the_first_one_quarantines() -> None:
    strict = FunctionSettings(max_crashes=0)
    assert before_run(strict, Facts(crashes=1), age_s=0, limit=None) == GiveUp("Quarantined", 0)


# -- batches: the table of partial batch responses --------------------------------------------------------------------


def batch(answer: Any, ids: list[str] = IDS) -> BatchVerdict:
    return after_batch(Completed(msgspec.json.encode(answer)), ids, partial_failures=True)


@pytest.mark.parametrize(
    "answer", [{}, None, {"batchItemFailures": []}, {"batchItemFailures": None}, {"batchItemFailures": [], "more": 1}]
)
def test_nothing_named_is_complete_success(answer: Any) -> None:
    assert batch(answer) == BatchVerdict(frozenset())


@pytest.mark.parametrize(
    ("named", "expected"), [(["a"], {0}), (["c", "a"], {0, 2}), (["b", "b"], {1}), (["a", "b", "c"], {0, 1, 2})]
)
def test_named_messages_stay_and_the_others_are_deleted(named: list[str], expected: set[int]) -> None:
    assert batch({"batchItemFailures": [{"itemIdentifier": name} for name in named]}).failed == expected


@pytest.mark.parametrize(
    "answer",
    [
        {"batchItemFailures": [{"itemIdentifier": ""}]},
        {"batchItemFailures": [{"itemIdentifier": None}]},
        {"batchItemFailures": [{"itemIdentifier": 7}]},
        {"batchItemFailures": [{"foo": "a"}]},
        {"batchItemFailures": [{"itemIdentifier": "not in the batch"}]},
        {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "z"}]},
        {"batchItemFailures": ["a"]},
        {"batchItemFailures": {"itemIdentifier": "a"}},
        {"batchItemFailures": "a"},
        {"foo": []},
        [],
        [{"itemIdentifier": "a"}],
        "",
        "a",
        0,
        False,
        True,
    ],
)
def test_an_answer_of_the_wrong_shape_fails_the_whole_batch_and_says_why(answer: Any) -> None:
    verdict = batch(answer)
    assert verdict.failed == ALL
    assert "must be" in verdict.problem


def test_an_id_that_is_there_twice_fails_both() -> None:
    assert batch({"batchItemFailures": [{"itemIdentifier": "a"}]}, ["a", "b", "a"]).failed == {0, 2}


@pytest.mark.parametrize("outcome", [FAILED, TIMED_OUT, Abandoned(), Throttled()])
@pytest.mark.parametrize("partial", [True, False])
def test_a_batch_without_an_answer_fails_as_a_whole(outcome: Outcome, partial: bool) -> None:  # noqa: FBT001 - a table
    verdict = after_batch(outcome, IDS, partial_failures=partial)
    assert verdict.failed == ALL
    assert not isinstance(outcome, Failed) or verdict.problem == "KeyError: 'path'"


@pytest.mark.parametrize("answer", [{"batchItemFailures": [{"itemIdentifier": "a"}]}, {"foo": 1}, 0, ""])
def test_without_partial_failures_any_answer_is_success(answer: Any) -> None:
    outcome = Completed(msgspec.json.encode(answer))
    assert after_batch(outcome, IDS, partial_failures=False) == BatchVerdict(frozenset())


@pytest.mark.parametrize(
    ("visibility_s", "window_s", "timeout_s", "since_s", "expected"),
    [
        (30, 0, 3, 0, 30),
        (30, 0, 3, 12.5, 17.5),
        (30, 0, 3, 31, 0),  # past: at once
        (30, 0, 900, 10, 20),  # without a window the timeout does not count
        (30, 20, 3, 0, 30),  # the window fits
        (30, 27, 3, 0, 30),
        (30, 28, 3, 0, 61),  # window + timeout + 30 s
        (30, 300, 60, 100, 290),
        (0, 0, 3, 0, 0),
    ],
)
def test_failed_messages_are_visible_again_counted_from_the_claim(
    visibility_s: float, window_s: float, timeout_s: float, since_s: float, expected: float
) -> None:
    found = visible_again_s(
        visibility_timeout_s=visibility_s, batch_window_s=window_s, timeout_s=timeout_s, since_claim_s=since_s
    )
    assert found == expected
