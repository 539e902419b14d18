"""What happened: for the log a line a second and function with the sums, and a line a failure up to a bound; and for
metrics, where somebody asked for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final, Protocol

from broker.figures import Figures
from broker.log import log
from runtime.batches import Held
from runtime.metrics import BATCH, CallFigures
from runtime.outcomes import Completed, Failed, Outcome, TimedOut, brief
from runtime.policy import BatchVerdict, GiveUp, Retry, Verdict

_EVERY_S: Final = 1.0
_FAILURE_LINES: Final = 20


class Identified(Protocol):
    """What can say its request id, when a line needs it."""

    @property
    def request_id(self) -> str:
        """The id."""
        ...


class _Sums:
    """Counts up, and writes one line when a second has passed since the first count."""

    def __init__(self, event: str, **names: str) -> None:
        self._event: Final = event
        self._names: Final = names
        self._loop: Final = asyncio.get_running_loop()
        self._counts: dict[str, int] = {}
        self._calls = self._lines = 0
        self._busy_s = 0.0
        self._due = False

    def call(self, started: float) -> float | None:
        """One call ended; ``started`` 0 means that it never ran. Answers how long it took, in seconds."""
        self._calls += 1
        took_s = None
        if started:
            took_s = time.monotonic() - started
            self._busy_s += took_s
        self._write_soon()
        return took_s

    def count(self, name: str, by: int = 1) -> None:
        """Adds to one of the sums."""
        self._counts[name] = self._counts.get(name, 0) + by
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_later(_EVERY_S, self.write)

    def may_write_failure(self) -> bool:
        """Whether this failure gets a line of its own."""
        self._lines += 1
        return self._lines <= _FAILURE_LINES

    def write(self) -> None:
        """Writes the line and begins anew."""
        mean_ms = round(self._busy_s * 1000 / self._calls, 2) if self._calls else None
        log.info(self._event, **self._names, **self._counts, mean_ms=mean_ms)
        self._counts = {}
        self._calls = self._lines = 0
        self._busy_s, self._due = 0.0, False


class Tally:
    """The events of one function."""

    def __init__(self, function: str, figures: Figures | None = None) -> None:
        self._function: Final = function
        self._sums: Final = _Sums("events_settled", function=function)
        self.figures: Final = None if figures is None else CallFigures(figures, function, "event")
        """None where nobody asked for metrics."""

    def add(self, outcome: Outcome, verdict: Verdict, event: Identified, started: float) -> None:
        """One call ended. No payloads come here."""
        took_s = self._sums.call(started)
        if self.figures is not None:
            self.figures.ended(outcome, took_s)
        match outcome:
            case Completed():
                self._sums.count("succeeded")
            case Failed() | TimedOut():
                self._sums.count("failed")
                self._count_failure(verdict)
                if isinstance(verdict, GiveUp):
                    self._sums.count("given_up")
                if self._sums.may_write_failure():
                    self._write_failure(outcome, verdict, event)
            case _:
                self._sums.count("released")

    def _count_failure(self, verdict: Verdict) -> None:
        if self.figures is not None and isinstance(verdict, Retry):
            self.figures.retried()
        elif self.figures is not None and isinstance(verdict, GiveUp):
            self.figures.given_up(verdict.condition)

    def _write_failure(self, outcome: Failed | TimedOut, verdict: Verdict, event: Identified) -> None:
        log.warning(
            "event_failed",
            function=self._function,
            request_id=event.request_id,
            error_type=outcome.error_type,
            error=brief(outcome.message),
            at=outcome.at or None,
            retry_in_s=verdict.delay_s if isinstance(verdict, Retry) else None,
            given_up=verdict.condition if isinstance(verdict, GiveUp) else None,
        )


class BatchTally:
    """The batches of one mapping."""

    def __init__(self, function: str, queue: str, figures: Figures | None = None) -> None:
        self._function: Final = function
        self._queue: Final = queue
        self._sums: Final = _Sums("batches_settled", function=function, queue=queue)
        self.figures: Final = None if figures is None else CallFigures(figures, function, "batch")
        """None where nobody asked for metrics."""
        self._sizes: Final = None if figures is None else figures.histogram(BATCH.name, function, queue)

    def waited(self, held: Iterable[Held]) -> None:
        """They are about to run; counts how long those waited that run for the first time."""
        if self.figures is None or self.figures.wait is None:
            return
        now = time.monotonic()
        for item in held:
            if not item.letter.facts.tries:
                since_claim_s = now - item.claimed_at
                self.figures.wait.observe((item.claimed_ms - item.letter.sent_ms) / 1000 + since_claim_s)

    def filtered(self, messages: int) -> None:
        """So many messages were deleted that the mapping's filters do not want."""
        self._sums.count("filtered", messages)

    def add(self, messages: int, outcome: Outcome, verdict: BatchVerdict, started: float) -> None:
        """One batch ended. No payloads come here."""
        took_s = self._sums.call(started)
        self._sums.count("batches")
        self._sums.count("messages", messages)
        if self.figures is not None and self._sizes is not None:
            self.figures.ended(outcome, took_s)
            self._sizes.observe(messages)
        if not verdict.failed:
            return
        self._sums.count("failed", len(verdict.failed))
        if self._sums.may_write_failure():
            raised = outcome if isinstance(outcome, Failed | TimedOut) else None
            log.warning(
                "batch_failed",
                function=self._function,
                queue=self._queue,
                messages=messages,
                failed=len(verdict.failed),
                error_type=raised.error_type if raised else None,
                problem=brief(verdict.problem) or "named in batchItemFailures",
                at=raised.at or None if raised else None,
            )
