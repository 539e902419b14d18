"""The worker process that a supervisor starts: `python -m runtime.child OPTIONS`, where OPTIONS is JSON.

Over the control socket it says who it is, when it is ready, why it cannot start, when it has seen events that were set
apart and when it has had enough; when the other end is gone, so is its supervisor, and it drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, ParamSpec

import anyio
import msgspec

from broker import spans
from broker.client import Broker
from broker.declarations import declared_anew
from broker.errors import PenstockError
from broker.figures import Figures, LoopLag
from broker.records import FunctionSettings
from broker.versions import read_catalogue
from runtime.app import App
from runtime.handlers import HandlerFunction
from runtime.lambda_environment import new_log_stream
from runtime.lambda_handler import LambdaHandler
from runtime.loading import load_app
from runtime.logs import configure_logs
from runtime.metrics import WORKER
from runtime.recycling import Recycle, memory_bytes
from runtime.reporting import Reporter, State
from runtime.steady_output import make_output_steady
from runtime.worker import Worker

P = ParamSpec("P")

EXIT_CANNOT_START: Final = 78
"""The app cannot be loaded, or Redis not be used: starting again would not help."""

EXIT_EXHAUSTED: Final = 75
"""It has drained because too many of its calls do not stop; another one is to take its place."""

_MAX_REASON: Final = 8_000


class ChildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells its child."""

    app: str | LambdaHandler
    """`module:attribute`, or an existing handler."""
    url: str | None
    grace_s: float
    max_calls: int
    threads: int
    recycle: Recycle = Recycle()
    early_mb: int = 0
    """What the process whose place it takes told of its first seconds."""
    alone: bool
    build: str = ""
    control: int
    """File descriptor of the control socket."""
    reports: int | None = None
    """That of the socket for what metrics are made of; None where nobody asked for them."""


def main() -> int:
    """Serves until told to stop; answers the exit status."""
    options = msgspec.json.decode(sys.argv[1], type=ChildOptions)
    make_output_steady()
    configure_logs()
    control = socket.socket(fileno=options.control)
    problems: BaseExceptionGroup[PenstockError] | None = None
    try:
        log_stream = new_log_stream()
        app = _app(options, log_stream)
        options.recycle.check_memory()
        figures = None if options.reports is None else Figures(WORKER)
        worker = Worker(
            app,
            options.url,
            grace=options.grace_s,
            max_calls=options.max_calls,
            threads=options.threads,
            alone=options.alone,
            build=options.build,
            log_stream=log_stream if isinstance(options.app, LambdaHandler) else None,
            figures=figures,
            on_suspects=_at_most_every_second(lambda: _say(control, "suspects")),
            on_backlog=_at_most_every_second(lambda count: _say(control, f"behind {count}")),
            on_ready=lambda: _say(control, "ready"),
            on_settings=_when_outdated(app, lambda: _say(control, "renew"))
            if isinstance(options.app, LambdaHandler)
            else None,
        )
        _say(control, f"hello {worker.process}")
        _run(_serve(worker, control, options, figures))
    except* PenstockError as errors:  # a task group's, or one of load_app's own
        problems = errors
    if problems is None:
        return 0
    reason = msgspec.json.encode(str(_first(problems))[:_MAX_REASON]).decode()
    _say(control, f"failed {reason}")
    return EXIT_CANNOT_START


def _app(options: ChildOptions, log_stream: str) -> App:
    if isinstance(options.app, str):
        return load_app(options.app)
    settings = anyio.run(_in_force, options.url, options.app, options.build)
    options.app.prepare(log_stream, settings)
    app = options.app.app()
    app.functions[options.app.function].settings_at_start = settings
    return app


async def _in_force(url: str | None, source: LambdaHandler, build: str) -> FunctionSettings:
    """The settings that its function will have when this process has registered it, or those of the version that its
    build is, where a newer one is registered: what its code reads of them in the environment must be there before the
    code is loaded."""
    async with Broker(url) as broker:
        described = await broker.core.directory.describe(broker.core.resource("function", source.function))
        catalogue = await read_catalogue(broker.core, source.function)
    if described is None:
        return source.settings
    registered = msgspec.json.decode(described.settings, type=FunctionSettings)
    mine = catalogue.newest_of(build) if build and build != registered.build else 0
    return catalogue.settings_of(str(mine), registered) if mine else declared_anew(registered, source.settings)


def _when_outdated(app: App, tell: Callable[[], None]) -> Callable[[HandlerFunction], None]:
    """Tells when the function's settings are no longer those that the environment of this process was made of; of every
    change once."""
    told: FunctionSettings | None = None

    def look(function: HandlerFunction) -> None:
        nonlocal told
        known = told or app.functions[function.name].settings_at_start
        others = function.resource_name != function.name and (
            known is None or function.settings.version != known.version
        )
        if known is not None and not others and _in_environment(function.settings) != _in_environment(known):
            told = function.settings
            tell()

    return look


def _in_environment(settings: FunctionSettings) -> tuple[dict[str, str], int, str]:
    return settings.environment, settings.memory_mb, settings.version


def _first(group: BaseExceptionGroup[PenstockError]) -> PenstockError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _serve(worker: Worker, control: socket.socket, options: ChildOptions, figures: Figures | None) -> None:
    reporter = _reporter(worker, options.reports, figures)
    async with anyio.create_task_group() as group:
        group.start_soon(_obey_signals, worker, name="signals")
        group.start_soon(_notice_orphaning, worker, control, name="supervisor watch")
        group.start_soon(_watch_growth, worker, control, options, name="recycling")
        await worker.run()
        if reporter is not None:
            reporter.stop()
        # Here: on its way out the loop would wait for handlers that do not stop.
        end(EXIT_EXHAUSTED if worker.exhausted else 0)


async def _watch_growth(worker: Worker, control: socket.socket, options: ChildOptions) -> None:
    def tell(words: str) -> None:
        _say(control, words)

    await options.recycle.watch(lambda: worker.events_ended, tell, early_mb=options.early_mb)


def _reporter(worker: Worker, to: int | None, figures: Figures | None) -> Reporter | None:
    if to is None or figures is None:
        return None
    lag = LoopLag()
    lag.start()

    def state() -> State:
        return State(worker.state, worker.running_calls, lag.worst_s(), memory_bytes())

    reporter = Reporter(socket.socket(fileno=to), figures, state)
    reporter.start()
    return reporter


async def _obey_signals(worker: Worker) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            worker.stop()


async def _notice_orphaning(worker: Worker, control: socket.socket) -> None:
    gone = anyio.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while control.recv(64):
                pass
        with contextlib.suppress(RuntimeError):
            anyio.from_thread.run_sync(gone.set, token=token)

    token = anyio.lowlevel.current_token()
    threading.Thread(target=read, name="penstock-control", daemon=True).start()
    await gone.wait()
    worker.stop()


def _say(control: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):
        control.sendall(words.encode() + b"\n")


def _at_most_every_second(tell: Callable[P, None]) -> Callable[P, None]:
    last = float("-inf")

    def tell_sometimes(*args: P.args, **options: P.kwargs) -> None:
        nonlocal last
        if time.monotonic() - last >= 1:
            last = time.monotonic()
            tell(*args, **options)

    return tell_sometimes


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end. What a handler has done to the loop (an exit in a callback, a stop) ends the process here and
    now: closing the loop would wait for handlers that swallow their cancellation, and be deaf meanwhile."""
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        runner.run(work)
    except* PenstockError:
        raise
    except* SystemExit as error:
        left = error.exceptions[0]
        code = left.code if isinstance(left, SystemExit) else 1
        end(code if isinstance(code, int) else 0 if code is None else 1)
    except* BaseException:  # noqa: BLE001 - told, and the supervisor tells of the status
        traceback.print_exc()
        end(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - only where it is there
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def end(status: int) -> NoReturn:
    """Ends the process at once: a handler that never returns must not hold it."""
    spans.flush()  # what its libraries do at exit is left out
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a handler may have closed it, or taken it away
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main())
