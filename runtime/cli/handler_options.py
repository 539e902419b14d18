"""The options of `penstock runtime` and `penstock dev` that name an existing Lambda handler instead of an app."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Final

from cyclopts import Group, Parameter

from broker import limits
from broker.errors import InvalidOption
from broker.names import Queue, check_name
from broker.records import FunctionSettings, MappingSettings
from runtime.engine import DEFAULT_CALLS
from runtime.invoker import DEFAULT_THREADS
from runtime.lambda_handler import LambdaHandler
from runtime.loading import split_reference

_GROUP: Final = Group("Options with --handler")
_OF_QUEUES: Final = ("batch_size", "batch_window", "partial_failures", "max_concurrency")
_CALLS_OF_HANDLER: Final = 1


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, kw_only=True)
class HandlerOptions:
    """An existing handler and what an app would say of it in code."""

    handler: Annotated[str | None, Parameter(metavar="MODULE.FUNCTION")] = None
    """An existing Lambda handler, as orders.app.handler, instead of an app; one a process."""

    function: str | None = None
    """Name of its function; needed."""

    queue: str | None = None
    """Queue whose messages it gets, in batches."""

    timeout: float | None = None
    """Seconds that a call may take; 3."""

    memory: int | None = None
    """MB that the context and the environment tell; 128. It limits nothing."""

    concurrency: int | None = None
    """Most calls at a time over all workers; no limit."""

    retries: int | None = None
    """More tries of an event after an error; 2."""

    max_event_age: float | None = None
    """Seconds after which an event is given up; 21600."""

    dead_letter: str | None = None
    """Queue for events that were given up."""

    keep_status: float | None = None
    """Seconds for which it is known how an event ended; 3600."""

    keep_result: int | None = None
    """Largest result of an event, in bytes, that is kept with its status; 0."""

    batch_size: int | None = None
    """Most messages of a call; 10."""

    batch_window: float | None = None
    """Seconds to wait for a full batch; 0."""

    partial_failures: Annotated[bool | None, Parameter(negative=(), show_default=False)] = None
    """Only what its batchItemFailures name comes back."""

    max_concurrency: int | None = None
    """Most batches at a time over all workers; no limit."""

    def source(self, app: str | None) -> str | LambdaHandler:
        """The app's name, or the handler with its settings. Raises InvalidOption, InvalidName, HandlerNotLoaded."""
        if self.handler is None:
            return self._app(app)
        if app is not None:
            raise InvalidOption("--handler", self.handler, f"goes without an app, which {app!r} would be")
        if self.function is None:
            raise InvalidOption("--function", None, "must name the function that the handler is to be")
        return LambdaHandler(
            handler=self.handler, function=self.function, settings=self._settings(), mapping=self._mapping()
        )

    def room(self, max_calls: int | None, threads: int | None) -> tuple[int, int]:
        """Calls and threads of a process: as given, else what suits an app, or a handler that expects, as in Lambda, to
        be called again only when it has returned."""
        calls = (DEFAULT_CALLS if self.handler is None else _CALLS_OF_HANDLER) if max_calls is None else max_calls
        if threads is None:
            threads = DEFAULT_THREADS if self.handler is None else min(max(calls, 1), DEFAULT_THREADS)
        return calls, threads

    def _app(self, app: str | None) -> str:
        if app is None:
            raise InvalidOption("APP", None, 'name an app, as "app:app", or an existing handler with --handler')
        for field in fields(self):
            if getattr(self, field.name) is not None:
                rule = "goes with --handler; an app says it in code"
                raise InvalidOption(_spelled(field.name), getattr(self, field.name), rule)
        split_reference(app)
        return app

    def _settings(self) -> FunctionSettings:
        return FunctionSettings(
            timeout_s=limits.DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout,
            retries=limits.DEFAULT_RETRIES if self.retries is None else self.retries,
            max_event_age_s=limits.DEFAULT_MAX_EVENT_AGE_S if self.max_event_age is None else self.max_event_age,
            memory_mb=limits.DEFAULT_MEMORY_MB if self.memory is None else self.memory,
            concurrency=self.concurrency,
            dead_letter=None if self.dead_letter is None else Queue(self.dead_letter),
            keep_status_s=limits.DEFAULT_KEEP_STATUS_S if self.keep_status is None else self.keep_status,
            keep_result_bytes=self.keep_result or 0,
        )

    def _mapping(self) -> MappingSettings | None:
        if self.queue is None:
            for name in _OF_QUEUES:
                if getattr(self, name) is not None:
                    raise InvalidOption(_spelled(name), getattr(self, name), "goes with --queue")
            return None
        return MappingSettings(
            queue=check_name("queue", self.queue),
            function=str(self.function),
            batch_size=limits.DEFAULT_BATCH_SIZE if self.batch_size is None else self.batch_size,
            batch_window_s=0 if self.batch_window is None else self.batch_window,
            partial_failures=bool(self.partial_failures),
            max_concurrency=self.max_concurrency,
        )


NO_HANDLER: Final = HandlerOptions()
"""The defaults, as a signature needs them."""


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"
