"""The SDK for programs without an event loop: the same names, the same rules, plain calls.

``Broker`` runs the asynchronous one on an event loop in a thread of its own. It may be used from several threads at
once; concurrent sends share round trips as coroutines' sends do. Errors are those of the asynchronous methods.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from threading import Condition
from typing import Any, Final, NamedTuple, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from broker import client as aio
from broker import functions as aio_functions
from broker import limits, streams
from broker.builds import Alias, Version
from broker.client import DEFAULT_CALL_TIMEOUT_S
from broker.errors import PenstockError
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.statuses import Status
from broker.store.values import Counts
from broker.streams import StreamRecord
from broker.sync_calls import CallStream
from broker.sync_queues import Message, QueueClient, Runs

__all__ = ["Broker", "FunctionClient", "Message", "QueueClient", "StreamClient"]

T = TypeVar("T")


class Broker:
    """A connection to Penstock, to be used with ``with``; :class:`broker.Broker` says where it finds Redis.

    Entering raises StoreUnavailable (naming the address and why it was used), StoreUnsuitable, StoreReadOnly or
    StoreDenied. Leaving waits for calls of other threads that are under way.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self._url: Final = url
        self._settings: Final = settings
        self._opened: _Opened | None = None
        self._calls = 0
        self._changed: Final = Condition()

    def __enter__(self) -> Self:
        if self._opened is not None:
            raise PenstockError("this Broker is open already: make another one")
        broker = aio.Broker(self._url, settings=self._settings)
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio", name="penstock-broker"))
            stack.enter_context(portal.wrap_async_context_manager(broker))
            self._opened = _Opened(portal, broker, stack.pop_all())
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            opened, self._opened = self._opened, None
            self._changed.wait_for(lambda: self._calls == 0)
        if opened is not None:
            opened.stack.close()

    # -- functions ----------------------------------------------------------------------------------------------------

    def invoke(self, function: str, event: object, *, id: str | None = None) -> str:  # noqa: A002 - the word users know
        """Stores an event for asynchronous invocation and answers its request id; returning means stored.

        With an own ``id``, a repetition within five minutes is accepted once. Raises FunctionNotFound for a function
        that no worker has ever registered, InvalidInput for an event that is not JSON or over 1 MiB, StoreError.
        """
        return self._run(lambda: self._broker.invoke(function, event, id=id))

    def invoke_many(self, function: str, events: Iterable[object]) -> list[str]:
        """Stores many events, a thousand a step, and answers their request ids.

        All are checked before the first is stored. Errors as :meth:`invoke`.
        """
        ready = list(events)  # here: what a generator does in between is no business of the event loop
        return self._run(lambda: self._broker.invoke_many(function, ready))

    def call(self, function: str, event: object, *, timeout: float = DEFAULT_CALL_TIMEOUT_S) -> Any:
        """Runs the function on a live worker and answers its result; never tried again.

        Raises FunctionError (Lambda's error type, message, stack), CallThrottled at the concurrency limit,
        CallTimeout after ``timeout`` seconds, NoLiveWorker, FunctionNotFound, InvalidInput, StoreError.
        """
        return self._run(lambda: self._broker.call(function, event, timeout=timeout))

    def call_stream(self, function: str, event: object, *, timeout: float = DEFAULT_CALL_TIMEOUT_S) -> CallStream:
        """Runs the function on a live worker and gives what it yields as it comes, as bytes; never tried again.

        ``with broker.call_stream("tell", event) as chunks: for chunk in chunks: ...``

        As :meth:`broker.Broker.call_stream`.
        """
        return CallStream(self._run, self._broker, function, event, timeout_s=timeout)

    def status(self, request_id: str, *, function: str | None = None, wait: float = 0) -> Status:
        """Where an event is, or how it ended, for as long as its function's ``keep_status`` says.

        Waits up to ``wait`` seconds for its end. An id of your own needs the name of the ``function``. Raises
        EventNotFound, FunctionNotFound, InvalidInput, StoreError.
        """
        return self._run(lambda: self._broker.status(request_id, function=function, wait=wait))

    def result(self, request_id: str, *, function: str | None = None, wait: float = 0) -> Any:
        """What the handler answered to an event, of a function that keeps results (``keep_result``).

        Waits up to ``wait`` seconds for its end. Raises FunctionError when it failed for good, EventPending when it
        has not ended, ResultNotKept, and the errors of :meth:`status`.
        """
        return self._run(lambda: self._broker.result(request_id, function=function, wait=wait))

    def cancel(self, request_id: str, *, function: str | None = None) -> bool:
        """Takes an event out: it does not run (again), and a running call is cancelled.

        Answers False when it had ended otherwise before. Errors as :meth:`status`.
        """
        return self._run(lambda: self._broker.cancel(request_id, function=function))

    def function(self, name: str) -> FunctionClient:
        """One function: invoke, counts, pause, resume, purge, publish, aliases, delete. Raises InvalidName."""
        return FunctionClient(self._run, self._broker.function(name))

    def functions(self) -> list[str]:
        """The names of all registered functions."""
        return self._run(self._broker.functions)

    # -- queues and streams -------------------------------------------------------------------------------------------

    def queue(self, name: str) -> QueueClient:
        """One queue: create, send, receive, counts, purge, redrive, delete. Raises InvalidName."""
        return QueueClient(self._run, self._broker.queue(name))

    def queues(self) -> list[str]:
        """The names of all queues."""
        return self._run(self._broker.queues)

    def stream(self, name: str) -> StreamClient:
        """One stream: create, append, read, delete. Raises InvalidName."""
        return StreamClient(self._run, self._broker.stream(name))

    def durability(self) -> str | None:
        """What Redis's settings give: ``memory``, ``everysec`` or ``fsync``, known for at most a second; None where
        they cannot be read."""
        return self._run(self._broker.durability)

    def streams(self) -> list[str]:
        """The names of all streams."""
        return self._run(self._broker.streams)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with self._changed:
            portal = self._open.portal
            self._calls += 1
        try:
            future: Future[T] = portal.start_task_soon(work)
            try:
                return future.result()
            except BaseException:
                future.cancel()  # Ctrl-C ended the waiting: what was waited for ends too
                raise
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @property
    def _broker(self) -> aio.Broker:
        return self._open.broker

    @property
    def _open(self) -> _Opened:
        if self._opened is None:
            raise PenstockError("this Broker is not open: use it with `with Broker() as broker:`")
        return self._opened


class _Opened(NamedTuple):
    portal: BlockingPortal
    broker: aio.Broker
    stack: ExitStack


class FunctionClient:
    """One function, as an opened :class:`Broker` gives it. Errors: FunctionNotFound, InvalidInput, StoreError."""

    def __init__(self, run: Runs, inner: aio_functions.FunctionClient) -> None:
        self.name: Final = inner.name
        self._run: Final = run
        self._inner: Final = inner

    def invoke(self, event: object, *, id: str | None = None) -> str:  # noqa: A002 - the word users know
        """Stores an event for asynchronous invocation; answers the request id. Returning means stored."""
        return self._run(lambda: self._inner.invoke(event, id=id))

    def invoke_many(self, events: Iterable[object]) -> list[str]:
        """Stores many events; answers their request ids. All are checked before the first is stored."""
        ready = list(events)
        return self._run(lambda: self._inner.invoke_many(ready))

    def settings(self) -> FunctionSettings:
        """The settings in force: those of the newest registration."""
        return self._run(self._inner.settings)

    def counts(self) -> Counts:
        """Exact numbers of its queued, running and retrying events at this moment."""
        return self._run(self._inner.counts)

    def pause(self) -> None:
        """Nothing more is claimed or called, and nothing expires; everything stays queued until :meth:`resume`."""
        self._run(self._inner.pause)

    def resume(self) -> None:
        """Ends a pause by :meth:`pause`; one that the code declares (``paused=True``) goes on."""
        self._run(self._inner.resume)

    def purge(self) -> int:
        """Throws all queued events away, running ones too; answers how many."""
        return self._run(self._inner.purge)

    def delete(self, *, force: bool = False) -> None:
        """Removes the function with its versions and aliases, or the one that the name says. With events in it: raises
        ResourceBusy, unless forced."""
        self._run(lambda: self._inner.delete(force=force))

    def publish(self, *, description: str | None = None) -> Version:
        """Makes a numbered version of what is registered now; the newest one where nothing has changed since.

        Raises BuildNotNamed where its workers do not say what their build is called.
        """
        return self._run(lambda: self._inner.publish(description=description))

    def versions(self) -> list[Version]:
        """Its versions, in the order of their numbers."""
        return self._run(self._inner.versions)

    def aliases(self) -> list[Alias]:
        """Its aliases, sorted by name."""
        return self._run(self._inner.aliases)

    def set_alias(
        self,
        name: str,
        version: int | str,
        *,
        weights: Mapping[str, float] | None = None,
        description: str | None = None,
    ) -> Alias:
        """Lets an alias name a version, whether it is there already or not. ``weights`` gives one more version a share
        of the calls, as ``{"3": 0.1}``; without, there is none any more. Raises VersionNotFound, InvalidInput."""
        return self._run(lambda: self._inner.set_alias(name, version, weights=weights, description=description))


class StreamClient:
    """One stream, as an opened :class:`Broker` gives it. Errors: StreamNotFound, InvalidInput, StoreError."""

    def __init__(self, run: Runs, inner: streams.StreamClient) -> None:
        self.name: Final = inner.name
        self.key: Final = inner.key
        """The key of the stream in Redis, for any client's XREAD."""
        self._run: Final = run
        self._inner: Final = inner

    def create(
        self,
        *,
        max_length: int = limits.DEFAULT_STREAM_MAX_LENGTH,
        retention: float = limits.DEFAULT_STREAM_RETENTION_S,
        durability: str | None = None,
    ) -> None:
        """Creates the stream or changes how many records, and for how many seconds, it keeps them (nearly exactly), and
        the ``durability`` that it requires. Raises DurabilityNotMet where Redis does not give that."""
        self._run(lambda: self._inner.create(max_length=max_length, retention=retention, durability=durability))

    def append(self, body: object) -> str:
        """Appends a record, text as it is and anything else as JSON; answers its position."""
        return self._run(lambda: self._inner.append(body))

    def read(self, *, after: str = "0", count: int = 100) -> list[StreamRecord]:
        """Up to ``count`` records behind a position, oldest first; ``"0"`` is the beginning."""
        return self._run(lambda: self._inner.read(after=after, count=count))

    def length(self) -> int:
        """How many records it holds."""
        return self._run(self._inner.length)

    def delete(self) -> None:
        """Removes the stream and its records."""
        self._run(self._inner.delete)
