"""`penstock runtime`, and what it shares with `penstock dev`: a supervisor under signals, its options."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import anyio
from cyclopts import Parameter

from broker.builds import check_build
from broker.errors import PenstockError
from broker.records import check_range, check_whole
from runtime.cli.handler_options import NO_HANDLER, HandlerOptions
from runtime.cli.health_options import NO_HEALTH_PORT, HealthOptions, serving_health
from runtime.cli.options import COMMON, Common
from runtime.engine import DEFAULT_CALLS
from runtime.invoker import DEFAULT_THREADS
from runtime.logs import FORMAT_VARIABLE, LEVEL_VARIABLE, LogFormat, LogLevel, configure_logs
from runtime.monitor import Monitor
from runtime.recycling import Recycle
from runtime.steady_output import make_output_steady
from runtime.supervisor import Supervisor
from runtime.worker import DEFAULT_GRACE_S

MAX_PROCESSES = 256

Processes: TypeAlias = Annotated[int, Parameter(help="Worker processes; each runs the whole app.")]
Grace: TypeAlias = Annotated[float, Parameter(help="Seconds that running calls get after a stop.")]
MaxCalls: TypeAlias = Annotated[
    int | None, Parameter(help=f"Most calls at a time in one process; {DEFAULT_CALLS}, with --handler 1.")
]
Threads: TypeAlias = Annotated[
    int | None,
    Parameter(
        help=f"Threads for handlers that are no coroutines, in one process; {DEFAULT_THREADS}, with --handler as many"
        " as calls."
    ),
]
BUILD_VARIABLE = "PENSTOCK_BUILD"
Build: TypeAlias = Annotated[
    str | None,
    Parameter(
        help=f"Name of this code, as a release or commit, so that versions can be published; or {BUILD_VARIABLE}."
    ),
]
Level: TypeAlias = Annotated[LogLevel | None, Parameter(help=f"Or {LEVEL_VARIABLE}; info.", show_choices=True)]
Form: TypeAlias = Annotated[LogFormat | None, Parameter(help=f"Or {FORMAT_VARIABLE}; pretty on a terminal, else json.")]


async def runtime(
    app: str | None = None,
    /,
    *,
    processes: Processes = 1,
    grace: Grace = DEFAULT_GRACE_S,
    max_calls: MaxCalls = None,
    threads: Threads = None,
    max_events_per_process: Annotated[
        int | None, Parameter(help="Exchange a worker process for a fresh one after so many events; never.")
    ] = None,
    max_memory: Annotated[
        int | None, Parameter(help="The same when it has grown over so many MB of resident memory; never.")
    ] = None,
    build: Build = None,
    log_level: Level = None,
    log_format: Form = None,
    existing: HandlerOptions = NO_HANDLER,
    health: HealthOptions = NO_HEALTH_PORT,
    common: Common = COMMON,
) -> int:
    """Run the functions of an app: workers that claim events and messages from Redis.

    APP is module:attribute, as app:app. Without it, --handler and --function
    name an existing Lambda handler, which runs one call at a time in each
    process, with Lambda's environment variables. SIGTERM or Ctrl-C stops
    claiming and gives running calls the grace period; a second one ends them
    now. Processes that die are started again.
    """
    source = existing.source(app)
    calls, of_threads = existing.room(max_calls, threads)
    check_serving(processes=processes, grace=grace, max_calls=calls, threads=of_threads)
    recycle = _recycle(max_events_per_process, max_memory)
    set_logs(log_level, "json" if common.json else log_format)
    place = health.read()
    monitor = None if place is None else Monitor()
    supervisor = Supervisor(
        source,
        url=common.url,
        processes=processes,
        grace_s=grace,
        max_calls=calls,
        threads=of_threads,
        recycle=recycle,
        build=check_build(os.environ.get(BUILD_VARIABLE, "") if build is None else build),
        monitor=monitor,
    )
    async with serving_health(place, monitor):
        return await supervise(supervisor, grace_s=grace)


def check_serving(*, processes: int, grace: float, max_calls: int, threads: int) -> None:
    """Raises InvalidOption for what no supervisor could work with."""
    check_whole("processes", processes, 1, MAX_PROCESSES)
    check_range("grace", grace, 0, 86_400)
    check_whole("max-calls", max_calls, 1, 1_000_000)
    check_whole("threads", threads, 1, 10_000)


def _recycle(events: int | None, memory_mb: int | None) -> Recycle:
    if events is not None:
        check_whole("max-events-per-process", events, 1, 10**12)
    if memory_mb is not None:
        check_whole("max-memory", memory_mb, 1, 10**7)
    return Recycle(events=events, memory_mb=memory_mb)


def set_logs(level: LogLevel | None, form: LogFormat | None) -> None:
    """For this process, which goes on also where nothing can be written; and, by the environment, for the workers that
    it starts."""
    make_output_steady()
    configure_logs(level=level, form=form)
    if level is not None:
        os.environ[LEVEL_VARIABLE] = level
    if form is not None:
        os.environ[FORMAT_VARIABLE] = form


async def supervise(
    supervisor: Supervisor, *companions: Callable[[], Coroutine[Any, Any, None]], grace_s: float
) -> int:
    """Runs a supervisor under signals, and companions beside it until it ends; answers its exit status."""
    status = 1
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_obey_signals, supervisor, grace_s, name="signals")
            for companion in companions:
                group.start_soon(companion, name=getattr(companion, "__name__", "companion"))
            status = await supervisor.run()
            group.cancel_scope.cancel()
    except* PenstockError as errors:
        raise first_error(errors) from None
    return status


def first_error(group: BaseExceptionGroup[PenstockError]) -> PenstockError:
    """The first error that a task group has gathered; one is all that a command can tell of."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error


@contextmanager
def stop_signals() -> Iterator[AsyncIterator[signal.Signals]]:
    """What ends a command, as it comes. Afterwards it is ignored: what has stopped ends with its own status, however
    often it is told."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it: the terminal may go
        numbers.append(signal.SIGHUP)
    try:
        with anyio.open_signal_receiver(*numbers) as received:
            yield received
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


async def _obey_signals(supervisor: Supervisor, grace_s: float) -> None:
    stopping = False
    with stop_signals() as received:
        async for _ in received:
            if not stopping and sys.stderr.isatty():
                sys.stderr.write(f"\nstopping: running calls get {grace_s:g} s to end; Ctrl-C again ends them now\n")
            stopping = True
            supervisor.stop()
