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
from broker.names import Resource, check_name
from broker.outgoing import event_json
from broker.records import check_range, decode_json
from broker.workers import LiveWorkers, Serves

INLINE_BYTES: Final = 64 * limits.KIB
_ALIVE_CHECK_S: Final = 1.0
_PARCEL_SPARE_MS: Final = 60_000


class CallNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker's inbox receives. ``payload`` None: it waits as a parcel under the call's id."""

    kind: Literal["call", "cancel"] = "call"
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
        """The function's result. Errors: FunctionNotFound, InvalidInput, CallError (FunctionError, CallThrottled,
        CallTimeout, NoLiveWorker), StoreError.
        """
        check_range("timeout", timeout_s, 0.001, limits.MAX_TIMEOUT_S)
        resource = self._core.resource("function", check_name("function", function))
        payload = event_json(f'event for function "{function}"', event, limit_bytes=limits.MAX_SYNC_PAYLOAD_BYTES)
        await self._listen()
        call_id = str(uuid.uuid4())
        future: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()
        self._pending[call_id] = future
        deadline = time.monotonic() + timeout_s
        worker: Serves | None = None
        try:
            while True:
                worker = await self._hand_over(resource, call_id, payload, deadline, timeout_s)
                reply = await self._await_reply(worker, future, deadline, resource, call_id, timeout_s)
                if not reply.refused:
                    return await self._result(reply, call_id)
                self._workers.forget(worker.process)
                future = asyncio.get_running_loop().create_future()
                self._pending[call_id] = future
        except (errors.CallTimeout, asyncio.CancelledError):
            if worker is not None:
                self._cancel(worker, call_id)
            raise
        finally:
            self._pending.pop(call_id, None)

    async def _hand_over(
        self, resource: Resource, call_id: str, payload: bytes, deadline: float, timeout_s: float
    ) -> Serves:
        """Tells one live worker, or says why none can be told."""
        inline = len(payload) <= INLINE_BYTES
        tried_fresh = False
        while True:
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise errors.CallTimeout(resource.name, timeout_s)
            candidates = await self._workers.serving(resource.name, fresh=tried_fresh)
            if not candidates:
                if not tried_fresh:
                    tried_fresh = True
                    continue
                if await self._core.directory.describe(resource) is None:
                    raise errors.FunctionNotFound(resource.name)
                raise errors.NoLiveWorker(resource.name)
            worker = random.choice(candidates)
            if not inline:
                await self._core.parcels.put(call_id, payload, ttl_ms=left_ms + _PARCEL_SPARE_MS)
            notice = CallNotice(
                id=call_id,
                function=resource.name,
                reply_to=self._process,
                timeout_ms=left_ms,
                payload=payload if inline else None,
            )
            status = await self._core.permits.call(
                resource,
                call_id=call_id,
                permit_ms=self._core.settings.lease_ms,
                inbox=self._core.parcels.inbox(worker.process),
                notice=msgspec.msgpack.encode(notice),
            )
            match status:
                case "sent":
                    return worker
                case "absent":
                    self._workers.forget(worker.process)
                case "unknown":
                    raise errors.FunctionNotFound(resource.name)
                case "paused":
                    raise errors.CallThrottled(resource.name, "it is paused")
                case "throttled":
                    raise errors.CallThrottled(resource.name, "it is at its concurrency limit")

    async def _await_reply(
        self,
        worker: Serves,
        future: asyncio.Future[CallReply],
        deadline: float,
        resource: Resource,
        call_id: str,
        timeout_s: float,
    ) -> CallReply:
        """The answer; meanwhile looks every second whether the worker is still there."""
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise errors.CallTimeout(resource.name, timeout_s)
            done, _ = await asyncio.wait((future,), timeout=min(left_s, _ALIVE_CHECK_S))
            if done:
                return future.result()
            if left_s > _ALIVE_CHECK_S and not await self._core.parcels.listening(worker.process) and not future.done():
                self._workers.forget(worker.process)
                message = f"RequestId: {call_id} Error: Runtime exited without providing a reason"
                raise errors.FunctionError("Runtime.ExitError", message, [], call_id)

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
        reply = msgspec.msgpack.decode(data, type=CallReply)
        future = self._pending.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)
