"""Synchronous calls: a notice to one live worker's inbox, an answer to the caller's; never tried again.

What is too large for a channel waits as a parcel. The permit is taken in the step that tells the worker, and is the
worker's to renew and give back from then on.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Any, Final, Literal

import msgspec

from broker import errors, limits
from broker.core import Core
from broker.ids import random_token
from broker.log import log
from broker.names import Resource, check_name
from broker.outgoing import event_json
from broker.records import check_range, decode_json
from broker.workers import LiveWorkers, Serves

INLINE_BYTES: Final = 64 * limits.KIB
_ALIVE_CHECK_S: Final = 1.0
_PARCEL_SPARE_MS: Final = 60_000


class CallNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's inbox receives. ``payload`` None: it waits as a parcel under the call's id."""

    kind: Literal["call", "cancel", "drop"] = "call"
    """``drop``: the event under the lease ``id`` was cancelled."""
    id: str
    function: str = ""
    reply_to: str = ""
    timeout_ms: int = 0
    payload: bytes | None = None


class CallReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller's inbox receives. ``payload`` None: it waits as a parcel under ``<id>:reply``."""

    id: str
    failed: bool = False
    refused: str = ""
    """The worker did not run it: it is stopping, or has no room."""
    payload: bytes | None = None


def reply_parcel(call_id: str) -> str:
    """The name under which a large answer waits."""
    return f"{call_id}:reply"


class Caller:
    """Calls functions and waits for their answers, any number at a time, over one subscription."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core
        self._workers: Final = LiveWorkers(core)
        self._process: Final = f"c{random_token()}"
        self._pending: Final[dict[str, asyncio.Future[CallReply]]] = {}
        self._listening: asyncio.Task[Any] | None = None

    async def call(self, function: str, event: object, *, timeout_s: float) -> Any:
        """The function's result.

        Errors: FunctionNotFound, InvalidInput, CallError (FunctionError, CallThrottled, CallTimeout, NoLiveWorker),
        StoreError.
        """
        check_range("timeout", timeout_s, 0.001, limits.MAX_TIMEOUT_S)
        resource = self._core.resource("function", check_name("function", function))
        payload = event_json(f'event for function "{function}"', event, limit_bytes=limits.MAX_SYNC_PAYLOAD_BYTES)
        await self._listen()
        call = _Call(resource, payload, timeout_s)
        try:
            while True:
                call.future = self._pending[call.id] = asyncio.get_running_loop().create_future()
                call.worker = await self._hand_over(call)
                reply = await self._await_reply(call, call.worker)
                if not reply.refused:
                    return await self._result(reply, call.id)
                call.refused[call.worker.process] = reply.refused
        except (errors.CallTimeout, asyncio.CancelledError):
            if call.worker is not None:
                self._cancel(call.worker, call.id)
            raise
        finally:
            self._pending.pop(call.id, None)

    async def _hand_over(self, call: _Call) -> Serves:
        """Tells one live worker, or says why none can be told."""
        inline = len(call.payload) <= INLINE_BYTES
        while True:
            worker = await self._choose(call)
            left_ms = call.left_ms()
            if not inline:
                await self._core.parcels.put(call.id, call.payload, ttl_ms=left_ms + _PARCEL_SPARE_MS)
            notice = CallNotice(
                id=call.id,
                function=call.function.name,
                reply_to=self._process,
                timeout_ms=left_ms,
                payload=call.payload if inline else None,
            )
            status = await self._core.permits.call(
                call.function,
                call_id=call.id,
                permit_ms=self._core.settings.lease_ms,
                inbox=self._core.parcels.inbox(worker.process),
                notice=msgspec.msgpack.encode(notice),
            )
            match status:
                case "sent":
                    return worker
                case "absent":
                    call.absent.add(worker.process)
                    self._workers.forget(worker.process)
                case "unknown":
                    raise errors.FunctionNotFound(call.function.name)
                case "paused":
                    raise errors.CallThrottled(call.function.name, "it is paused")
                case "throttled":
                    raise errors.CallThrottled(call.function.name, "it is at its concurrency limit")

    async def _choose(self, call: _Call) -> Serves:
        """A worker that serves the function, and has not been tried in vain by this call."""
        name = call.function.name
        for fresh in (False, True):
            serving = await self._workers.serving(name, fresh=fresh)
            candidates = [worker for worker in serving if worker.process not in call.absent | call.refused.keys()]
            if candidates:
                return random.choice(candidates)
        if await self._core.directory.describe(call.function) is None:
            raise errors.FunctionNotFound(name)
        if call.refused:
            raise errors.CallThrottled(name, f"no worker takes it now: {', '.join(sorted(set(call.refused.values())))}")
        raise errors.NoLiveWorker(name)

    async def _await_reply(self, call: _Call, worker: Serves) -> CallReply:
        """The answer; meanwhile looks every second whether the worker is still there."""
        while True:
            left_s = call.left_ms() / 1000
            done, _ = await asyncio.wait((call.future,), timeout=min(left_s, _ALIVE_CHECK_S))
            if done:
                return call.future.result()
            if (
                left_s > _ALIVE_CHECK_S
                and not await self._core.parcels.listening(worker.process)
                and not call.future.done()
            ):
                self._workers.forget(worker.process)
                cause = await self._core.directory.end_of(worker.process)
                reason = f"with error: {cause}" if cause else "without providing a reason"
                message = f"RequestId: {call.id} Error: Runtime exited {reason}"
                raise errors.FunctionError("Runtime.ExitError", message, [], call.id)

    async def _result(self, reply: CallReply, call_id: str) -> Any:
        payload = reply.payload
        if payload is None:
            payload = await self._core.parcels.take(reply_parcel(call_id))
        if payload is None:
            raise errors.StoreFault(f"the answer of call {call_id} has expired before it was read")
        value = decode_json(f"result of call {call_id}", payload)
        if not reply.failed:
            return value
        raise errors.FunctionError(
            str(value.get("errorType", "")),
            str(value.get("errorMessage", "")),
            list(value.get("stackTrace") or []),
            call_id,
        )

    def _cancel(self, worker: Serves, call_id: str) -> None:
        notice = msgspec.msgpack.encode(CallNotice(kind="cancel", id=call_id))
        self._core.in_background(self._core.parcels.tell(worker.process, notice), name="cancel_call")

    async def _listen(self) -> None:
        if self._listening is None:
            channel = self._core.parcels.inbox(self._process)
            self._listening = self._core.in_background(
                self._core.channels.listen({channel: self._on_notice}), name="listen_for_replies"
            )
        await asyncio.shield(self._listening)

    def _on_notice(self, data: bytes | None) -> None:
        if data is None:
            return
        try:
            reply = msgspec.msgpack.decode(data, type=CallReply)
        except msgspec.MsgspecError as error:
            log.warning("notice_unreadable", reason=str(error))
            return
        future = self._pending.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)


class _Call:
    """One call under way."""

    def __init__(self, function: Resource, payload: bytes, timeout_s: float) -> None:
        self.id: Final = str(uuid.uuid4())
        self.function: Final = function
        self.payload: Final = payload
        self.future: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()
        self.worker: Serves | None = None
        self.absent: Final[set[str]] = set()
        self.refused: Final[dict[str, str]] = {}
        self._timeout_s: Final = timeout_s
        self._deadline: Final = time.monotonic() + timeout_s

    def left_ms(self) -> int:
        """What is left until the caller's deadline; raises CallTimeout when nothing is."""
        left_ms = int((self._deadline - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise errors.CallTimeout(self.function.name, self._timeout_s)
        return left_ms
