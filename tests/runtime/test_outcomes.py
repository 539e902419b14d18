"""Lambda's error objects (spec: function error objects), as bytes that are passed on unchanged."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runtime.outcomes import Failed, brief, error_json, exit_error, failed, failed_with, timed_out


def decoded(error: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(error)
    return found


def raised(error: BaseException) -> Failed:
    def handler() -> None:
        raise error

    try:
        handler()
    except BaseException as caught:  # noqa: BLE001 - SystemExit is among them
        return failed_with(caught, "req")
    raise AssertionError


def test_an_exception_gives_class_text_and_the_frames_of_the_handler() -> None:
    failure = raised(KeyError("path"))
    found = decoded(failure.error)
    stack = found.pop("stackTrace")
    assert found == {"errorMessage": "'path'", "errorType": "KeyError", "requestId": "req"}
    assert stack[-1].startswith(f'  File "{__file__}", line ')
    assert stack[-1].endswith("\n")
    assert "in handler" in stack[-1]
    assert (failure.error_type, failure.message) == ("KeyError", "'path'")


def test_an_error_whose_text_cannot_be_made_is_still_told() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    found = decoded(raised(Mute()).error)
    assert found["errorType"] == "Mute"
    assert found["errorMessage"] == "<error text unavailable: ZeroDivisionError>"


def test_text_that_is_no_text_is_still_told() -> None:
    assert decoded(raised(ValueError("half a pair: \ud800")).error)["errorType"] == "ValueError"


def test_a_long_message_is_cut() -> None:
    assert len(decoded(raised(ValueError("x" * 1_000_000)).error)["errorMessage"]) == 64 * 1024


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "Runtime exited without providing a reason"),
        (0, "Runtime exited without providing a reason"),
        (127, "Runtime exited with error: exit status 127"),
        ("some text", "Runtime exited with error: exit status 1"),
    ],
)
def test_an_exit_is_named_with_its_status(code: Any, reason: str) -> None:
    assert decoded(raised(SystemExit(code)).error) == {
        "errorMessage": f"RequestId: req Error: {reason}",
        "errorType": "Runtime.ExitError",
        "requestId": "req",
    }


def test_a_timeout_is_in_lambdas_words_with_two_decimals() -> None:
    outcome = timed_out(1, "req")
    message = "RequestId: req Error: Task timed out after 1.00 seconds"
    assert decoded(outcome.error) == {"errorMessage": message, "errorType": "Sandbox.Timedout", "requestId": "req"}
    assert outcome.message == message
    assert timed_out(0.125, "req").message.endswith("after 0.12 seconds")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("signal: killed", "Runtime exited with error: signal: killed"),
        (None, "Runtime exited without providing a reason"),
    ],
)
def test_the_end_of_a_process_is_named_with_its_cause(cause: str | None, reason: str) -> None:
    found = decoded(exit_error(cause, "req"))
    assert found["errorType"] == "Runtime.ExitError"
    assert found["errorMessage"] == f"RequestId: req Error: {reason}"


def test_a_stack_is_there_only_where_there_is_one() -> None:
    assert "stackTrace" not in decoded(error_json("T", "m", "req"))
    assert decoded(failed("T", "m", "req", []).error)["stackTrace"] == []


def test_a_long_error_keeps_its_end_in_the_log_where_those_that_quote_others_have_the_cause() -> None:
    quoting = "All records failed processing.\n\nTraceback:\n" + "  File ...\n" * 100 + "ValueError: quantity"
    shown = brief(quoting)
    assert shown.startswith("All records failed processing.")
    assert shown.endswith("ValueError: quantity")
    assert len(shown) < 310
    assert brief("short") == "short"
