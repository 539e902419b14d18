"""Synchronous calls: a notice to one live worker's inbox, an answer to the caller's; never tried again.

What is too large for a channel waits as a parcel. The permit is taken in the step that tells the worker, and is the
worker's to renew and give back from then on.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from broker import errors, limits, spans, tracing
from broker.call_notices import CallNotice, CallReply, reply_parcel
from broker.chunks import whole_value
from broker.core import Core
from broker.handed_calls import HandedCall
from broker.ids import random_token
from broker.log import log
from broker.names import LATEST, Route, split_function
from broker.outgoing import event_json
from broker.records import FunctionSettings, check_range
from broker.store.permits import CallStatus
from broker.tracing import NO_TRACE, Trace
from broker.workers import KnownWorkers, Serves

_LOOK_EVERY_S: Final = 1.0
_ASKING_S: Final = 30.0
"""A call that takes longer asks only when answers were missed: a worker that does not read would have too much to."""
_AWAY_S: Final = 5.0
"""As long as senders try again."""
_PAUSE_S: Final = 0.1
_MISSED_LOOKS: Final = 2
"""Meanwhile a worker that stops refuses what had reached its inbox, and one that lost Redis for a moment is back."""
_PARCEL_SPARE_MS: Final = 60_000
_TIMEOUT_KNOWN_S: Final = 1.0
_MOST_TIMEOUTS: Final = 1_000


class CallResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended, as it came from the worker."""

    payload: bytes
    """The result, or Lambda's error object, as JSON."""
    function_error: str = ""
    """``Unhandled`` when the handler failed; '' otherwise."""
    log_tail: bytes = b""
    """The last 4 KB of what the call printed and logged, where that was asked for."""
    executed_version: str = LATEST
    request_id: str


def function_error(value: dict[str, Any], request_id: str) -> errors.FunctionError:
    """Lambda's error object as an error."""
    error_type, message = str(value.get("errorType", "")), str(value.get("errorMessage", ""))
    return errors.FunctionError(error_type, message, list(value.get("stackTrace") or []), request_id)


class _Inbox:
    """Where the answers to one process's calls come in, whatever the account and region of the functions."""

    def __init__(self, core: Core) -> None:
        self.process: Final = f"c{random_token()}"
        self.pending: Final[dict[str, HandedCall]] = {}
        self.streams: Final[dict[str, Callable[[CallReply | None], None]]] = {}
        """Who reads a stream, by the call; told None when something may have been missed."""
        self.missed_at = float("-inf")
        """When answers may have been missed last, by the monotonic clock."""
        self._core: Final = core
        self._listening: asyncio.Task[Any] | None = None

    async def listen(self) -> None:
        if self._listening is None:
            channel = self._core.parcels.inbox(self.process)
            self._listening = self._core.in_background(
                self._core.channels.listen({channel: self._on_notice}), name="listen_for_replies"
            )
        await asyncio.shield(self._listening)

    def _on_notice(self, data: bytes | None) -> None:
        if data is None:
            self.missed_at = time.monotonic()
            for heard in tuple(self.streams.values()):
                heard(None)
            return
        try:
            reply = msgspec.msgpack.decode(data, type=CallReply)
        except msgspec.MsgspecError as error:
            log.warning("notice_unreadable", reason=str(error))
            return
        call = self.pending.get(reply.id)
        if call is not None:
            if not call.future.done() and not call.has_had(reply):
                call.future.set_result(reply)
        elif (reader := self.streams.get(reply.id)) is not None:
            reader(reply)


class Caller:
    """Calls functions and waits for their answers, any number at a time, over one subscription."""

    def __init__(self, core: Core, inbox: _Inbox | None = None) -> None:
        self._core: Final = core
        self._workers: Final = KnownWorkers(core)
        self._inbox: Final = inbox or _Inbox(core)
        self._timeouts: Final[dict[str, tuple[float, float]]] = {}

    def within(self, core: Core) -> Caller:
        """One that calls the functions that another core of the same connections sees."""
        return Caller(core, self._inbox)

    async def call(self, route: Route, event: object, *, timeout_s: float) -> Any:
        """The function's result; of one that yields, its chunks put together, as :func:`broker.chunks.whole_value`.

        Errors: FunctionNotFound, InvalidInput, CallError (FunctionError, CallThrottled, CallTimeout, NoLiveWorker,
        RecursiveInvocation), StoreError.
        """
        what = f'event for function "{route.function}"'
        payload = event_json(what, event, limit_bytes=limits.MAX_SYNC_PAYLOAD_BYTES)
        with spans.sending(self._core.resource("function", route.function), waits=True):
            return await self._call(route, payload, timeout_s)

    async def _call(self, route: Route, payload: bytes, timeout_s: float) -> Any:
        trace, invoked = tracing.current(), route.invoked
        result = await self.invoke(route.function, payload, timeout_s=timeout_s, trace=trace, invoked=invoked)
        value = whole_value(result.payload)
        if not result.function_error:
            return value
        raise function_error(value, result.request_id)

    async def timeout_of(self, function: str) -> float:
        """How many seconds a call of the function may run, as it was within the last second. Raises FunctionNotFound,
        InvalidName, StoreError.
        """
        split_function(function)
        resource = self._core.resource("function", function)
        known, now = self._timeouts.get(function), time.monotonic()
        if known is None or now >= known[1]:
            described = await self._core.directory.describe(resource)
            if described is None:
                raise errors.FunctionNotFound(function)
            settings = msgspec.json.decode(described.settings, type=FunctionSettings)
            if len(self._timeouts) >= _MOST_TIMEOUTS:
                self._timeouts.clear()
            known = self._timeouts[function] = (settings.timeout_s, now + _TIMEOUT_KNOWN_S)
        return known[0]

    async def invoke(
        self,
        function: str,
        payload: bytes,
        *,
        timeout_s: float,
        request_id: str | None = None,
        client_context: bytes | None = None,
        wants_log: bool = False,
        trace: Trace = NO_TRACE,
        invoked: str = "",
    ) -> CallResult:
        """How a call with this JSON ended; the payload is not looked at here, nor is the result. ``function`` may be a
        version, as ``orders:3``, that was ``invoked`` by an alias.

        ``request_id`` must be one of its own; None makes one. ``client_context`` is a JSON object. Errors as
        :meth:`call`, but for FunctionError, which is a result here.
        """
        check_range("timeout", timeout_s, 0.001, limits.MAX_TIMEOUT_S)
        split_function(function)
        resource = self._core.resource("function", function)
        await self._inbox.listen()
        call_id = request_id or str(uuid.uuid4())
        call = HandedCall(resource, payload, timeout_s, call_id, client_context, trace, wants_log=wants_log)
        call.invoked = invoked
        self._inbox.pending[call.id] = call
        try:
            while True:
                call.future = asyncio.get_running_loop().create_future()
                worker = await self.hand_over(call)
                reply = await self._await_reply(call, worker)
                if reply.in_loop:
                    raise errors.RecursiveInvocation(function)
                if not reply.refused:
                    return await self.result_of(reply, call)
                call.refused[worker.process] = reply
        except (errors.CallTimeout, asyncio.CancelledError):
            if call.worker is not None:
                self.tell(call.worker, CallNotice(kind="cancel", id=call.id))
            raise
        finally:
            self._inbox.pending.pop(call.id, None)

    async def hand_over(self, call: HandedCall) -> Serves:
        """Tells one live worker, or says why none can be told. Errors as :meth:`invoke`."""
        try:
            return await self._hand_over(call)
        except (errors.CallError, errors.FunctionNotFound, asyncio.CancelledError):
            if not call.inline:  # else what is refused again and again would fill Redis
                self._core.in_background(self._core.parcels.drop(call.id), name="drop_payload")
            raise

    async def _hand_over(self, call: HandedCall) -> Serves:
        while True:
            worker = await self._choose(call)
            left_ms = call.left_ms()
            if not call.inline:
                await self._core.parcels.put(call.id, call.payload, ttl_ms=left_ms + _PARCEL_SPARE_MS)
            notice = CallNotice(
                id=call.id,
                function=call.function.name,
                reply_to=self._inbox.process,
                timeout_ms=left_ms,
                patience_ms=call.patience_ms(),
                payload=call.payload if call.inline else None,
                client_context=call.client_context,
                wants_log=call.wants_log,
                window=call.window,
                trace=call.trace,
                invoked=call.invoked,
            )
            call.worker = worker  # it may have the call before we hear so, and has to hear when its caller goes
            status = await self._hand_to(worker, call, msgspec.msgpack.encode(notice))
            if status == "sent":
                return worker
            call.worker = None
            match status:
                case "absent":
                    call.absent.add(worker.process)
                    self._workers.forget(worker.process)
                case "unknown":
                    raise errors.FunctionNotFound(call.function.name)
                case "paused":
                    raise errors.CallThrottled(call.function.name, "it is paused", limit="paused")
                case "throttled":
                    raise errors.CallThrottled(call.function.name, "it is at its concurrency limit")

    async def _hand_to(self, worker: Serves, call: HandedCall, notice: bytes) -> CallStatus:
        try:
            return await self._core.permits.call(
                call.function,
                call_id=call.id,
                permit_ms=self._core.settings.lease_ms,
                process=worker.process,
                notice=notice,
            )
        except asyncio.CancelledError:  # on a cluster, perhaps between its permit and its worker
            released = self._core.permits.release_of_function(call.function, [call.id])
            self._core.in_background(released, name="release_permit")
            raise

    async def _choose(self, call: HandedCall) -> Serves:
        """A worker that serves the function, and has not been tried in vain by this call."""
        name = call.function.name
        for fresh in (False, True):
            serving = await self._workers.serving(name, fresh=fresh)
            candidates = [worker for worker in serving if worker.process not in call.absent | call.refused.keys()]
            if candidates:
                return random.choice(candidates)
        if await self._core.directory.describe(call.function) is None:
            raise errors.FunctionNotFound(name)
        if call.refused and call.becomes_patient():
            return await self._choose(call)
        if call.refused:
            reasons = ", ".join(sorted({reply.refused for reply in call.refused.values()}))
            raise errors.CallThrottled(name, f"no worker takes it now: {reasons}", limit="workers")
        raise errors.NoLiveWorker(name)

    async def _await_reply(self, call: HandedCall, worker: Serves) -> CallReply:
        """The answer; meanwhile looks every second whether the worker is still there.

        Raises StoreError when Redis stays away.
        """
        missed, heard_at = 0, time.monotonic()
        while not call.future.done():
            left_s = call.left_ms() / 1000
            await asyncio.wait((call.future,), timeout=min(left_s, _LOOK_EVERY_S))
            if left_s <= _LOOK_EVERY_S or call.future.done():
                continue
            try:
                missed = 0 if await self._is_there(call, worker) else missed + 1
                heard_at = time.monotonic()
            except errors.StoreError:
                if time.monotonic() - heard_at > _AWAY_S and not call.future.done():
                    raise
            if missed:
                self._workers.forget(worker.process)
            if missed == _MISSED_LOOKS and not call.future.done():
                return await self.exited(call, worker)
        return call.future.result()

    async def _is_there(self, call: HandedCall, worker: Serves) -> bool:
        """Also asks for the answer, if it may have been sent to a connection of ours that was dead by then. Raises
        StoreError."""
        looking: asyncio.Future[Any]
        if self._inbox.missed_at < call.began and time.monotonic() - call.began > _ASKING_S:
            looking = asyncio.ensure_future(self._core.parcels.listening(worker.process))
        else:
            notice = msgspec.msgpack.encode(CallNotice(kind="more", id=call.id, again_from=1))
            looking = asyncio.ensure_future(self._core.parcels.tell(worker.process, notice))
        try:
            waited_for = {call.future, looking}
            await asyncio.wait(waited_for, timeout=call.left_ms() / 1000, return_when=asyncio.FIRST_COMPLETED)
            return not looking.done() or bool(looking.result())
        finally:
            looking.cancel()

    async def exited(self, call: HandedCall, worker: Serves) -> CallReply:
        """What is answered for a worker that has ended under the call."""
        try:
            cause = await self._core.directory.end_of(worker.process)
        except errors.StoreError:
            cause = None  # it has ended all the same, perhaps behind an effect: nobody is to take that for unknown
        reason = f"with error: {cause}" if cause else "without providing a reason"
        message = f"RequestId: {call.id} Error: Runtime exited {reason}"
        error = {"errorMessage": message, "errorType": "Runtime.ExitError", "requestId": call.id}
        return CallReply(id=call.id, failed=True, payload=msgspec.json.encode(error))

    async def result_of(self, reply: CallReply, call: HandedCall) -> CallResult:
        """What a whole answer says. Raises StoreError."""
        call_id = call.id
        payload = reply.payload
        if payload is None:
            payload = await self._large_answer(reply_parcel(call_id))
        if payload is None:
            raise errors.StoreFault(f"the answer of call {call_id} has expired before it was read")
        failed = "Unhandled" if reply.failed else ""
        return CallResult(
            payload=payload,
            function_error=failed,
            log_tail=reply.log_tail,
            executed_version=call.function.qualifier or LATEST,
            request_id=call_id,
        )

    async def _large_answer(self, name: str) -> bytes | None:
        """Tried again for a while: the function has run, and nobody should have to run it once more."""
        given_up = time.monotonic() + _AWAY_S
        while True:
            try:
                payload = await self._core.parcels.read(name)
            except errors.StoreError:
                if time.monotonic() > given_up:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                self._core.in_background(self._core.parcels.drop(name), name="drop_answer")
                return payload

    async def expect(self, call: HandedCall, heard: Callable[[CallReply | None], None]) -> None:
        """From here on whatever comes for a call that takes a stream is handed on, until :meth:`expect_no_more`."""
        await self._inbox.listen()
        self._inbox.streams[call.id] = heard

    def expect_no_more(self, call: HandedCall) -> None:
        """Ends that."""
        self._inbox.streams.pop(call.id, None)

    async def is_listening(self, worker: Serves) -> bool:
        """Whether a worker is still there; one that is not is given no more calls. Raises StoreError."""
        listening = await self._core.parcels.listening(worker.process)
        if not listening:
            self._workers.forget(worker.process)
        return listening

    def tell(self, worker: Serves, notice: CallNotice) -> None:
        """Sends a notice about a call to its worker, in the background."""
        told = self._core.parcels.tell(worker.process, msgspec.msgpack.encode(notice))
        self._core.in_background(told, name="cancel_call" if notice.kind == "cancel" else "take_chunks")
