"""LogType=Tail: what a call printed and logged, in the answer."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.wire.lambdas import Functions, Lambda


def test_the_tail_holds_what_was_printed_and_logged(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("write", 7, LogType="Tail")
    lines, identity = answer.log.splitlines(), answer.request_id
    assert lines[:3] == [f"START RequestId: {identity} Version: $LATEST", "printed 7", "to stderr"]
    level, _, logged_id, message = lines[3].split("\t")
    assert (level, logged_id, message) == ("[WARNING]", identity, "logged 7")
    assert lines[4:6] == ["from a thread", f"END RequestId: {identity}"]
    name, duration, billed, size, used, end = lines[6].split("\t")
    assert (name, size, end) == (f"REPORT RequestId: {identity}", "Memory Size: 128 MB", "")
    assert (duration[:10], billed[:16], used[:17]) == ("Duration: ", "Billed Duration:", "Max Memory Used: ")
    assert len(lines) == 7


def test_nothing_is_told_to_whoever_does_not_ask(aws_lambda: Lambda, work: Functions) -> None:
    assert "x-amz-log-result" not in aws_lambda.run("write", 7).headers


def test_the_output_of_a_plain_function_is_told(aws_lambda: Lambda, work: Functions) -> None:
    assert aws_lambda.run("plain", 7, LogType="Tail").log.splitlines()[1] == "plain 7"


def test_calls_side_by_side_have_each_their_own_log(aws_lambda: Lambda, work: Functions) -> None:
    def ask(number: int) -> None:
        function = "write" if number % 2 else "plain"
        log = aws_lambda.run(function, number, LogType="Tail").log
        own = {line for line in log.splitlines() if line.startswith(("printed", "plain"))}
        assert own == {f"{'printed' if number % 2 else 'plain'} {number}"}
        assert log.count("START") == log.count("REPORT") == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(80)))


def test_streams_and_logging_are_left_alone_when_nobody_asks_any_more(aws_lambda: Lambda, work: Functions) -> None:
    before = sys.stdout, sys.stderr, logging.Logger.callHandlers
    aws_lambda.run("write", 1, LogType="Tail")
    assert (sys.stdout, sys.stderr, logging.Logger.callHandlers) == before


def test_the_tail_is_the_last_four_kilobytes_of_a_megabyte(aws_lambda: Lambda, work: Functions) -> None:
    log = aws_lambda.run("talk", 1_048_576, LogType="Tail").log
    assert len(log) == 4096
    assert log.startswith("xxx")
    assert "the end\nEND RequestId: " in log


def test_failures_are_in_the_log(aws_lambda: Lambda, work: Functions) -> None:
    failed = aws_lambda.run("fail", "luck", LogType="Tail").log
    assert "[ERROR] ValueError: no luck\nTraceback (most recent call last):\n" in failed
    assert "Status: error\tError Type: ValueError" in failed
    timed_out = aws_lambda.run("slow", 1, LogType="Tail").log
    assert "Task timed out after 0.05 seconds\n\nEND" in timed_out
    assert "Status: timeout" in timed_out
