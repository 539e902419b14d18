"""The lineage in a trace header: read, raised by every run, merged, and left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.lineage import (
    MAX_HEADER_BYTES,
    MAX_INVOCATIONS,
    continued,
    hash_of,
    invocations,
    merged,
    readable,
    run_once_more,
    without,
)

ARN = "arn:aws:lambda:us-east-1:000000000000:function:resize"
RESIZE, PUBLISH = hash_of(ARN), hash_of(ARN.replace("resize", "publish"))
ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793"


def test_a_function_has_one_hash_whatever_its_version() -> None:
    assert hash_of(f"{ARN}:3") == hash_of(f"{ARN}:live") == RESIZE
    assert PUBLISH != RESIZE


def test_the_first_run_is_written_as_lambda_writes_it() -> None:
    assert run_once_more("", RESIZE) == f"Lineage=1:{RESIZE}:0"
    assert run_once_more(f"{ROOT};Sampled=1", RESIZE) == f"{ROOT};Sampled=1;Lineage=1:{RESIZE}:0"


def test_every_run_counts_once_for_its_function_and_for_the_chain() -> None:
    header = ROOT
    for number in range(1, 20):
        header = run_once_more(header, RESIZE)
        assert invocations(header, RESIZE) == number
        header = run_once_more(header, PUBLISH)
    assert invocations(header, PUBLISH) == 19
    assert header == f"{ROOT};Lineage=38:{PUBLISH}:18|{RESIZE}:18"


@pytest.mark.parametrize(
    ("header", "times"),
    [
        ("", 0),
        (ROOT, 0),
        (f"{ROOT};Lineage=25:{RESIZE}:1", 2),
        (f"{ROOT}; Lineage=25:{RESIZE}:1 ;Sampled=0", 2),
        (f"Lineage={PUBLISH}:1|{RESIZE}:5|c512fbe3:2", 6),
        (f"Lineage=3:{PUBLISH}:1|{RESIZE}:5", 6),
        (f"Lineage={RESIZE}", 0),
        ("Lineage=", 0),
        ("Lineage=::::|||", 0),
        (f"Lineage=1:{RESIZE}:-1", 0),
        (f"Lineage=1:{RESIZE}:99999999999", 32_768),
    ],
)
def test_what_others_write_is_read_as_far_as_it_can_be(header: str, times: int) -> None:
    assert invocations(header, RESIZE) == times


@given(st.text(max_size=200), st.sampled_from(["", "Lineage=", ";Lineage=1:"]))
def test_whatever_a_header_says_a_run_makes_it_one_more(text: str, before: str) -> None:
    header = readable(before + text)
    raised = run_once_more(header, RESIZE)
    assert invocations(raised, RESIZE) == min(invocations(header, RESIZE) + 1, 32_768)
    assert without(raised) == without(header)


def test_of_very_many_functions_those_that_ran_least_are_forgotten() -> None:
    header = ""
    for _ in range(MAX_INVOCATIONS):
        header = run_once_more(header, RESIZE)
    for number in range(100):
        header = run_once_more(header, f"{number:08x}")
    assert invocations(header, RESIZE) == MAX_INVOCATIONS
    assert len(header) < 500


def test_merging_keeps_the_highest_counters_and_what_all_have_in_common() -> None:
    one, other = f"{ROOT};Lineage=5:{RESIZE}:3|{PUBLISH}:0", f"Root=1-2-3;Lineage=4:{PUBLISH}:2"
    assert merged([one, other]) == f"Lineage=5:{RESIZE}:3|{PUBLISH}:2"
    assert merged([one, f"{ROOT};Lineage=9:{PUBLISH}:7"]) == f"{ROOT};Lineage=9:{PUBLISH}:7|{RESIZE}:3"
    assert merged(["", ""]) == ""


def test_a_given_header_goes_on_with_the_lineage_of_the_running_one() -> None:
    assert continued(f"{ROOT};Lineage=1:{PUBLISH}:9", f"Lineage=1:{RESIZE}:0") == f"{ROOT};Lineage=1:{RESIZE}:0"
    assert continued(ROOT, "") == ROOT


@pytest.mark.parametrize("header", ["a\nb", "é", "x" * (MAX_HEADER_BYTES + 1), "%0a", "%ff"])
def test_what_no_header_can_be_is_none(header: str) -> None:
    assert readable(header) == ""


def test_percent_signs_of_botocore_are_undone() -> None:
    assert readable(f"{ROOT};Lineage=2:{RESIZE}:0%7C{PUBLISH}:0") == f"{ROOT};Lineage=2:{RESIZE}:0|{PUBLISH}:0"
