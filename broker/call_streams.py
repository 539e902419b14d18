"""Calls whose result is taken as it comes: numbered parts to the caller's inbox, acknowledged as the reader takes them.

A worker sends no more than a window ahead of the reader, so a slow reader makes the handler wait and nothing fills up.
Parts are published, and a subscription that is lost for a moment loses some: a gap in the numbers, or a connection that
came back, asks for them again, and the worker has kept what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self

import msgspec

from broker import errors, limits, tracing
from broker.call_notices import CallNotice, CallReply
from broker.calls import Caller, function_error
from broker.chunks import WINDOW_BYTES, cost_of
from broker.core import Core
from broker.handed_calls import HandedCall
from broker.names import LATEST, Route, split_function
from broker.outgoing import event_json
from broker.records import check_range, decode_json
from broker.tracing import NO_TRACE, Trace
from broker.versions import route_call
from broker.workers import Serves

_LOOK_S: Final = 1.0
_MISSED_LOOKS: Final = 2
_TAKEN_AT_ONCE: Final = 4  # parts of a window that are acknowledged together


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a streamed call ended."""

    error: bytes = b""
    """Lambda's error object as JSON where the handler failed."""
    log_tail: bytes = b""
    """The last 4 KB of what the call printed and logged, where that was asked for."""


class ChunkReader:
    """One streamed call: :meth:`open` it, take :meth:`next` chunks until None, read :attr:`end`; :meth:`close` always.

    For one task at a time, on the event loop of its broker.
    """

    def __init__(self, core: Core, caller: Caller, call: HandedCall) -> None:
        self.request_id: Final = call.id
        self.executed_version: Final = call.function.qualifier or LATEST
        self.end: StreamEnd | None = None
        """Set when :meth:`next` has answered None."""
        self._core: Final = core
        self._caller: Final = caller
        self._call: Final = call
        self._parts: Final[deque[tuple[int, tuple[bytes, ...]]]] = deque()
        self._now: deque[bytes] = deque()
        self._number = 0
        self._arrived = 0
        self._asked_from = 0
        self._unacknowledged = 0
        self._answer: CallReply | None = None
        self._last: CallReply | None = None
        self._came: Final = asyncio.Event()
        self._closed = self._lost = False

    # -- opening ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Returns when a worker has begun with it, or has answered already.

        Errors: FunctionNotFound, CallThrottled, NoLiveWorker, RecursiveInvocation, CallTimeout, StoreError.
        """
        await self._caller.expect(self._call, self._heard)
        try:
            while True:
                self._answer = None
                worker = await self._caller.hand_over(self._call)
                await self._something()
                refusal = self._refusal()
                if refusal is None:
                    return
                self._call.refused[worker.process] = refusal
        except BaseException:
            self.close()
            raise
        finally:
            self._call.payload = b""  # the worker has it, and a stream may be long

    def _refusal(self) -> CallReply | None:
        if self._answer is None:
            return None
        if self._answer.in_loop:
            raise errors.RecursiveInvocation(self._call.function.name)
        return self._answer if self._answer.refused else None

    async def _something(self) -> None:
        """Returns when something has come. A worker that is gone has answered, too. Raises CallTimeout."""
        missed = 0
        while not (self._parts or self._answer or self._last):
            self._came.clear()
            left_s = self._call.left_ms() / 1000
            try:
                async with asyncio.timeout(min(left_s, _LOOK_S)):
                    await self._came.wait()
            except TimeoutError:
                worker = self._call.worker
                if worker is None or await self._is_there(worker):
                    missed = 0
                    self._ask_again()
                    continue
                missed += 1
                if missed >= _MISSED_LOOKS and not self._came.is_set():
                    self._lost = True
                    self._answer = await self._caller.exited(self._call, worker)

    async def _is_there(self, worker: Serves) -> bool:
        try:
            return await self._caller.is_listening(worker)
        except errors.StoreError:
            return True  # nobody knows; the deadline holds all the same

    # -- reading ------------------------------------------------------------------------------------------------------

    async def next(self) -> bytes | None:
        """The next chunk; None at the end. Errors: CallTimeout, StoreError; the call is then abandoned."""
        while not self._now:
            self._acknowledge()
            if self._parts:
                self._number, chunks = self._parts.popleft()
                self._now = deque(chunks)
            elif self._last is not None:
                self._ended(self._last.payload if self._last.failed else b"", self._last)
                return None
            elif self._answer is not None:
                return await self._whole(self._answer)
            else:
                await self._something()
        self._unacknowledged += cost_of(self._now[0])
        return self._now.popleft()

    def _acknowledge(self) -> None:
        """The part at hand was taken whole: the worker may send more when that has made some room."""
        if self._unacknowledged * _TAKEN_AT_ONCE >= self._call.window:
            self._unacknowledged = 0
            self._tell(taken=self._number)

    async def _whole(self, answer: CallReply) -> bytes | None:
        """The answer of a handler that does not yield is one chunk."""
        if self.end is not None:
            return None
        result = await self._caller.result_of(answer, self._call)
        if result.function_error:
            self._ended(result.payload, answer)
            return None
        self.end = StreamEnd(log_tail=answer.log_tail)
        return result.payload

    def _ended(self, error: bytes | None, reply: CallReply) -> None:
        self.end = StreamEnd(error=error or b"", log_tail=reply.log_tail)

    def queued(self) -> bool:
        """Whether the next chunk is there already."""
        return bool(self._now) or any(chunks for _, chunks in self._parts)

    def close(self) -> None:
        """Nothing more is taken: a handler that has not ended is cancelled. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._caller.expect_no_more(self._call)
        if self._last is not None:
            self._tell(taken=self._last.part)
        elif (self._answer is None or self._lost) and self._call.worker is not None:
            self._caller.tell(self._call.worker, CallNotice(kind="cancel", id=self._call.id))

    # -- what comes ---------------------------------------------------------------------------------------------------

    def _heard(self, reply: CallReply | None) -> None:
        if reply is None:
            self._ask_again()
            return
        if reply.part == 0:
            if self._call.has_had(reply):
                return
            self._answer = reply
        elif reply.part <= self._arrived:  # sent again: whoever does that has not heard of us
            self._tell(taken=self._taken)
            return
        elif reply.part > self._arrived + 1:
            if self._asked_from != self._arrived + 1:
                self._ask_again()
            return
        else:
            self._arrived = reply.part
            if reply.chunks or reply.part == 1:
                self._parts.append((reply.part, reply.chunks))
            if reply.last:
                self._last = reply
        self._came.set()

    @property
    def _taken(self) -> int:
        return self._number if not self._now else self._number - 1

    def _ask_again(self) -> None:
        """For what may have been lost on its way; what was not comes twice at worst."""
        self._asked_from = self._arrived + 1
        self._tell(taken=self._taken, again_from=self._asked_from)

    def _tell(self, *, taken: int, again_from: int = 0) -> None:
        if self._call.worker is not None:
            notice = CallNotice(kind="more", id=self._call.id, taken=taken, again_from=again_from)
            self._caller.tell(self._call.worker, notice)


def chunk_reader(
    core: Core,
    caller: Caller,
    route: Route,
    payload: bytes,
    *,
    timeout_s: float,
    request_id: str | None = None,
    client_context: bytes | None = None,
    wants_log: bool = False,
    trace: Trace = NO_TRACE,
) -> ChunkReader:
    """A streamed call with this JSON, which is not looked at here; arguments as of :meth:`Caller.invoke`."""
    check_range("timeout", timeout_s, 0.001, limits.MAX_TIMEOUT_S)
    call = HandedCall(
        core.resource("function", route.function),
        payload,
        timeout_s,
        request_id or str(uuid.uuid4()),
        client_context,
        trace,
        wants_log=wants_log,
        window=WINDOW_BYTES,
    )
    call.invoked = route.invoked
    return ChunkReader(core, caller, call)


class CallStream:
    """The chunks of a call as they come: ``async with broker.call_stream(...) as chunks: async for chunk in chunks``.

    Entering raises what :meth:`broker.Broker.call` raises before a handler runs. Reading raises FunctionError where the
    handler fails midway, CallTimeout at the deadline. Leaving early cancels the handler.
    """

    def __init__(self, core: Core, caller: Caller, function: str, event: object, *, timeout_s: float) -> None:
        check_range("timeout", timeout_s, 0.001, limits.MAX_TIMEOUT_S)
        split_function(function)
        self.request_id: Final = str(uuid.uuid4())
        """What the function sees as its request id."""
        self._core: Final = core
        self._caller: Final = caller
        self._function: Final = function
        self._payload: Final = event_json(
            f'event for function "{function}"', event, limit_bytes=limits.MAX_SYNC_PAYLOAD_BYTES
        )
        self._timeout_s: Final = timeout_s
        self._opened: ChunkReader | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise errors.PenstockError("this stream has been read already: make another call")
        self._opened = chunk_reader(
            self._core,
            self._caller,
            await route_call(self._core, self._function),
            self._payload,
            timeout_s=self._timeout_s,
            request_id=self.request_id,
            trace=tracing.current(),
        )
        await self._opened.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def _reader(self) -> ChunkReader:
        if self._opened is None:
            raise errors.PenstockError("this stream is not open: use it with `async with`")
        return self._opened

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def next(self) -> bytes | None:
        """The next chunk; None at the end. Raises FunctionError, CallTimeout, StoreError."""
        reader = self._reader
        chunk = await reader.next()
        if chunk is None and reader.end is not None and reader.end.error:
            value = decode_json(f"error of call {self.request_id}", reader.end.error)
            raise function_error(value, self.request_id)
        return chunk
