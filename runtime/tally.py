"""What happened, for the log: one line a second and function with the sums, one line a failure up to a bound."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

import structlog

from runtime.outcomes import Completed, Failed, Outcome, TimedOut
from runtime.policy import GiveUp, Retry, Verdict

_EVERY_S: Final = 1.0
_FAILURE_LINES: Final = 20

_log = structlog.get_logger("penstock")


class Identified(Protocol):
    """What can say its request id, when a line needs it."""

    @property
    def request_id(self) -> str:
        """The id."""
        ...


class Tally:
    """Counts the events of one function. No payloads come here."""

    def __init__(self, function: str) -> None:
        self._function: Final = function
        self._loop: Final = asyncio.get_running_loop()
        self._succeeded = self._failed = self._given_up = self._released = self._lines = 0
        self._busy_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, outcome: Outcome, verdict: Verdict, event: Identified, started: float) -> None:
        """One call ended."""
        if started:
            self._busy_s += time.monotonic() - started
        match outcome:
            case Completed():
                self._succeeded += 1
            case Failed(_, error_type, message):
                self._failure(error_type, message, verdict, event)
            case TimedOut(_, message):
                self._failure("Sandbox.Timedout", message, verdict, event)
            case _:
                self._released += 1
        if self._timer is None:
            self._timer = self._loop.call_later(_EVERY_S, self.flush)

    def _failure(self, error_type: str, message: str, verdict: Verdict, event: Identified) -> None:
        self._failed += 1
        self._given_up += isinstance(verdict, GiveUp)
        self._lines += 1
        if self._lines > _FAILURE_LINES:
            return
        _log.warning(
            "event_failed",
            function=self._function,
            request_id=event.request_id,
            error_type=error_type,
            error=message[:300],
            retry_in_s=verdict.delay_s if isinstance(verdict, Retry) else None,
            given_up=verdict.condition if isinstance(verdict, GiveUp) else None,
        )

    def flush(self) -> None:
        """Writes the line, if there is anything to say."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended = self._succeeded + self._failed + self._released
        if ended:
            _log.info(
                "events_settled",
                function=self._function,
                succeeded=self._succeeded,
                failed=self._failed,
                given_up=self._given_up,
                released=self._released,
                mean_ms=round(self._busy_s * 1000 / ended, 2),
            )
        self._succeeded = self._failed = self._given_up = self._released = self._lines = 0
        self._busy_s = 0.0
