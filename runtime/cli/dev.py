"""`penstock dev`: a private Redis, a gateway and a worker for the app of this folder, replaced when a file changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from cyclopts import Parameter
from watchfiles import Change, DefaultFilter, awatch

from broker import Broker
from broker.dev_directory import DevDirectory
from broker.embedded import EmbeddedRedis
from broker.errors import InvalidOption
from broker.gateway.options import DEFAULT_HOST, GatewayOptions, port_is_chosen
from broker.gateway.running import run_gateway
from broker.gateway.server import AddressUnusable, Bound
from broker.log import log
from broker.workers import live_workers
from runtime.cli.gateway import Port, setting_lines
from runtime.cli.handler_options import NO_HANDLER, HandlerOptions
from runtime.cli.options import COMMON, Common
from runtime.cli.output import Output
from runtime.cli.serving import Form, Grace, Level, MaxCalls, Processes, Threads, check_serving, set_logs, supervise
from runtime.collecting import collect_seldom
from runtime.supervisor import Supervisor

_DEFAULT_GRACE_S: Final = 5.0
_REDIS_LOOK_S: Final = 1.0
_DEBOUNCE_MS: Final = 400
_WATCH_ROUND_MS: Final = 250
_FILES_NAMED: Final = 5


def dev(
    app: str | None = None,
    /,
    *,
    processes: Processes = 1,
    reload: Annotated[bool, Parameter(help="Replace the worker when a Python file of this folder changes.")] = True,
    port: Port = None,
    gateway: Annotated[bool, Parameter(help="Serve SQS and Lambda over HTTP too, as `penstock broker` does.")] = True,
    grace: Grace = _DEFAULT_GRACE_S,
    max_calls: MaxCalls = None,
    threads: Threads = None,
    log_level: Level = None,
    log_format: Form = None,
    existing: HandlerOptions = NO_HANDLER,
    common: Common = COMMON,
) -> int:
    """Run everything for the app of this folder: a private Redis, a worker and a gateway.

    APP is module:attribute, as app:app; or --handler and --function name an
    existing Lambda handler. The worker is replaced when a Python file changes.
    The data are kept in .penstock/ and are there again the next time. Other
    commands in this folder, or below it, find this Redis by themselves. Ctrl-C
    drains and stops it all.
    """
    source = existing.source(app)
    calls, of_threads = existing.room(max_calls, threads)
    check_serving(processes=processes, grace=grace, max_calls=calls, threads=of_threads)
    if common.url is not None:
        raise InvalidOption("--url", common.url, "penstock dev runs a Redis of its own; see penstock runtime")
    options = GatewayOptions.read(host=DEFAULT_HOST, port=port) if gateway else None
    set_logs(log_level, log_format)
    folder = Path.cwd()
    with DevDirectory(folder) as directory, EmbeddedRedis(directory.path / "redis", append_only=True) as redis:
        directory.publish(redis.url)
        supervisor = Supervisor(
            source,
            url=redis.url,
            processes=processes,
            grace_s=grace,
            max_calls=calls,
            threads=of_threads,
            keep_going=reload,
        )
        served = DevGateway(redis.url, options, must=port_is_chosen(port), grace_s=grace)
        session = _Session(
            folder, str(source), redis=redis, supervisor=supervisor, gateway=served, output=common.output
        )
        companions = [served.run, session.welcome, session.keep_redis, *([session.replace_on_change] if reload else [])]
        status = anyio.run(lambda: supervise(supervisor, *companions, grace_s=grace))
        # An app that could not be loaded for a while is what reloading is for.
        return 0 if reload else status


class DevGateway:
    """The gateway of this folder's Redis, where its port is free."""

    def __init__(self, url: str, options: GatewayOptions | None, *, must: bool, grace_s: float) -> None:
        self._url: Final = url
        self._options: Final = options
        self._must: Final = must
        self._grace_s: Final = grace_s
        self.begun: Final = anyio.Event()
        self.bound: Bound | None = None
        self.lines: Sequence[str] = ()
        """What the screen says of it."""

    async def run(self) -> None:
        """Serves until it is cancelled. Raises AddressUnusable for a port that somebody asked for."""
        if self._options is None:
            self.begun.set()
            return
        try:
            # The workers do the upkeep.
            async with (
                Broker(self._url) as broker,
                run_gateway(broker, self._options, grace_s=self._grace_s, upkeep=False) as self.bound,
            ):
                settings = setting_lines(self._options, self.bound, broker.core.settings.region)
                self.lines = [f"SQS, Lambda: {self.bound.url}", "", *settings]
                self.begun.set()
                collect_seldom()
                await anyio.sleep_forever()
        except AddressUnusable as error:
            if self._must:
                raise
            log.warning("gateway_not_started", reason=str(error))
            self.lines = [f"SQS, Lambda: not served, as {error.reason} (port {error.port}); --port chooses another"]
            self.begun.set()


class _Session:
    """What goes on beside the supervisor."""

    def __init__(
        self,
        folder: Path,
        app: str,
        *,
        redis: EmbeddedRedis,
        supervisor: Supervisor,
        gateway: DevGateway,
        output: Output,
    ) -> None:
        self._folder: Final = folder
        self._app: Final = app
        self._redis: Final = redis
        self._supervisor: Final = supervisor
        self._gateway: Final = gateway
        self._output: Final = output

    async def welcome(self) -> None:
        """Says, once the worker is ready, what runs and what to type next."""
        await self._supervisor.ready.wait()
        await self._gateway.begun.wait()
        async with Broker(self._redis.url) as broker:
            live = [worker for worker in await live_workers(broker.core) if worker.process in self._supervisor.serving]
        functions = sorted({name for worker in live for name in worker.functions})
        mapped = {mapping.partition("->")[2] for worker in live for mapping in worker.mappings}
        if self._output.as_json:
            bound = self._gateway.bound
            self._output.emit(
                {
                    "app": self._app,
                    "folder": str(self._folder),
                    "url": self._redis.url,
                    "functions": functions,
                    "gateway": None if bound is None else bound.url,
                }
            )
        else:
            _print_screen(self._lines(functions, [name for name in functions if name not in mapped]))

    def _lines(self, functions: Sequence[str], invocable: Sequence[str]) -> list[str]:
        if not self._supervisor.serving:
            return [f"{self._app} could not be started: see above. Mend it; it is loaded again when a file changes."]
        if not functions:
            return [
                f"{self._app} is running, and has no functions: register some by @app.function() or @app.queue(NAME)"
            ]
        example = next(iter(invocable or functions))
        commands = {
            f"penstock invoke {example} '{{}}'": "store an event for it",
            f"penstock call {example} '{{}}'": "run it and wait for the result",
            "penstock functions": "what is queued and running",
            "penstock queues": "what lies in the queues",
        }
        width = max(map(len, commands))
        return [
            f"{self._app} is running: {', '.join(functions)}",
            f"Redis: {self._redis.url}",
            *self._gateway.lines,
            "",
            "In another terminal, in this folder:",
            *(f"  {command:<{width}}  {purpose}" for command, purpose in commands.items()),
            *self._warning(),
            "",
            "Ctrl-C stops it all; the data stay in .penstock/",
        ]

    def _warning(self) -> list[str]:
        """Commands look at this variable before they look for a running `penstock dev`."""
        other = os.environ.get("PENSTOCK_REDIS_URL")
        return ["but unset PENSTOCK_REDIS_URL there: it names another Redis"] if other else []

    async def keep_redis(self) -> None:
        """Starts the private Redis again when it died; its data are in its append-only file."""
        while True:
            await anyio.sleep(_REDIS_LOOK_S)
            if not self._redis.running:
                log.error("redis_died", reason="it is started again")
                await anyio.to_thread.run_sync(self._redis.start)

    async def replace_on_change(self) -> None:
        """Replaces the worker when Python files change; one that cannot start leaves the old one running."""
        await self._supervisor.ready.wait()
        # The timeout is how long a cancellation waits for the watcher's thread.
        watched = awatch(self._folder, watch_filter=_PythonFiles(), debounce=_DEBOUNCE_MS, rust_timeout=_WATCH_ROUND_MS)
        async for changes in watched:
            files = sorted({str(Path(path).relative_to(self._folder)) for _, path in changes})
            log.info("files_changed", files=files[:_FILES_NAMED], more=max(0, len(files) - _FILES_NAMED))
            if await self._supervisor.replace():
                log.info("worker_replaced")
            else:
                log.error("worker_not_replaced", reason="the new one could not start; the old one, if any, goes on")


class _PythonFiles(DefaultFilter):
    """Python files, but not those of environments, caches and .penstock/."""

    ignore_dirs = (*DefaultFilter.ignore_dirs, ".penstock", "venv", ".ruff_cache", "build", "dist")

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(".py") and super().__call__(change, path)


def _print_screen(lines: list[str]) -> None:
    if not sys.stdout.isatty():
        print("\n".join(lines), flush=True)  # noqa: T201 - the command's output
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    style: dict[str, Any] = {"title": "penstock dev", "title_align": "left", "border_style": "cyan", "expand": False}
    Console().print(Panel(Text("\n".join(lines)), padding=(0, 1), **style))
