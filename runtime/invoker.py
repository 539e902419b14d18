"""Runs one call: on the loop or in a thread, under its deadline, and turns whatever happens into an Outcome.

The hot path, so it uses asyncio tasks directly (started eagerly where Python can) and one timer for all deadlines.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from weakref import WeakSet

from broker.errors import PayloadNotJson
from broker.limits import MAX_RESPONSE_BYTES
from broker.log import log
from runtime import call_log
from runtime.context import Context
from runtime.handlers import HandlerFunction
from runtime.left_tasks import LeftTasks
from runtime.outcomes import (
    Abandoned,
    Completed,
    Failed,
    Outcome,
    ResultTooLarge,
    Throttled,
    TimedOut,
    failed,
    failed_with,
    timed_out,
    too_large,
)
from runtime.tracing import CallTrace, ground_of

DEFAULT_THREADS: Final = 32
_TICK_S: Final = 0.02
_LOOK_S: Final = 2e-6
_LOOKS_SHARE: Final = 1 / 50
"""The timer looks at every call, which takes about so long each, for at most this share of the time."""
_CANCEL_GRACE_S: Final = 1.0
_FEWEST_STUCK: Final = 2


class Call:
    """One running call. ``on_outcome`` is told once how it ended; ``on_free`` when its slot is free again, which is
    later for code that does not stop at its timeout."""

    __slots__ = ("abandoned", "begun", "context", "counted", "deadline", "event", "expired", "function", "log", "made",
                 "on_free", "on_outcome", "outcome", "over", "started", "stuck", "task", "trace", "work")  # fmt: skip

    def __init__(
        self,
        function: HandlerFunction,
        event: Any,
        context: Context,
        deadline: float,
        on_outcome: Callable[[Call], None],
        on_free: Callable[[Call], None],
        work: Any,
        log: call_log.CallLog | None = None,
    ) -> None:
        self.function = function
        self.event = event
        self.context = context
        self.deadline = deadline
        self.on_outcome = on_outcome
        self.on_free = on_free
        self.work = work
        self.log = log
        self.started = time.monotonic()
        self.outcome: Outcome | None = None
        self.task: asyncio.Task[None] | None = None
        self.made: WeakSet[asyncio.Task[Any]] | None = None
        self.over = False
        self.trace: CallTrace | None = None
        """What it belongs to, where that is not the same for all calls of its function."""
        self.begun = False
        self.expired = False
        self.abandoned = False
        self.stuck = False
        self.counted = False
        """Among those that do not stop."""

    @property
    def whose(self) -> tuple[str, str]:
        """The name of its function and its request id."""
        return self.function.name, self.context.aws_request_id

    def overdue(self, now: float) -> bool:
        """Whether it has had all the time that its function is given."""
        return self.expired or now >= self.started + self.function.settings.timeout_s


class Invoker:
    """Runs calls of any function of one worker process."""

    def __init__(self, *, threads: int = DEFAULT_THREADS, on_exhausted: Callable[[], None] | None = None) -> None:
        self._pool: Final = ThreadPoolExecutor(threads, thread_name_prefix="penstock-handler")
        self._threads: Final = threads
        self._busy_threads = 0
        self._on_exhausted: Final = on_exhausted
        self._loop: Final = asyncio.get_running_loop()
        self._tasks: Final = LeftTasks(self._loop)
        self._tasks.watch()
        self.running: Final[set[Call]] = set()
        self._told_when_freed: Final[set[Callable[[], None]]] = set()
        self._ticking = False
        self._closed = False
        self.latest = "?"
        """The function whose call last began or ended."""

    @property
    def free_threads(self) -> int:
        """How many more plain functions can run now."""
        return self._threads - self._busy_threads

    def start(self, call: Call) -> None:
        """Starts a call. It may have ended when this returns."""
        self.latest = call.function.name
        self.running.add(call)
        ground = call.function.ground
        if ground is None:
            ground = call.function.ground = ground_of(call.context.invoked_function_arn)
        tasks = self._tasks
        if call.function.on_loop:
            outer, tasks.entered = tasks.entered, call
            task = _start_task(self._run_on_loop(call), self._loop, ground.copy())
            tasks.entered = outer
        else:
            self._busy_threads += 1
            task = _start_task(self._run_in_thread(call), self._loop, ground.copy())
        if not task.done():
            call.task = task
            tasks.calls[task] = call
            if not self._ticking:
                self._ticking = True
                self._loop.call_later(_TICK_S, self._tick)

    def abandon(self, call: Call) -> None:
        """Ends a call without an answer: its worker stops, or somebody else has its event."""
        if call.outcome is None and not call.abandoned:
            call.abandoned = True
            call.deadline = time.monotonic() + _CANCEL_GRACE_S
            if not call.function.on_loop:
                self._settle_stuck(call, Abandoned())
            self._cancel(call)

    def _cancel(self, call: Call) -> None:
        """A task that has not begun (3.11 has no eager ones) would end without a word: it sees by itself."""
        if call.task is not None and call.begun:
            call.task.cancel()

    def when_freed(self, tell: Callable[[], None]) -> None:
        """Calls this once, when the next call of whatever function ends or turns out not to stop."""
        self._told_when_freed.add(tell)

    def tell_freed(self) -> None:
        """There may be room: those who wait for it look again."""
        told = tuple(self._told_when_freed)
        self._told_when_freed.clear()
        for tell in told:
            tell()

    async def ended(self) -> None:
        """Returns when no call is running any more, but for those that do not stop."""
        while any(not call.stuck for call in self.running):
            freed = asyncio.Event()
            self.when_freed(freed.set)
            await freed.wait()

    async def end_left_tasks(self) -> None:
        """Ends what handlers have started and left behind."""
        await self._tasks.end()

    def close(self) -> None:
        """Takes no more calls; threads that are still busy are left to themselves, and nobody waits for them."""
        self._closed = True
        self._tasks.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for call in self.running:
            if call.task is not None and not call.function.on_loop:
                call.task.cancel()

    # -- running ------------------------------------------------------------------------------------------------------

    async def _run_on_loop(self, call: Call) -> None:
        call.begun = True
        outcome: Outcome
        if call.expired or call.abandoned:
            self._end(call, Abandoned())
            return
        if call.log is not None:
            call_log.enter(call.log)
        if call.trace is not None:
            call.trace.enter()
        try:
            outcome = _completed(await call.function.handler(call.event, call.context), call)
        except asyncio.CancelledError as error:
            outcome = self._cancelled(call, error)
        except BaseException as error:  # whatever a handler raises is its outcome, SystemExit too
            if isinstance(error, GeneratorExit) and call.task not in (None, asyncio.current_task(self._loop)):
                raise  # from outside: what is left is being closed
            outcome = failed_with(error, call.context.aws_request_id)
        self._end(call, outcome)

    def _cancelled(self, call: Call, error: asyncio.CancelledError) -> Outcome:
        if call.expired:
            return _timed_out(call)
        if call.abandoned:
            return Abandoned()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            if self._closed:
                raise error  # the worker itself is being ended
            task.uncancel()  # by the handler, of itself
        return failed_with(error, call.context.aws_request_id)

    async def _run_in_thread(self, call: Call) -> None:
        call.begun = True
        if call.log is not None:
            call_log.enter(call.log)
        if call.trace is not None:
            call.trace.enter()
        handler, values = call.function.handler, contextvars.copy_context()

        def run() -> Outcome:
            if call.outcome is not None:
                return call.outcome  # settled before a thread was free: it must not run any more
            try:
                return _completed(values.run(handler, call.event, call.context), call)
            except BaseException as error:  # noqa: BLE001 - as on the loop
                return failed_with(error, call.context.aws_request_id)

        try:
            future = self._loop.run_in_executor(self._pool, run)
        except RuntimeError:  # no more threads are to be had: the system's fault, so it uses up no try
            self._busy_threads -= 1
            self._end(call, Throttled())
            return
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                if self._closed or not (call.expired or call.abandoned):
                    raise
                # A thread cannot be ended: its slot stays taken until it returns.
        self._busy_threads -= 1
        self._end(call, future.result())

    def _end(self, call: Call, outcome: Outcome) -> None:
        self.latest = call.function.name
        self.running.discard(call)
        self._tasks.ended(call)  # before anything of ours is started from here
        try:
            if call.outcome is None:
                call.outcome = _cut_short(call, outcome) if call.expired or call.abandoned else outcome
                if call.trace is not None:
                    call.trace.ended(call.outcome)
                call.on_outcome(call)
        finally:
            call.on_free(call)
            if self._told_when_freed:
                self.tell_freed()

    # -- deadlines ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        waiting = False
        for call in [call for call in self.running if not call.counted]:
            waiting = True
            if call.stuck:
                self._count_overdue(call, now)
            elif call.deadline <= now:
                self._overrun(call, now)
        self._ticking = waiting
        if waiting:
            self._loop.call_later(max(_TICK_S, len(self.running) * _LOOK_S / _LOOKS_SHARE), self._tick)

    def _overrun(self, call: Call, now: float) -> None:
        """At its deadline a call is cancelled; what does not stop then is settled all the same and keeps its slot."""
        if call.expired or call.abandoned:
            ended: Outcome = Abandoned() if call.abandoned else _timed_out(call)
            self._settle_stuck(call, ended)
            return
        call.expired = True
        call.deadline = now + _CANCEL_GRACE_S
        if not call.function.on_loop:
            self._settle_stuck(call, _timed_out(call))
        else:
            self._cancel(call)

    def _settle_stuck(self, call: Call, outcome: Outcome) -> None:
        call.stuck = True
        if call.outcome is None:
            call.outcome = outcome
            if call.trace is not None:
                call.trace.ended(outcome)
            call.on_outcome(call)
        self.tell_freed()
        self._count_overdue(call, time.monotonic())

    def _count_overdue(self, call: Call, now: float) -> None:
        """An abandoned thread is given the time that it has to end by itself."""
        if not call.overdue(now):
            return
        call.counted = True
        stuck = sum(other.counted for other in self.running)
        log.warning("handler_does_not_stop", function=call.function.name, stuck_calls=stuck)
        if stuck >= max(self._threads / 2, min(self._threads, _FEWEST_STUCK)) and self._on_exhausted is not None:
            self._on_exhausted()


def _completed(result: Any, call: Call) -> Completed | Failed:
    try:
        encoded = call.function.encode_result(result)
    except PayloadNotJson as error:
        problem = f"Unable to marshal response: {error.reason}"
        return failed("Runtime.MarshalError", problem, call.context.aws_request_id, [])
    except ResultTooLarge as error:
        return too_large(error.limit_bytes, call.context.aws_request_id)
    if len(encoded) > MAX_RESPONSE_BYTES:
        return too_large(MAX_RESPONSE_BYTES, call.context.aws_request_id)
    return Completed(encoded)


def _cut_short(call: Call, outcome: Outcome) -> Outcome:
    """Whatever a handler makes of its cancellation: over its time is a timeout, and a stop uses up no try."""
    if call.expired:
        return outcome if isinstance(outcome, TimedOut) else _timed_out(call)
    return outcome if isinstance(outcome, Completed) else Abandoned()


def _timed_out(call: Call) -> TimedOut:
    return timed_out(call.function.settings.timeout_s, call.context.aws_request_id)


if sys.version_info >= (3, 12):

    def _start_task(
        work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> asyncio.Task[None]:
        return asyncio.Task(work, loop=loop, eager_start=True, context=context)

else:

    def _start_task(
        work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> asyncio.Task[None]:
        return asyncio.Task(work, loop=loop, context=context)
