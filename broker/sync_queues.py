"""Queues and messages of the SDK for programs without an event loop: see :mod:`broker.sync`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from broker import limits, message, queues
from broker.message_attributes import AttributeValue, PlainValue
from broker.moves import MAX_LISTED, MoveTask
from broker.names import Function, Queue
from broker.queues import Entry, RedriveFrom
from broker.records import DeduplicationScope, QueueSettings, ThroughputLimit
from broker.store.values import Counts

T = TypeVar("T")


class Runs(Protocol):
    """Runs a coroutine function on the broker's event loop and waits for its result."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """What the coroutine answers, or raises."""
        ...


class Message:
    """One message: what was sent, how often it was received, and, when it was received, its lease."""

    def __init__(self, run: Runs, inner: message.Message) -> None:
        self._run: Final = run
        self._inner: Final = inner
        self.id: Final[str] = inner.id
        """Unique; the caller's own where one was given."""
        self.body: Final[str] = inner.body
        """The stored text."""
        self.sent_ms: Final[int] = inner.sent_ms
        """When it was first sent, in milliseconds of Redis's clock."""

    @property
    def attributes(self) -> dict[str, PlainValue]:
        """The attributes it was sent with: text, numbers, bytes."""
        return self._inner.attributes

    @property
    def receives(self) -> int:
        """How often it has been handed out, this time included (ApproximateReceiveCount)."""
        return self._inner.receives

    @property
    def group(self) -> str | None:
        """The group it was sent with; every message of a FIFO queue has one."""
        return self._inner.group

    @property
    def deduplication_id(self) -> str | None:
        """In a FIFO queue: the id by which it was accepted once, the hash of its content where none was given."""
        return self._inner.deduplication_id

    @property
    def sequence_number(self) -> str | None:
        """In a FIFO queue: twenty digits that rise within its group."""
        return self._inner.sequence_number

    @property
    def receipt(self) -> str:
        """The receipt handle of this receive, for whoever settles without this object."""
        return self._inner.receipt

    @property
    def first_received_ms(self) -> int:
        """When it was first handed out (ApproximateFirstReceiveTimestamp), in milliseconds of Redis's clock."""
        return self._inner.first_received_ms

    @property
    def source(self) -> str | None:
        """For a dead letter: the ARN of the queue, or of the function, that it comes from."""
        return self._inner.source

    @property
    def trace_header(self) -> str:
        """SQS's AWSTraceHeader, the value of ``X-Amzn-Trace-Id``; '' where it was sent without."""
        return self._inner.trace_header

    @property
    def traceparent(self) -> str:
        """W3C's, '' where it was sent without; :attr:`tracestate` goes with it."""
        return self._inner.traceparent

    @property
    def tracestate(self) -> str:
        """W3C's, '' where it was sent without."""
        return self._inner.tracestate

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
    """One queue, as an opened :class:`broker.sync.Broker` gives it; a FIFO queue where the name ends in ``.fifo``.

    Errors: QueueNotFound, InvalidInput, StoreError.
    """

    def __init__(self, run: Runs, inner: queues.QueueClient) -> None:
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
        content_deduplication: bool = False,
        deduplication_scope: DeduplicationScope = "queue",
        throughput_limit: ThroughputLimit = "perQueue",
        redrive_from: RedriveFrom | None = None,
        durability: str | None = None,
        tags: Mapping[str, str] | None = None,
        partitions: int = 1,
    ) -> None:
        """Creates the queue, and the dead-letter queue with defaults where missing. Seconds; SQS's defaults and bounds.

        ``redrive_from`` says which queues may have it as their dead-letter queue: "all" by default. ``durability`` is
        what a send must be before it is answered; raises DurabilityNotMet where Redis does not give that.
        ``partitions`` splits a standard queue that one node of a cluster cannot carry; it stays one queue. A second
        time with the same settings changes nothing; with others it raises QueueExists. A queue that exists only because
        something named it takes the settings given here.
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
                content_deduplication=content_deduplication,
                deduplication_scope=deduplication_scope,
                throughput_limit=throughput_limit,
                redrive_from=redrive_from,
                durability=durability,
                tags=tags,
                partitions=partitions,
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
        content_deduplication: bool | None = None,
        deduplication_scope: DeduplicationScope | None = None,
        throughput_limit: ThroughputLimit | None = None,
        redrive_from: RedriveFrom | None = None,
        durability: str | None = None,
        tags: Mapping[str, str] | None = None,
        partitions: int | None = None,
    ) -> None:
        """Changes the settings given and leaves the others; ``remove_dead_letter`` ends the moving of messages that
        were received too often, ``redrive_from="all"`` lets every queue have it as its dead-letter queue again,
        ``durability=""`` requires nothing any more, and ``tags`` take the place of all that were there. There can be
        more ``partitions``, never fewer. Raises QueueNotFound, InvalidOption, DurabilityNotMet."""
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
                content_deduplication=content_deduplication,
                deduplication_scope=deduplication_scope,
                throughput_limit=throughput_limit,
                redrive_from=redrive_from,
                durability=durability,
                tags=tags,
                partitions=partitions,
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
        group: str | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Stores a message and answers its id: text as it is, anything else as JSON; ``delay`` in seconds.

        With an own ``id``, a repetition within five minutes is accepted once; in a FIFO queue that is what the
        ``deduplication_id`` does, and a repetition answers the first one's id. Messages of a ``group`` keep their order
        in a FIFO queue, where there must be one; in a standard queue groups take turns. Raises QueueNotFound,
        InvalidInput.
        """
        return self._run(
            lambda: self._inner.send(
                body, delay=delay, attributes=attributes, id=id, group=group, deduplication_id=deduplication_id
            )
        )

    def send_many(self, bodies: Iterable[object], *, delay: float | None = None, group: str | None = None) -> list[str]:
        """Stores messages in order and answers their ids. All are checked before the first is stored."""
        ready = list(bodies)
        return self._run(lambda: self._inner.send_many(ready, delay=delay, group=group))

    def send_batch(self, entries: Iterable[Entry]) -> list[str]:
        """Stores messages that each have options of their own, in order, and answers their ids. All are checked before
        the first is stored."""
        ready = list(entries)
        return self._run(lambda: self._inner.send_batch(ready))

    def receive(
        self,
        count: int = 1,
        *,
        wait: float | None = None,
        visibility_timeout: float | None = None,
        attempt: str | None = None,
    ) -> list[Message]:
        """Up to ``count`` messages, hidden from others for ``visibility_timeout`` seconds (the queue's own by default).

        Waits up to ``wait`` seconds (the queue's own by default) until there is one; an empty list otherwise. A FIFO
        queue gives the same messages again for the same ``attempt`` (1 to 128 characters, good for five minutes),
        unless one of them was changed meanwhile: for whoever did not hear the first answer.
        """
        found = self._run(
            lambda: self._inner.receive(count, wait=wait, visibility_timeout=visibility_timeout, attempt=attempt)
        )
        return [Message(self._run, inner) for inner in found]

    def delete_many(self, messages: Iterable[Message]) -> list[Message]:
        """Deletes received messages; answers those that are somebody else's by now."""
        given = {message._inner: message for message in messages}  # noqa: SLF001 - its own kind
        return [given[inner] for inner in self._run(lambda: self._inner.delete_many(given))]

    def counts(self) -> Counts:
        """Exact numbers of visible, in flight, retrying and delayed messages at this moment."""
        return self._run(self._inner.counts)

    def peek(self, count: int = 10) -> list[Message]:
        """A look at up to ``count`` messages, wherever they are, without receiving them; they cannot be settled."""
        found = self._run(lambda: self._inner.peek(count))
        return [Message(self._run, inner) for inner in found]

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

    def start_move(self, *, to: Queue | Function | None = None, rate: int | None = None) -> MoveTask:
        """Starts a move task: what is visible now goes back to where each came from, or to ``to``, with fresh counters.

        ``rate`` is the most a second, 1 to 500. A process with an upkeep (a worker, a gateway) does the moving; it goes
        on when that process dies. It fails where the source of a message is not known, or is gone; that message stays.
        Raises MoveInProgress where one runs, InvalidOption, NotFound.
        """
        return self._run(lambda: self._inner.start_move(to=to, rate=rate))

    def moves(self, count: int = MAX_LISTED) -> list[MoveTask]:
        """The newest ``count`` move tasks (1 to 10), newest first: the one that runs, and those that ended last."""
        return self._run(lambda: self._inner.moves(count))

    def cancel_move(self, handle: str) -> MoveTask:
        """Ends a move task of this queue; what it has moved stays moved. Its status is CANCELLING until whoever runs it
        has stopped. Raises MoveNotFound for what is no handle of a task that runs on this queue."""
        return self._run(lambda: self._inner.cancel_move(handle))
