"""The SDK: events in, results out, from any event loop. :mod:`broker.sync` is the same without one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self

from broker.call_streams import CallStream
from broker.calls import Caller
from broker.core import Core
from broker.errors import PenstockError
from broker.functions import FunctionClient
from broker.names import Resource
from broker.queues import QueueClient
from broker.receiving import Receiver
from broker.routing import Relay
from broker.sending import Sender
from broker.settings import Settings, find_redis
from broker.statuses import Status, Statuses
from broker.streams import StreamClient
from broker.versions import route_call

DEFAULT_CALL_TIMEOUT_S: Final = 60.0


class Broker:
    """A connection to Penstock, to be used with ``async with``.

    ``url`` is a Redis URL (``redis://``, ``rediss://``, ``unix://``). Without one: ``PENSTOCK_REDIS_URL``, then the
    running ``penstock dev`` of this folder or a parent, then redis://localhost:6379. Entering raises StoreUnavailable
    (naming the address and why it was used), StoreUnsuitable, StoreReadOnly or StoreDenied.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self._url: Final = url
        self._settings: Final = settings
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        core = Core(find_redis(self._url), self._settings or Settings.from_environment())
        try:
            await core.open()
        except BaseException:
            await core.close()
            raise
        self._opened = _Opened(core)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.core.close()

    def within(self, account: str, region: str) -> Broker:
        """The same connection, seeing the resources of another account and region; open for as long as this one is."""
        other = Broker(self._url, settings=self._settings)
        other._opened = self._open.within(account, region)
        return other

    # -- functions ----------------------------------------------------------------------------------------------------

    async def invoke(self, function: str, event: object, *, id: str | None = None) -> str:  # noqa: A002
        """Stores an event for asynchronous invocation and answers its request id; returning means stored.

        ``function`` may be a version or alias: ``orders:3``, ``orders:live``. With an own ``id``, a repetition within
        five minutes is accepted once. Raises FunctionNotFound for a function that no worker has ever registered,
        VersionNotFound, InvalidInput for an event that is not JSON or over 1 MiB, StoreError.
        """
        return await self.function(function).invoke(event, id=id)

    async def invoke_many(self, function: str, events: Iterable[object]) -> list[str]:
        """Stores many events, a thousand a step, and answers their request ids. All are checked before the first is
        stored. Errors as :meth:`invoke`.
        """
        return await self.function(function).invoke_many(events)

    async def call(self, function: str, event: object, *, timeout: float = DEFAULT_CALL_TIMEOUT_S) -> Any:
        """Runs the function on a live worker and answers its result; never tried again.

        Raises FunctionError (Lambda's error type, message, stack), CallThrottled at the concurrency limit,
        CallTimeout after ``timeout`` seconds, NoLiveWorker, RecursiveInvocation, FunctionNotFound, InvalidInput,
        StoreError.
        """
        opened = self._open
        return await opened.caller.call(await route_call(opened.core, function), event, timeout_s=timeout)

    def call_stream(self, function: str, event: object, *, timeout: float = DEFAULT_CALL_TIMEOUT_S) -> CallStream:
        """Runs the function on a live worker and gives what it yields as it comes, as bytes; never tried again.

        ``async with broker.call_stream("tell", event) as chunks: async for chunk in chunks: ...``

        A handler waits while its reader is 256 KiB behind, and is cancelled when its reader leaves. A chunk of up to
        64 KiB comes as it was yielded, a larger one in pieces. What a handler returns is one chunk of JSON. Entering
        and reading raise the errors of :meth:`call`.
        """
        return CallStream(self._open.core, self._open.caller, function, event, timeout_s=timeout)

    async def status(self, request_id: str, *, function: str | None = None, wait: float = 0) -> Status:
        """Where an event is, or how it ended, for as long as its function's ``keep_status`` says.

        Waits up to ``wait`` seconds for its end. An id of your own needs the name of the ``function``. Raises
        EventNotFound, FunctionNotFound, InvalidInput, StoreError.
        """
        return await self._open.statuses.status(request_id, function=function, wait_s=wait)

    async def result(self, request_id: str, *, function: str | None = None, wait: float = 0) -> Any:
        """What the handler answered to an event, of a function that keeps results (``keep_result``).

        Waits up to ``wait`` seconds for its end. Raises FunctionError when it failed for good, EventPending when it
        has not ended, ResultNotKept, and the errors of :meth:`status`.
        """
        return await self._open.statuses.result(request_id, function=function, wait_s=wait)

    async def cancel(self, request_id: str, *, function: str | None = None) -> bool:
        """Takes an event out: it does not run (again), and a running call is cancelled.

        Answers False when it had ended otherwise before. Errors as :meth:`status`.
        """
        return await self._open.statuses.cancel(request_id, function=function)

    def function(self, name: str) -> FunctionClient:
        """One function: invoke, counts, pause, resume, purge, publish, aliases, delete. Raises InvalidName."""
        opened = self._open
        return FunctionClient(opened.core, opened.sender, opened.relay, name)

    async def functions(self) -> list[str]:
        """The names of all registered functions."""
        return [name for name in await self._open.core.directory.names("function") if ":" not in name]

    # -- queues and streams -------------------------------------------------------------------------------------------

    def queue(self, name: str) -> QueueClient:
        """One queue: create, send, receive, counts, purge, redrive, delete. Raises InvalidName."""
        opened = self._open
        return QueueClient(opened.core, opened.sender, opened.relay, opened.receiver, name)

    async def queues(self) -> list[str]:
        """The names of all queues."""
        return await self._open.core.directory.names("queue")

    def stream(self, name: str) -> StreamClient:
        """One stream: create, append, read, delete. Raises InvalidName."""
        return StreamClient(self._open.core, name)

    async def streams(self) -> list[str]:
        """The names of all streams."""
        return await self._open.core.directory.names("stream")

    # -- the store ----------------------------------------------------------------------------------------------------

    async def durability(self) -> str | None:
        """What Redis's settings give: ``memory``, ``everysec`` or ``fsync``, known for at most a second; None where
        they cannot be read."""
        return (await self._open.core.durable.state()).in_force.level

    # -- what is being sent on ----------------------------------------------------------------------------------------

    async def deliver(self, resource: Resource) -> int:
        """Sends on at once what the outbox of a resource holds; workers do this by themselves."""
        return await self._open.relay.deliver(resource)

    @property
    def sender(self) -> Sender:
        """What sends to any resource: for the gateway."""
        return self._open.sender

    @property
    def receiver(self) -> Receiver:
        """What receives from any queue: for the gateway."""
        return self._open.receiver

    @property
    def caller(self) -> Caller:
        """What calls functions with JSON as it is: for the gateway."""
        return self._open.caller

    @property
    def core(self) -> Core:
        """What the connection is made of: for the runtime and the command, not for programs."""
        return self._open.core

    @property
    def _open(self) -> _Opened:
        if self._opened is None:
            raise PenstockError("this Broker is not open: use it with `async with Broker() as broker:`")
        return self._opened


class _Opened:
    def __init__(self, core: Core) -> None:
        self.core: Final = core
        self.sender = Sender(core)
        self.relay = Relay(core, self.sender)
        self.receiver = Receiver(core, self.relay)
        self.caller = Caller(core)
        self.statuses: Final = Statuses(core, self.relay)

    def within(self, account: str, region: str) -> _Opened:
        """For another account and region; what works on any resource is shared."""
        other = _Opened(self.core.within(account, region))
        other.sender, other.relay, other.receiver = self.sender, self.relay, self.receiver
        other.caller = self.caller.within(other.core)
        return other
