"""The SDK for programs without an event loop: the same names, the same rules, plain calls.

``Broker`` runs the asynchronous one on an event loop in a thread of its own. It may be used from several threads at
once; concurrent sends share round trips as coroutines' sends do. Errors are those of the asynchronous methods.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from threading import Condition
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from broker import client as aio
from broker import functions as aio_functions
from broker import limits, message, queues, streams
from broker.client import DEFAULT_CALL_TIMEOUT_S
from broker.errors import PenstockError
from broker.names import Function, Queue
from broker.records import AttributeValue, FunctionSettings, QueueSettings
from broker.settings import Settings
from broker.store.messages import Counts
from broker.streams import StreamRecord

__all__ = ["Broker", "FunctionClient", "Message", "QueueClient", "StreamClient"]

T = TypeVar("T")


class _Runs(Protocol):
    """Runs a coroutine function on the broker's event loop and waits for its result."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T: ...


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

    def function(self, name: str) -> FunctionClient:
        """One function: invoke, counts, pause, resume, purge, delete. Raises InvalidName."""
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


class Message:
    """One message: what was sent, how often it was received, and, when it was received, its lease."""

    def __init__(self, run: _Runs, inner: message.Message) -> None:
        self._run: Final = run
        self._inner: Final = inner
        self.id: Final[str] = inner.id
        """Unique; the caller's own where one was given."""
        self.body: Final[str] = inner.body
        """The stored text."""
        self.sent_ms: Final[int] = inner.sent_ms
        """When it was first sent, in milliseconds of Redis's clock."""

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes it was sent with: text, numbers, bytes."""
        return self._inner.attributes

    @property
    def receives(self) -> int:
        """How often it has been handed out, this time included (ApproximateReceiveCount)."""
        return self._inner.receives

    @property
    def source(self) -> str | None:
        """For a dead letter: the ARN of the queue, or of the function, that it comes from."""
        return self._inner.source

    def json(self) -> Any:
        """The body decoded from JSON; raises PayloadNotJson."""
        return self._inner.json()

    def delete(self) -> None:
        """Done: removes the message. Raises LeaseLost when it has been handed to somebody else since."""
        self._run(self._inner.delete)

    def extend(self, timeout: float) -> None:
        """Hides it for so many seconds from now. Raises LeaseLost."""
        self._run(lambda: self._inner.extend(timeout))

    def release(self, delay: float = 0) -> None:
        """Gives it back, to be received again after so many seconds. Raises LeaseLost."""
        self._run(lambda: self._inner.release(delay))

    def __repr__(self) -> str:
        return repr(self._inner)


class QueueClient:
    """One queue, as an opened :class:`Broker` gives it. Errors: QueueNotFound, InvalidInput, StoreError."""

    def __init__(self, run: _Runs, inner: queues.QueueClient) -> None:
        self.name: Final = inner.name
        self._run: Final = run
        self._inner: Final = inner

    def create(
        self,
        *,
        visibility_timeout: float = limits.DEFAULT_VISIBILITY_TIMEOUT_S,
        delay: float = 0,
        retention: float = limits.DEFAULT_RETENTION_S,
        max_message_bytes: int = limits.MAX_MESSAGE_BYTES,
        receive_wait: float = 0,
        dead_letter: Queue | None = None,
        max_receives: int | None = None,
    ) -> None:
        """Creates the queue, and the dead-letter queue with defaults where missing. Seconds; SQS's defaults and bounds.

        A second time with the same settings changes nothing; with others it raises QueueExists. A queue that exists
        only because something named it takes the settings given here.
        """
        self._run(
            lambda: self._inner.create(
                visibility_timeout=visibility_timeout,
                delay=delay,
                retention=retention,
                max_message_bytes=max_message_bytes,
                receive_wait=receive_wait,
                dead_letter=dead_letter,
                max_receives=max_receives,
            )
        )

    def configure(
        self,
        *,
        visibility_timeout: float | None = None,
        delay: float | None = None,
        retention: float | None = None,
        max_message_bytes: int | None = None,
        receive_wait: float | None = None,
        dead_letter: Queue | None = None,
        max_receives: int | None = None,
        remove_dead_letter: bool = False,
    ) -> None:
        """Changes the settings given and leaves the others; ``remove_dead_letter`` ends the moving of messages that
        were received too often. Raises QueueNotFound."""
        self._run(
            lambda: self._inner.configure(
                visibility_timeout=visibility_timeout,
                delay=delay,
                retention=retention,
                max_message_bytes=max_message_bytes,
                receive_wait=receive_wait,
                dead_letter=dead_letter,
                max_receives=max_receives,
                remove_dead_letter=remove_dead_letter,
            )
        )

    def settings(self) -> QueueSettings:
        """The settings in force. Raises QueueNotFound."""
        return self._run(self._inner.settings)

    def send(
        self,
        body: object,
        *,
        delay: float | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        id: str | None = None,  # noqa: A002 - the word users know
    ) -> str:
        """Stores a message and answers its id: text as it is, anything else as JSON; ``delay`` in seconds.

        With an own ``id``, a repetition within five minutes is accepted once. Raises QueueNotFound, InvalidInput.
        """
        return self._run(lambda: self._inner.send(body, delay=delay, attributes=attributes, id=id))

    def send_many(self, bodies: Iterable[object], *, delay: float | None = None) -> list[str]:
        """Stores messages in order and answers their ids. All are checked before the first is stored."""
        ready = list(bodies)
        return self._run(lambda: self._inner.send_many(ready, delay=delay))

    def receive(
        self, count: int = 1, *, wait: float | None = None, visibility_timeout: float | None = None
    ) -> list[Message]:
        """Up to ``count`` messages, hidden from others for ``visibility_timeout`` seconds (the queue's own by default).

        Waits up to ``wait`` seconds (the queue's own by default) until there is one; an empty list otherwise.
        """
        found = self._run(lambda: self._inner.receive(count, wait=wait, visibility_timeout=visibility_timeout))
        return [Message(self._run, inner) for inner in found]

    def counts(self) -> Counts:
        """Exact numbers of visible, in flight, retrying and delayed messages at this moment."""
        return self._run(self._inner.counts)

    def peek(self, count: int = 10) -> list[Message]:
        """A look at up to ``count`` messages, wherever they are, without receiving them; they cannot be settled."""
        return [Message(self._run, inner) for inner in self._run(lambda: self._inner.peek(count))]

    def purge(self) -> int:
        """Throws all messages away, those in flight too; answers how many."""
        return self._run(self._inner.purge)

    def delete(self, *, force: bool = False) -> None:
        """Removes the queue. With messages in it: raises ResourceBusy, unless forced."""
        self._run(lambda: self._inner.delete(force=force))

    def redrive(self, *, to: Queue | Function | None = None, count: int | None = None) -> int:
        """Sends dead letters back to where each came from (or to ``to``) with fresh counters; answers how many.

        A dead letter of a function goes to it as the bare event. One whose source is not known, or is gone, stays.
        Raises InvalidOption for a target that is this queue itself, NotFound for one that does not exist.
        """
        return self._run(lambda: self._inner.redrive(to=to, count=count))


class FunctionClient:
    """One function, as an opened :class:`Broker` gives it. Errors: FunctionNotFound, InvalidInput, StoreError."""

    def __init__(self, run: _Runs, inner: aio_functions.FunctionClient) -> None:
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
        """Removes the function. With events in it: raises ResourceBusy, unless forced."""
        self._run(lambda: self._inner.delete(force=force))


class StreamClient:
    """One stream, as an opened :class:`Broker` gives it. Errors: StreamNotFound, InvalidInput, StoreError."""

    def __init__(self, run: _Runs, inner: streams.StreamClient) -> None:
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
    ) -> None:
        """Creates the stream or changes how many records, and for how many seconds, it keeps them (nearly exactly)."""
        self._run(lambda: self._inner.create(max_length=max_length, retention=retention))

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
