"""The parent of worker processes: starts them, starts them again, replaces them, and keeps why one died.

It runs no user code, so it is there when a handler takes its process down. Events that were on a process when it died
are set apart; for those it starts one more process, which runs them one at a time, and where there are many several.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

import anyio
import msgspec

from broker.client import Broker
from broker.core import Core
from broker.errors import StoreError
from broker.gateway.metrics_access import TOKEN_VARIABLE
from broker.log import log
from runtime.child import EXIT_CANNOT_START, EXIT_EXHAUSTED, ChildOptions
from runtime.lambda_handler import LambdaHandler
from runtime.monitor import Monitor
from runtime.process_ends import cause_of, end_of
from runtime.recycling import Recycle
from runtime.worker_process import RESTART_LAST_S, WorkerProcess, pause_s

EXIT_DRAINED: Final = 0
EXIT_FAILED: Final = 1
_STEADY_S: Final = 2.0
_EVENTS_A_LANE: Final = 100
_LAST_WORDS_S: Final = 0.5
_REPORT_BYTES: Final = 16 * 1024 * 1024
_NEVER: Final = Recycle()


class Supervisor:
    """Keeps ``processes`` workers of one app, or of one existing handler, running until :meth:`stop`.

    With ``keep_going`` an app that cannot be loaded is not the end: the next :meth:`replace` may mend it. ``monitor``
    is told what they are at.
    """

    def __init__(
        self,
        app: str | LambdaHandler,
        *,
        url: str | None,
        processes: int = 1,
        grace_s: float,
        max_calls: int,
        threads: int,
        recycle: Recycle = _NEVER,
        build: str = "",
        keep_going: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        self._app: Final = app
        self._url: Final = url
        self._processes: Final = processes
        self._grace_s: Final = grace_s
        self._max_calls: Final = max_calls
        self._threads: Final = threads
        self._recycle: Final = recycle
        self._exchanging: Final = asyncio.Lock()
        self._build: Final = build
        self._keep_going: Final = keep_going
        self._monitor: Final = monitor
        self._children: Final[set[WorkerProcess]] = set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._stopping = anyio.Event()
        self._status = EXIT_DRAINED
        self._wants_alone = False
        self._told = ""
        self._renewing: asyncio.Task[None] | None = None
        self._core: Core | None = None
        self.ready: Final = anyio.Event()
        """Set when every worker has once been ready."""

    # -- public -------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Runs until stopped; answers the exit status: 0 drained, 1 a worker could not start. Raises StoreError when
        Redis cannot be used at the start; later workers are started again until they can."""
        async with Broker(self._url) as broker:
            self._core = broker.core
            if self._monitor is not None:
                self._monitor.watch(broker)
            try:
                # A stop that came before this has found nobody to tell.
                for child in [self._start() for _ in range(self._processes) if not self._stopping.is_set()]:
                    await _first(child.ready, child.ended)
                self.ready.set()
                await self._stopping.wait()
                await self._wait_for_children()
            finally:
                for child in tuple(self._children):
                    child.signal(signal.SIGKILL)
                for task in tuple(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._status

    @property
    def serving(self) -> frozenset[str]:
        """Its worker processes that are ready, by name: what Redis lists may be of others, or of those that died."""
        return frozenset(child.name for child in self._children if child.ready.is_set())

    def stop(self) -> None:
        """Drains all workers; a second time ends their calls now."""
        self._stopping.set()
        for child in tuple(self._children):
            child.signal(signal.SIGTERM)

    async def replace(self) -> bool:
        """Starts new workers and drains the old ones once the new are ready. False: the new ones could not start, and
        the old ones go on."""
        async with self._exchanging:
            if self._stopping.is_set():  # while it waited for its turn: nobody would stop the new ones
                return False
            old = [child for child in self._children if not child.retiring]
            return await self._take_over([self._start_if_possible() for _ in range(self._processes)], old)

    async def _take_over(self, started: list[WorkerProcess | None], old: list[WorkerProcess]) -> bool:
        self._told = ""
        new = [child for child in started if child is not None]
        for child in new:
            child.retiring = True  # until it is ready, nobody starts it again
            await _first(child.ready, child.ended)
        if len(new) < len(started) or not all(child.ready.is_set() for child in new):
            for child in new:
                child.signal(signal.SIGTERM)
            return False
        for child in new:
            child.retiring = False
        for child in old:
            child.retiring = True
            child.signal(signal.SIGTERM)
        return True

    async def _exchange(self, child: WorkerProcess, *, reason: str, figures: dict[str, int], early_mb: int) -> None:
        """One after another, and the old one works on until the new one is ready: no throughput is lost."""
        async with self._exchanging:
            if child.retiring or child.ended.is_set() or self._stopping.is_set():
                return
            new = self._start_if_possible(early_mb=early_mb)
            done = await self._take_over([new], [child])
            has_heir = child.ended.is_set()  # it died meanwhile, and nobody but us knew of the new one
        if done and has_heir and new is not None:
            new.retiring = True
            new.signal(signal.SIGTERM)
        if done:
            log.info("worker_recycled", process=child.name, reason=reason, **figures)
        elif not self._stopping.is_set():
            log.warning("worker_not_recycled", process=child.name, reason=reason, **figures)
            child.spent = False

    # -- children -----------------------------------------------------------------------------------------------------

    def _start_if_possible(self, *, alone: bool = False, deaths: int = 0, early_mb: int = 0) -> WorkerProcess | None:
        """None where the system has no memory, descriptors or process for another one now; the others go on."""
        try:
            return self._start(alone=alone, deaths=deaths, early_mb=early_mb)
        except OSError as error:
            log.error("worker_not_started", alone=alone, reason=str(error))
            return None

    async def _start_again(self, *, alone: bool, deaths: int) -> None:
        while not self._stopping.is_set() and self._start_if_possible(alone=alone, deaths=deaths) is None:
            with anyio.move_on_after(RESTART_LAST_S):
                await self._stopping.wait()

    def _start(self, *, alone: bool = False, deaths: int = 0, early_mb: int = 0) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        told, tells = (None, None) if self._monitor is None else socket.socketpair()
        options = ChildOptions(
            app=self._app,
            url=self._url,
            grace_s=self._grace_s,
            max_calls=self._max_calls,
            threads=self._threads,
            recycle=_NEVER if alone else self._recycle,
            early_mb=early_mb,
            alone=alone,
            build=self._build,
            control=theirs.fileno(),
            reports=None if tells is None else tells.fileno(),
        )
        with contextlib.ExitStack() as unused:
            for end in filter(None, (ours, theirs, told, tells)):
                unused.enter_context(end)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runtime.child", msgspec.json.encode(options).decode()],
                pass_fds=(theirs.fileno(), *(() if tells is None else (tells.fileno(),))),
                start_new_session=True,  # Ctrl-C is for the supervisor, which then drains them
                stdin=subprocess.DEVNULL,
                env={**_environment(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            unused.pop_all()
        theirs.close()
        ours.settimeout(0)
        child = WorkerProcess(process, ours, alone=alone, deaths=deaths)
        self._children.add(child)
        self._spawn(self._listen(child), f"listen-{process.pid}")
        if self._monitor is not None and told is not None and tells is not None:
            tells.close()
            self._monitor.started(process.pid, alone=alone)
            self._spawn(_hear(self._monitor, process.pid, told), f"reports-{process.pid}")
        self._spawn(self._watch(child), f"watch-{process.pid}")
        return child

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"penstock-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, child: WorkerProcess) -> None:
        reader, writer = await asyncio.open_connection(sock=child.control)
        try:
            while line := await reader.readline():
                match line.decode().split():
                    case ["hello", name]:
                        child.name = name
                    case ["ready"]:
                        child.ready.set()
                    case ["failed", *_]:
                        self._tell_why(msgspec.json.decode(line.partition(b" ")[2], type=str))
                    case ["suspects"]:
                        self._run_alone()
                    case ["behind", count]:
                        self._widen(int(count))
                    case ["spent", reason, events, memory_mb, early_mb] if not child.spent:
                        child.spent = True
                        figures = {"events": int(events), "memory_mb": int(memory_mb)}
                        exchange = self._exchange(child, reason=reason, figures=figures, early_mb=int(early_mb))
                        self._spawn(exchange, f"exchange-{child.process.pid}")
                    case ["renew"]:
                        self._renew()
                    case _:
                        pass
        except ConnectionError:
            pass  # it died; _watch tells
        finally:
            writer.close()
            child.heard.set()

    def _tell_why(self, reason: str) -> None:
        """Once for all processes of one start."""
        if reason != self._told:
            sys.stderr.write(f"penstock: {reason}\n")
        self._told = reason

    async def _watch(self, child: WorkerProcess) -> None:
        status = await end_of(child.process)
        with anyio.move_on_after(_LAST_WORDS_S):  # a process that it forked may hold the other end open
            await child.heard.wait()
        self._children.discard(child)
        child.ended.set()
        self._forget(child)
        if child.retiring or self._stopping.is_set():
            return
        if status == EXIT_CANNOT_START and (self._keep_going or not self.ready.is_set()):
            self._status = EXIT_FAILED
            if not self._keep_going:
                self.stop()
            return
        cause = cause_of(status)
        deaths = 0
        if status == EXIT_EXHAUSTED:
            log.warning("worker_exchanged", process=child.name)
        elif not (child.alone and status == 0):
            log.error("worker_died", process=child.name, pid=child.process.pid, cause=cause, alone=child.alone)
            await self._record(child, cause)
            deaths = 1 if time.monotonic() - child.started > _STEADY_S else child.deaths + 1
            with anyio.move_on_after(pause_s(child, deaths)):
                await self._stopping.wait()
        if child.alone:
            # While it paused, another one may have been asked for and started.
            is_done = status in {0, EXIT_EXHAUSTED} and not self._wants_alone
            if is_done or any(other.alone for other in self._children):
                return
            self._wants_alone = False
        await self._start_again(alone=child.alone, deaths=deaths)

    def _run_alone(self) -> None:
        """Events were set apart: one process for them is enough."""
        if any(child.alone for child in self._children):
            self._wants_alone = True
        elif not self._stopping.is_set():
            self._start_if_possible(alone=True)  # else it is asked for again

    def _widen(self, behind: int) -> None:
        """Many events wait for those that run alone: as many processes as there are others may share them. Each runs
        one at a time, so blame is as exact as before."""
        lanes = [child for child in self._children if child.alone]
        wanted = min(self._processes, 1 + behind // _EVENTS_A_LANE)
        if all(child.ready.is_set() for child in lanes) and not self._stopping.is_set():
            for _ in range(wanted - len(lanes)):
                self._start_if_possible(alone=True)

    def _renew(self) -> None:
        """The environment that its handler was loaded with has changed: new processes take over, one set for all that
        ask."""
        if self._renewing is None and not self._stopping.is_set():
            self._renewing = task = asyncio.create_task(self._replace_outdated(), name="renew")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace_outdated(self) -> None:
        try:
            if await self.replace():
                log.info("workers_renewed", reason="the function's environment or memory has changed")
            elif not self._stopping.is_set():
                log.error("workers_not_renewed", reason="those with the new environment cannot start; the old go on")
        finally:
            self._renewing = None

    def _forget(self, child: WorkerProcess, *, died_of: str | None = None) -> None:
        if self._monitor is not None:
            self._monitor.ended(child.process.pid, died_of)

    async def _record(self, child: WorkerProcess, cause: str) -> None:
        self._forget(child, died_of=cause)
        if self._core is None or not child.name:
            return
        try:
            await self._core.directory.record_end(child.name, cause)
        except StoreError as error:
            log.warning("cause_not_kept", process=child.name, cause=cause, reason=str(error))

    async def _wait_for_children(self) -> None:
        while self._children:
            await next(iter(self._children)).ended.wait()


def _environment() -> dict[str, str]:
    """That of a worker process: user code needs no secret of the supervisor's."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


async def _hear(monitor: Monitor, pid: int, told: socket.socket) -> None:
    """Passes on what a worker process reports, until it is gone."""
    told.settimeout(0)
    reader, writer = await asyncio.open_connection(sock=told, limit=_REPORT_BYTES)
    try:
        while line := await reader.readline():
            if line.endswith(b"\n"):  # else it died in the middle
                monitor.heard(pid, line)
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
