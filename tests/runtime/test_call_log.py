"""The log of one call: what is told of it, and what is left alone."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import copy_context
from typing import Any

import pytest

from runtime import call_log
from runtime.outcomes import Completed, exit_error, failed, timed_out

OK = Completed(b"1")


@contextmanager
def logged(request_id: str = "an-id") -> Iterator[list[str]]:
    """What the block prints and logs in a context of its own, without the lines around it."""
    found: list[str] = []
    log = call_log.begin(request_id)
    call_log.enter(log)
    try:
        yield found
    finally:
        call_log._current.set(None)
        text = call_log.end(log, OK, 3).decode()
        head, tail = f"START RequestId: {request_id} Version: $LATEST\n", f"END RequestId: {request_id}\n"
        found.append(text.removeprefix(head).partition(tail)[0])


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that goes by the root, at level INFO."""
    made = logging.getLogger("tests.call_log")
    made.setLevel(logging.INFO)
    yield made
    made.handlers.clear()
    made.propagate = True


def test_writes_and_lines_of_both_streams_are_kept_and_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with logged() as found:
        print("one", 2)
        sys.stderr.writelines(["three\n", "four\n"])
        sys.stdout.flush()
    assert found == ["one 2\nthree\nfour\n"]
    assert capsys.readouterr() == ("one 2\n", "three\nfour\n")


def test_a_record_is_told_once_however_many_handlers_write_it(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with logged() as found:
        logger.addHandler(logging.StreamHandler(sys.stdout))  # to the watched stream
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.info("hello %s", "you")
        logger.debug("too low")
    (line,) = found[0].splitlines()
    level, time, identity, message = line.split("\t")
    assert (level, identity, message) == ("[INFO]", "an-id", "hello you")
    assert time.endswith("Z")
    assert capsys.readouterr().out == "hello you\n"


def test_a_logger_with_a_form_of_its_own_is_told_in_it(logger: logging.Logger) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter('{"text": "%(message)s"}'))
    logger.addHandler(handler)
    logger.propagate = False
    with logged() as found:
        logger.warning("hello")
    assert found == ['{"text": "hello"}\n']


def test_the_stack_of_a_logged_exception_is_told(logger: logging.Logger) -> None:
    with logged() as found:
        try:
            raise KeyError("gone")
        except KeyError:
            logger.exception("oh")
    assert "\toh\nTraceback (most recent call last):" in found[0]
    assert found[0].endswith("KeyError: 'gone'\n")


def test_a_record_that_cannot_be_formatted_harms_nothing(
    logger: logging.Logger,
) -> None:
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    with logged() as found:
        logger.info("%d", "no number")
    assert found == ["[INFO]\t(it cannot be formatted)\n"]


def test_what_others_print_meanwhile_is_not_told() -> None:
    with logged() as found:
        other = threading.Thread(target=print, args=("another thread",))
        other.start()
        other.join()
        clean = copy_context()
        clean.run(call_log._current.set, None)
        clean.run(print, "another call")
        print("mine")
    assert found == ["mine\n"]


def test_a_stream_that_somebody_puts_there_meanwhile_stays() -> None:
    before, mine = sys.stdout, io.StringIO()
    with redirect_stdout(before):
        log = call_log.begin("an-id")
        sys.stdout = mine
        call_log.end(log, OK, 3)
        assert sys.stdout is mine
    assert sys.stdout is before


def test_watching_ends_with_the_last_call() -> None:
    before: Any = (sys.stdout, sys.stderr, logging.Logger.callHandlers)
    first, second = call_log.begin("one"), call_log.begin("two")
    call_log.end(first, OK, 3)
    assert sys.stdout is not before[0]
    call_log.end(second, OK, 3)
    assert (sys.stdout, sys.stderr, logging.Logger.callHandlers) == before


def test_what_is_written_after_the_end_is_lost_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    with logged():
        kept = sys.stdout
    print("late", file=kept)
    assert capsys.readouterr().out == "late\n"


def test_only_the_last_four_kilobytes_are_kept_whatever_the_characters() -> None:
    log = call_log.CallLog("an-id")
    for _ in range(1000):
        log.printed("ü" * 3000)
    log.printed("\ud800")
    tail = log.ended(OK, 3)
    assert call_log.TAIL_BYTES - 1 <= len(tail) <= call_log.TAIL_BYTES
    assert b"\\ud800END RequestId: an-id\n" in tail


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (
            failed("ValueError", "no", "an-id", ['  File "a.py", line 1, in f\n    x\n']),
            "[ERROR] ValueError: no\nTrace",
        ),
        (timed_out(3, "an-id"), "an-id Task timed out after 3.00 seconds\n\nEND"),
        (None, "END RequestId: an-id\nREPORT"),
    ],
)
def test_the_end_tells_what_went_wrong(outcome: Any, words: str) -> None:
    assert words in call_log.CallLog("an-id").ended(outcome, 3).decode()


def test_an_exit_is_an_error_in_the_report() -> None:
    text = call_log.CallLog("an-id").ended(failed("Runtime.ExitError", "gone", "an-id"), 3).decode()
    assert text.endswith("Status: error\tError Type: Runtime.ExitError\t\n")
    assert b"Runtime exited" in exit_error(None, "an-id")


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("writes", [1, 50])
def test_the_tail_begins_with_a_whole_character(shift: int, writes: int) -> None:
    with logged() as found:
        sys.stdout.write("x" * shift)
        for _ in range(writes):
            sys.stdout.write("€😀" * 2_000)
    assert set(found[0].removesuffix("\n")) == {"€", "😀"}
