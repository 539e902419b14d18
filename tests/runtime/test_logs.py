"""Log lines: their form, their level, and what never gets into them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from broker.errors import InvalidOption
from runtime.logs import configure_logs, masked


@pytest.fixture(autouse=True)
def logs_restored() -> Iterator[None]:
    """What other tests of this process rely on comes back."""
    root, watchfiles = logging.getLogger(), logging.getLogger("watchfiles")
    handlers, level, watchfiles_level = root.handlers[:], root.level, watchfiles.level
    for handler in handlers:  # so that basicConfig(force=True) does not close pytest's own
        root.removeHandler(handler)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    watchfiles.setLevel(watchfiles_level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def configured(**options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logs(stream=stream, **{"environment": {}, **options})
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


def test_lines_are_json_with_a_utc_time_where_there_is_no_terminal() -> None:
    stream = configured()
    structlog.get_logger("test").info("worker_ready", functions=2)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "functions"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["functions"]) == ("info", "worker_ready", 2)


def test_lines_are_pretty_on_a_terminal() -> None:
    stream = Terminal()
    configure_logs(stream=stream, environment={})
    structlog.get_logger("test").warning("worker_gone", process="w1")
    assert "worker_gone" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_the_environment_decides_where_nothing_is_given() -> None:
    stream = configured(environment={"PENSTOCK_LOG_LEVEL": "ERROR", "PENSTOCK_LOG_FORMAT": "pretty"})
    log = structlog.get_logger("test")
    log.warning("not_shown")
    log.error("shown", reason="r")
    assert "not_shown" not in stream.getvalue()
    assert "reason=r" in stream.getvalue()


@pytest.mark.parametrize("variable", ["PENSTOCK_LOG_LEVEL", "PENSTOCK_LOG_FORMAT"])
def test_an_unknown_choice_is_named_with_those_that_there_are(variable: str) -> None:
    with pytest.raises(InvalidOption, match=rf"{variable}='loud': one of "):
        configured(environment={variable: "loud"})


def test_payloads_bytes_and_credentials_are_left_out() -> None:
    stream = configured()
    structlog.get_logger("test").info(
        "connected",
        url="rediss://me:hunter2@redis:6379/0?password=hunter2",
        payload={"card": "4111"},
        body="4111",
        blob=b"4111",
    )
    (line,) = lines(stream)
    assert line["url"] == "rediss://me:***@redis:6379/0?password=***"
    assert (line["payload"], line["body"], line["blob"]) == ("(left out)", "(left out)", "(4 bytes)")
    assert "4111" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_tracebacks_show_no_local_variables_and_no_passwords(form: str) -> None:
    stream = configured(form=form)
    card = "4111" + "1111"
    try:
        raise ValueError("no answer from redis://me:hunter2@redis")
    except ValueError:
        structlog.get_logger("test").exception("handler_failed", length=len(card))
    assert "ValueError: no answer from redis://me:***@redis" in stream.getvalue()
    assert "41111111" not in stream.getvalue()


def test_lines_of_the_standard_library_come_out_in_the_same_form() -> None:
    stream = configured()
    logging.getLogger("users.code").warning("hello %s", "you", extra={"order": 7})
    logging.getLogger("users.code").debug("not shown")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"], line["order"]) == ("hello you", "warning", "users.code", 7)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:secret@host", "redis://:***@host"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("unix:///run/r.sock?db=1&password=secret", "unix:///run/r.sock?db=1&password=***"),
        ("mail to a:b@c", "mail to a:b@c"),
    ],
)
def test_only_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
