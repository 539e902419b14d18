"""Synchronous calls: this process's inbox. Each notice is one call; its permit was taken when it was sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import msgspec

from broker.call_notices import INLINE_BYTES, CallNotice, CallReply, reply_parcel
from broker.errors import RECURSION_STOPPED, StoreError
from broker.log import log
from broker.names import Resource
from runtime import call_log
from runtime.context import ClientContext, Context
from runtime.engine import Engine
from runtime.handlers import HandlerFunction, Unreadable
from runtime.invoker import Call
from runtime.metrics import CallFigures
from runtime.outcomes import Completed, Failed, Outcome, TimedOut, brief, error_json, exit_error, failed
from runtime.outlets import Outlets
from runtime.policy import in_loop
from runtime.telling import KeptAnswers, keep_for_caller, tell_caller
from runtime.tracing import Tracer

_PARCEL_TTL_MS: Final = 60_000
_REMEMBERED: Final = 1_000
_NO_ROOM: Final = "no room, or stopping"
_FREE_FIRST_S: Final = 1.0
_CALLER_GRACE_S: Final = 1.0
"""A caller whose time is over says so; this much later its call ends all the same, as the caller may be dead."""


class CallSource:
    """Runs the calls that this process is handed and answers each once."""

    def __init__(
        self, engine: Engine, functions: dict[str, HandlerFunction], *, on_dropped: Callable[[Resource, str], None]
    ) -> None:
        self._engine: Final = engine
        self._functions: Final = functions
        self._on_dropped: Final = on_dropped
        self._tracers: Final[dict[str, Tracer]] = {}
        self._running: Final[dict[str, Call]] = {}
        self._arriving: Final[set[str]] = set()
        self._turns: Final[dict[str, asyncio.Lock]] = {}
        self._waiting: Final[dict[str, asyncio.Timeout]] = {}
        """How long calls wait for their turn yet."""
        self._outlets: Final = Outlets(engine.core, on_gone=self._cancel)
        self._kept: Final = KeptAnswers()
        self._latest: Final[deque[str]] = deque(maxlen=_REMEMBERED)
        self._known: Final[set[str]] = set()
        self._figures: Final[dict[str, CallFigures]] = {}
        self._under_way: Final[set[asyncio.Task[Any]]] = set()
        self._freeing: Final[dict[str, asyncio.Task[Any]]] = {}
        """Permits that are given back at another node than the answer is published at."""
        self._stopping = False

    def stop(self) -> None:
        """From here on calls that have not begun are refused; their callers hand them to another worker."""
        self._stopping = True
        for patience in self._waiting.values():
            _end(patience)

    async def answered(self) -> None:
        """Returns when whatever was to be told to callers has been told, or nobody wants to hear it any more."""
        while tasks := self._under_way | self._outlets.sending:
            await asyncio.wait(tasks)

    async def leave(self, inbox: str) -> None:
        """Ends the inbox. Calls that had reached it by then are refused, so none is left there unread."""
        await self._engine.core.channels.leave(inbox, self.on_notice)
        await self.answered()

    def on_notice(self, data: bytes | None) -> None:
        """What the inbox received."""
        if data is None:
            return
        try:
            notice = msgspec.msgpack.decode(data, type=CallNotice)
        except msgspec.MsgspecError as error:
            log.warning("notice_unreadable", reason=str(error))
            return
        if notice.kind == "drop":
            function = self._engine.core.resource("function", notice.function)
            self._on_dropped(function.part(notice.partition), notice.id)
            return
        if notice.kind == "more":
            self._outlets.taken(notice)
            if notice.again_from and (kept := self._kept.again(notice.id)) is not None:
                self._begin(self._engine.core.parcels.tell(*kept), name="answer")
            return
        if notice.kind == "cancel":
            self._outlets.close(notice.id)
            self._cancel(notice.id)
            return
        if not self._is_new(f"{notice.id} again" if notice.patience_ms else notice.id):
            return
        self._arriving.add(notice.id)
        self._begin(self._take(notice, time.monotonic()), name="call")

    def _begin(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = self._engine.core.in_background(work, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def _cancel(self, call_id: str) -> None:
        call = self._running.get(call_id)
        if call is not None:
            self._engine.invoker.abandon(call)
        self._arriving.discard(call_id)
        if (patience := self._waiting.get(call_id)) is not None:
            _end(patience)

    def _is_new(self, call_id: str) -> bool:
        """On a cluster an inbox that moves to another node is heard at both for a moment."""
        if call_id in self._known:
            return False
        if len(self._latest) == _REMEMBERED:
            self._known.discard(self._latest[0])
        self._latest.append(call_id)
        self._known.add(call_id)
        return True

    async def _take(self, notice: CallNotice, received: float) -> None:
        function = self._functions.get(notice.function)
        if function is None or not (notice.patience_ms or self._has_room(function)):
            self._arriving.discard(notice.id)
            await self._refuse_for_room(notice)
            return
        resource = self._engine.core.resource("function", notice.function)
        permits = self._engine.core.keys.of(resource).permits
        self._engine.keeper.hold_permits(permits, [notice.id])
        payload, problem = await self._payload_of(notice)
        has_room = payload is not None and await self._gets_room(function, notice)
        if notice.id not in self._arriving:
            await self._free(resource, notice.id)  # its caller has gone meanwhile
            return
        self._arriving.discard(notice.id)
        if payload is None:
            await self._refuse(notice, problem)
            return
        if not has_room:  # from here on nothing is awaited until it runs
            await self._refuse_for_room(notice)
            return
        tracer = self._tracer_of(function)
        if notice.trace.header and in_loop(function.settings, tracer.invocations(notice.trace.header)):
            await self._refuse_loop(notice)
            return
        gives_up, ends = received + notice.timeout_ms / 1000, time.monotonic() + function.settings.timeout_s
        context = Context(
            identity=notice.id,
            function_name=function.name,
            invoked_function_arn=_invoked_arn(resource, notice),
            log_stream_name=self._engine.log_stream,
            deadline=min(ends, gives_up),
            client_context=_client_context(notice.client_context),
            settings=function.settings,
        )
        try:
            event = function.decode(payload)
        except Unreadable as error:
            await self._tell_unreadable(notice, function, resource, error)
            return
        if function.yields:
            function = function.for_call(self._outlets.open(notice).put if notice.window else None)
        watched = _begin_log(notice, function)
        deadline = min(ends, gives_up + _CALLER_GRACE_S)
        call = Call(function, event, context, deadline, self._on_outcome, self._on_free, notice, watched)
        tracer.look()
        call.trace = tracer.of_call(notice.trace, context)
        self._running[notice.id] = call
        self._engine.invoker.start(call)

    async def _payload_of(self, notice: CallNotice) -> tuple[bytes | None, str]:
        """None where there is none any more, and why."""
        if notice.payload is not None:
            return notice.payload, ""
        try:
            return await self._engine.core.parcels.take(notice.id), "the payload has expired before it was read"
        except StoreError as error:
            return None, f"the payload could not be read: {error.code}"

    def _has_room(self, function: HandlerFunction) -> bool:
        return not self._stopping and self._engine.room.free_for(self, function) > 0

    async def _gets_room(self, function: HandlerFunction, notice: CallNotice) -> bool:
        """Whether a call may start, at once or when it is its turn: those of one function have one place in the line
        of all who wait for room, as its queued events have."""
        if self._has_room(function) or not notice.patience_ms or notice.id not in self._arriving:
            return self._has_room(function)
        room, turn = self._engine.room, self._turns.setdefault(function.resource_name, asyncio.Lock())
        try:
            async with asyncio.timeout(notice.patience_ms / 1000) as self._waiting[notice.id], turn:
                try:
                    while not self._stopping and room.free_for(turn, function) < 1:
                        freed = asyncio.Event()
                        room.wait_for(turn, function, freed.set, idle=True)
                        await freed.wait()
                finally:
                    room.leave_line(turn)
        except TimeoutError:
            return False
        finally:
            del self._waiting[notice.id]
        return not self._stopping

    def _tracer_of(self, function: HandlerFunction) -> Tracer:
        """Versions and aliases are their function."""
        return self._tracers.get(function.name) or self._tracers.setdefault(
            function.name, self._engine.tracer(function)
        )

    def _figures_of(self, function: str) -> CallFigures | None:
        """Where somebody asked for metrics; made when it is first needed."""
        if self._engine.figures is None or function not in self._functions:
            return None
        found = self._figures.get(function)
        if found is None:
            found = self._figures[function] = CallFigures(self._engine.figures, function, "call")
        return found

    async def _refuse_for_room(self, notice: CallNotice) -> None:
        if not notice.patience_ms and (figures := self._figures_of(notice.function)):  # else it was counted before
            figures.throttled("room")
        await self._refuse(notice, _NO_ROOM, may_wait=notice.function in self._functions and not self._stopping)

    async def _refuse(self, notice: CallNotice, why: str, *, may_wait: bool = False) -> None:
        await self._free_first(notice)
        owner, waited = self._engine.tokens.owner, bool(notice.patience_ms)
        await self._tell(notice, CallReply(id=notice.id, refused=why, worker=owner, waited=waited, may_wait=may_wait))

    async def _tell_unreadable(
        self, notice: CallNotice, function: HandlerFunction, resource: Resource, error: Unreadable
    ) -> None:
        problem = failed("Runtime.UnmarshalError", str(error), notice.id, [])
        try:
            tail = _end_log(_begin_log(notice, function), problem, function)
            await self._answer(notice, problem.error, failed_=True, log_tail=tail)
        finally:
            await self._free(resource, notice.id)

    async def _refuse_loop(self, notice: CallNotice) -> None:
        """Its chain has run the function too often. A caller of an older release is told as of a failure."""
        log.warning("recursion_stopped", function=notice.function, request_id=notice.id)
        await self._free_first(notice)
        error = error_json("RecursiveInvocationException", RECURSION_STOPPED, notice.id)
        reply = CallReply(id=notice.id, failed=True, payload=error, in_loop=True)
        await self._tell(notice, reply)

    def _on_outcome(self, call: Call) -> None:
        tail = _end_log(call.log, call.outcome, call.function)
        if figures := self._figures_of(call.function.shown_name):
            figures.ended(call.outcome, time.monotonic() - call.started)
        match call.outcome:
            case Completed(result):
                payload = result
            case Failed(error) | TimedOut(error):
                payload = error
                self._log_failure(call, call.outcome)
            case _:
                payload = exit_error(None, call.context.aws_request_id)
        answer = self._answer(call.work, payload, failed_=not isinstance(call.outcome, Completed), log_tail=tail)
        self._begin(answer, name="answer")

    def _log_failure(self, call: Call, outcome: Failed | TimedOut) -> None:
        log.warning(
            "call_failed",
            function=call.function.shown_name,
            request_id=call.context.aws_request_id,
            error_type=outcome.error_type,
            error=brief(outcome.message),
            at=outcome.at or None,
        )

    def _on_free(self, call: Call) -> None:
        self._running.pop(call.work.id, None)
        self._engine.calls_ended += 1
        resource = self._engine.core.resource("function", call.function.resource_name)
        freeing = self._begin(self._free(resource, call.work.id), name="release_permit")
        if call.function.settings.concurrency is not None and self._engine.core.runner.link.spread:
            self._freeing[call.work.id] = freeing
            freeing.add_done_callback(lambda _: self._freeing.pop(call.work.id, None))

    async def _free_first(self, notice: CallNotice) -> None:
        """Before its caller is told, who may need the permit for another worker; one that cannot be given back now runs
        out."""
        with suppress(StoreError):
            await self._free(self._engine.core.resource("function", notice.function), notice.id)

    async def _free(self, resource: Resource, call_id: str) -> None:
        """Whatever this process knows of limits: its permit, where there was one, was taken by what Redis knew."""
        self._engine.keeper.drop_permits(self._engine.core.keys.of(resource).permits, [call_id])
        await self._engine.core.permits.release_of_function(resource, [call_id])

    async def _answer(self, notice: CallNotice, payload: bytes, *, failed_: bool, log_tail: bytes) -> None:
        inline, still = len(payload) <= INLINE_BYTES, _while_waited_for(notice)
        if (freeing := self._freeing.get(notice.id)) is not None:  # whoever has the answer may call again
            await asyncio.wait((freeing,), timeout=_FREE_FIRST_S)
        end = CallReply(id=notice.id, failed=failed_, payload=payload if failed_ else None, log_tail=log_tail)
        if self._outlets.end(notice.id, end):
            return
        if not inline:
            name = reply_parcel(notice.id)
            await keep_for_caller(self._engine.core, name, payload, ttl_ms=_PARCEL_TTL_MS, still=still)
        reply = CallReply(id=notice.id, failed=failed_, payload=payload if inline else None, log_tail=log_tail)
        await self._tell(notice, reply, still)

    async def _tell(self, notice: CallNotice, reply: CallReply, still: Callable[[], bool] | None = None) -> None:
        still, told = still or _while_waited_for(notice), msgspec.msgpack.encode(reply)
        self._kept.keep(notice.id, notice.reply_to, told)
        await tell_caller(self._engine.core, notice.reply_to, told, still=still)


def _end(patience: asyncio.Timeout) -> None:
    if not patience.expired():
        patience.reschedule(0)


def _while_waited_for(notice: CallNotice) -> Callable[[], bool]:
    """Whether the caller can still be waiting."""
    given_up = time.monotonic() + notice.timeout_ms / 1000 + _CALLER_GRACE_S
    return lambda: time.monotonic() < given_up


def _invoked_arn(resource: Resource, notice: CallNotice) -> str:
    """As it was called: by an alias, where by one."""
    if not notice.invoked:
        return resource.arn
    return f"{resource.arn.removesuffix(f':{resource.qualifier}')}:{notice.invoked}"


def _client_context(text: bytes | None) -> ClientContext | None:
    """What the caller sent; what is no JSON object is nothing."""
    if text is None:
        return None
    try:
        return ClientContext(msgspec.json.decode(text, type=dict[str, Any]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _begin_log(notice: CallNotice, function: HandlerFunction) -> call_log.CallLog | None:
    if not notice.wants_log:
        return None
    return call_log.begin(notice.id, version=function.settings.version, memory_mb=function.settings.memory_mb)


def _end_log(log: call_log.CallLog | None, outcome: Outcome | None, function: HandlerFunction) -> bytes:
    return b"" if log is None else call_log.end(log, outcome, function.settings.timeout_s)
