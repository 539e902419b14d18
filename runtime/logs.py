"""Where log lines go and how they look: to stderr, pretty on a terminal and one JSON object a line otherwise.

Lines of the standard library's `logging` (of users' code and of libraries) come out in the same form. Payloads never
get into a line by accident: values under their usual names and bytes are left out, passwords in URLs are masked, and
tracebacks are shown without local variables.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO, TypeAlias, get_args

import msgspec
import structlog
from structlog.typing import ExcInfo, Processor

from broker.errors import InvalidOption

LEVEL_VARIABLE: Final = "PENSTOCK_LOG_LEVEL"
FORMAT_VARIABLE: Final = "PENSTOCK_LOG_FORMAT"

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["json", "pretty"]

_LEFT_OUT: Final = frozenset({"payload", "body", "password", "secret", "token", "request_payload", "response_payload"})
_USER_PASSWORD: Final = re.compile(r"(\w://[^\s:/?#@]*):[^\s/@]*@")
_QUERY_PASSWORD: Final = re.compile(r"([?&]password=)[^\s&]*")
_FIRST: Final = ("timestamp", "level", "event")


def configure_logs(
    *,
    level: LogLevel | None = None,
    form: LogFormat | None = None,
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Sets up structlog and `logging` for this process, on ``stream`` (stderr).

    What is not given comes from ``PENSTOCK_LOG_LEVEL`` (debug, info, warning, error; info by default) and
    ``PENSTOCK_LOG_FORMAT`` (json, pretty; pretty where the stream is a terminal). Raises InvalidOption.
    """
    target = sys.stderr if stream is None else stream
    lowest = logging.getLevelNamesMapping()[_level(level, environment).upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        leave_out_payloads,
    ]
    renderers = _renderers(_form(form, environment, target), target)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(lowest, target, shared=shared, renderers=renderers)


def leave_out_payloads(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: no value under a payload's or credential's name, no bytes, no password in a URL."""
    for name, value in fields.items():
        if name in _LEFT_OUT:
            fields[name] = "(left out)"
        elif isinstance(value, bytes | bytearray):
            fields[name] = f"({len(value)} bytes)"
        elif isinstance(value, str) and ("@" in value or "password=" in value):
            fields[name] = masked(value)
    return fields


def masked(text: str) -> str:
    """The text with ``***`` for the passwords of the URLs in it."""
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", text))


def _level(given: LogLevel | None, environment: Mapping[str, str]) -> str:
    return _choice(LEVEL_VARIABLE, given or environment.get(LEVEL_VARIABLE) or "info", get_args(LogLevel))


def _form(given: LogFormat | None, environment: Mapping[str, str], target: TextIO) -> str:
    default = "pretty" if target.isatty() else "json"
    return _choice(FORMAT_VARIABLE, given or environment.get(FORMAT_VARIABLE) or default, get_args(LogFormat))


def _choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value.lower() not in choices:
        raise InvalidOption(option, value, f"one of {', '.join(choices)}")
    return value.lower()


def _renderers(form: str, target: TextIO) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, _mask_traceback, structlog.processors.JSONRenderer(_to_json)]
    # Rich tracebacks, structlog's default, show local variables: payloads among them.
    return [structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=_write_traceback)]


def _mask_traceback(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if "exception" in fields:
        fields["exception"] = masked(str(fields["exception"]))
    return fields


def _write_traceback(target: TextIO, exc_info: ExcInfo) -> None:
    target.write("\n" + masked("".join(traceback.format_exception(*exc_info)).rstrip()))


def _to_json(fields: Mapping[str, Any], **_: object) -> str:
    ordered = {name: fields[name] for name in _FIRST if name in fields}
    return msgspec.json.encode({**ordered, **fields}, enc_hook=str).decode()


def _configure_standard_library(
    lowest: int, target: TextIO, *, shared: list[Processor], renderers: list[Processor]
) -> None:
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=lowest, handlers=[handler], force=True)
    # It tells of every file that it saw, in its own words; we tell of those that mattered.
    logging.getLogger("watchfiles").setLevel(max(lowest, logging.WARNING))
