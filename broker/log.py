"""The library's log: as structlog is configured; where it is not, warnings and worse go to standard error.

A program that only uses the SDK shall not find our lines in its standard output, which is structlog's own default.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any, Final

import structlog

_NAME: Final = "penstock"


class Log:
    """Writes lines: an event in snake_case and fields. Payloads and credentials do not belong there."""

    def debug(self, event: str, **fields: Any) -> None:
        """For developers of Penstock."""
        self._target.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happens when all is well."""
        self._target.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What an operator may want to look into."""
        self._target.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """What somebody must look into."""
        self._target.error(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """The same, with the traceback of the exception that is being handled."""
        self._target.exception(event, **fields)

    @property
    def _target(self) -> Any:
        if structlog.is_configured():
            return structlog.get_logger(_NAME)
        return structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
            processors=_processors(colors=sys.stderr.isatty()),
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        )


@cache
def _processors(*, colors: bool) -> list[Any]:
    """Those of structlog, without its tracebacks: where rich is installed they show local variables, payloads too."""
    own = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return [*own[:-1], plain]


log: Final = Log()
