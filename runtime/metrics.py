"""What worker processes count for Prometheus: a few additions a call, and nothing where nobody asked for it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Literal, TypeAlias

from broker.figures import SECONDS, Figures, Histogram, Metric
from broker.names import Resource
from runtime.outcomes import Completed, Failed, Outcome, TimedOut

Source: TypeAlias = Literal["event", "batch", "call"]

_OF: Final = ("function", "source")
_BATCH_SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)

CALLS: Final = Metric(
    "penstock_worker_calls",
    "counter",
    "Calls of handlers that have ended: succeeded, failed, timed_out, or released (cut off by a stop, or no room).",
    (*_OF, "outcome"),
)
DURATION: Final = Metric("penstock_worker_call_duration_seconds", "histogram", "How long handlers ran.", _OF, SECONDS)
WAIT: Final = Metric(
    "penstock_worker_wait_seconds",
    "histogram",
    "From an event's or message's acceptance to the start of its first try, a delay included.",
    _OF,
    SECONDS,
)
BATCH: Final = Metric(
    "penstock_worker_batch_messages", "histogram", "Messages in a batch.", ("function", "queue"), _BATCH_SIZES
)
FAILURES: Final = Metric(
    "penstock_worker_failures",
    "counter",
    "Calls that failed, by error; of each function the first 20 types by name, then other.",
    (*_OF, "error_type"),
)
RETRIES: Final = Metric(
    "penstock_worker_retries", "counter", "Events, and messages of batches, put back after a failure.", _OF
)
GIVEN_UP: Final = Metric(
    "penstock_worker_given_up",
    "counter",
    "Events that ended without success, by the condition in their invocation record.",
    ("function", "condition"),
)
THROTTLES: Final = Metric(
    "penstock_worker_throttles",
    "counter",
    "Claims at the concurrency limit (limit), calls handed to a process without room, once a process (room).",
    ("function", "reason"),
)
LEASES_LOST: Final = Metric(
    "penstock_worker_leases_lost",
    "counter",
    "Leases that ended before their message was settled: renewed too late, taken over, or cancelled.",
    ("kind", "name"),
)
DEATHS: Final = Metric(
    "penstock_worker_deaths", "counter", "Worker processes that ended and should not have, by cause.", ("cause",)
)
COUNTED: Final = (CALLS, DURATION, WAIT, BATCH, FAILURES, RETRIES, GIVEN_UP, THROTTLES, LEASES_LOST, DEATHS)

PROCESSES: Final = Metric(
    "penstock_worker_processes",
    "gauge",
    "Worker processes by state: polling, starting, stopping, deaf (cannot reach Redis), silent (no word for 10 s).",
    ("state",),
)
RUNNING: Final = Metric("penstock_worker_running_calls", "gauge", "Calls that run now, in all processes.")
LAG: Final = Metric(
    "penstock_worker_loop_lag_seconds",
    "gauge",
    "The latest that the event loop of any process came round in the last minute, what is under way included.",
)
MEMORY: Final = Metric("penstock_worker_resident_memory_bytes", "gauge", "Resident memory of all processes.")
WORKER: Final = (*COUNTED, PROCESSES, RUNNING, LAG, MEMORY)
"""Every metric of `penstock runtime`."""


class CallFigures:
    """The calls of one function from one source; made once and kept where they end."""

    __slots__ = ("_figures", "_function", "_of", "_succeeded", "duration", "wait")

    def __init__(self, figures: Figures, function: str, source: Source) -> None:
        self._figures = figures
        self._function = function
        self._of = (function, source)
        self._succeeded = figures.tick(CALLS.name, function, source, "succeeded")
        self.duration: Histogram = figures.histogram(DURATION.name, function, source)
        self.wait: Histogram | None = figures.histogram(WAIT.name, function, source) if source != "call" else None

    def ended(self, outcome: Outcome | None, took_s: float | None) -> None:
        """One call; without ``took_s`` it never ran."""
        if took_s is not None:
            duration = self.duration  # as `observe` does; a call less for every event
            duration.counts[bisect_left(duration.bounds, took_s)] += 1
            duration.total += took_s
        if type(outcome) is Completed:  # of all that happens, most
            self._succeeded.value += 1
            return
        match outcome:
            case Failed() | TimedOut():
                how = "timed_out" if isinstance(outcome, TimedOut) else "failed"
                error_type = self._figures.bounded(outcome.error_type, FAILURES.name, *self._of)
                self._figures.count(FAILURES.name, *self._of, error_type)
            case _:
                how = "released"
        self._figures.count(CALLS.name, *self._of, how)

    def retried(self, count: int = 1) -> None:
        """So many were put back after a failure."""
        self._figures.count(RETRIES.name, *self._of, by=count)

    def given_up(self, condition: str) -> None:
        """An event ended without success."""
        self._figures.count(GIVEN_UP.name, self._function, condition)

    def throttled(self, reason: Literal["limit", "room"]) -> None:
        """There was no place for it."""
        self._figures.count(THROTTLES.name, self._function, reason)


def count_lost(figures: Figures | None, resource: Resource, count: int) -> None:
    """Leases that were somebody else's, or nobody's, before their messages were settled."""
    if figures is not None and count:
        figures.count(LEASES_LOST.name, resource.kind, resource.name, by=count)
