"""Single events of functions by their ids: where one is, how it ended, its result; and taking one out."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker import tracing
from broker.call_notices import CallNotice
from broker.core import Core
from broker.endings import EndState, cancelled, error_text, parse_end
from broker.errors import (
    EventNotFound,
    EventPending,
    FunctionError,
    FunctionNotFound,
    InvalidOption,
    ResultNotKept,
    StoreFault,
)
from broker.ids import TOKEN_OWNER_LENGTH, entry_of, id_mark, message_id, nonce_of, partition_of
from broker.invocation_records import Condition, InvocationEnd, onward_records
from broker.names import LATEST, SPARE, Resource, split_function
from broker.outgoing import check_own_id
from broker.records import FunctionSettings, check_range, decode_json, unpack
from broker.routing import Relay
from broker.store.partitions import partition_of_id
from broker.store.statuses import EventKey, Standing

State: TypeAlias = Literal["queued", "running", "retrying"] | EndState
MAX_WAIT_S: Final = 86_400.0
_LOOK_AGAIN_S: Final = 5.0
_AWAITED_SPARE_MS: Final = 10_000
_LOOKS: Final = 20


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one event. Times are milliseconds since 1970."""

    id: str
    function: str
    state: State
    attempt: int
    """The number of the try that runs, else of the last one; 0 before the first."""
    since_ms: int | None = None
    """``running``: when a worker took it, by that worker's clock."""
    next_ms: int | None = None
    """``retrying``, or ``queued`` with a delay: when it may run next."""
    ended_ms: int | None = None
    condition: Condition | None = None
    """Of an event that ended: as in its invocation record."""
    error_type: str = ""
    """``retrying`` and ``failed``: what the last try raised."""
    error_message: str = ""
    crashes: int = 0
    """How often its worker died over it, as long as it has not ended."""

    @property
    def ended(self) -> bool:
        """Whether it will not run any more."""
        return self.ended_ms is not None


class Statuses:
    """Looks at events, waits for their ends, and cancels. Errors: EventNotFound, FunctionNotFound, InvalidInput,
    StoreError."""

    def __init__(self, core: Core, relay: Relay) -> None:
        self._core: Final = core
        self._relay: Final = relay
        self._ends: Final = _Ends(core)

    async def status(self, request_id: str, *, function: str | None = None, wait_s: float = 0) -> Status:
        """Where an event is, or how it ended; waits so many seconds for its end."""
        check_range("wait", wait_s, 0, MAX_WAIT_S)
        resource, key, found = await self._locate(request_id, function)
        if wait_s and isinstance(found, Standing):
            await self._wait(resource, key, wait_s)
            found = await self._look(resource, key, request_id)
        if isinstance(found, bytes):
            return _ended(request_id, resource, found)
        return await self._standing(request_id, resource, key, found)

    async def result(self, request_id: str, *, function: str | None = None, wait_s: float = 0) -> Any:
        """What the handler answered. Errors besides: FunctionError, EventPending, ResultNotKept."""
        status = await self.status(request_id, function=function, wait_s=wait_s)
        if not status.ended:
            raise EventPending(request_id, status.state)
        _, _, found = await self._locate(request_id, status.function)
        if not isinstance(found, bytes):
            raise EventPending(request_id, "queued")  # a caller's own id, which names a newer event by now
        end = parse_end(found)
        if end.condition != "Success":
            error = error_text(end.error)
            kind, text = (error.error_type, error.message) if error else ("", "")
            raise FunctionError(kind or end.condition, text or f"the event {_ENDED_AS[end.state]}", [], request_id)
        if end.result is None:
            raise ResultNotKept(request_id, status.function, too_large=end.too_large)
        return decode_json(f"result of event {request_id}", end.result)

    async def cancel(self, request_id: str, *, function: str | None = None) -> bool:
        """Takes an event out, or ends its running call; False when it had ended otherwise before."""
        resource, key = await self._find(request_id, function)
        for attempt in range(_LOOKS):
            seen = await self._core.statuses.look(resource, key, with_body=True)
            if seen == "unknown":
                raise EventNotFound(request_id)
            if isinstance(seen, bytes):
                return parse_end(seen).condition == "Cancelled"
            if seen == "gone":
                if not attempt:
                    resource, _ = await self._elsewhere(resource, key, request_id)
                    continue
                return False
            done = await self._take_out(request_id, resource, seen)
            if done is not None:
                return done
            await asyncio.sleep(0.01 * attempt)
        raise StoreFault(f"event {request_id} has no place; the repair at a worker's start will give it one")

    # -- finding ------------------------------------------------------------------------------------------------------

    async def _find(self, request_id: str, function: str | None) -> tuple[Resource, EventKey]:
        """Which function's it is, by the random number in its id; and under which name it is known there."""
        check_own_id(request_id)
        mark = id_mark(request_id)
        if function is not None:
            resource = await self._holder(request_id, mark, function)
            if mark is None or nonce_of(mark) != await self._core.directory.nonce(resource):
                place = partition_of_id(request_id, self._core.splits.count(resource))
                return resource.part(place), EventKey(own_id=request_id)
        else:
            if mark is None:
                rule = "needed with an id of your own: only ids that Penstock made tell their function"
                raise InvalidOption("function", None, rule)
            name = await self._core.directory.function_of(nonce_of(mark))
            if name is None:
                raise EventNotFound(request_id)
            resource = self._core.resource("function", name)
        key = EventKey(entry=entry_of(request_id, mark) or "", nonce=str(mark))
        return resource.part(partition_of(mark)), key

    async def _locate(self, request_id: str, function: str | None) -> tuple[Resource, EventKey, Standing | bytes]:
        resource, key = await self._find(request_id, function)
        try:
            return resource, key, await self._look(resource, key, request_id)
        except EventNotFound:
            resource, found = await self._elsewhere(resource, key, request_id)
            return resource, key, found

    async def _elsewhere(self, resource: Resource, key: EventKey, request_id: str) -> tuple[Resource, Standing | bytes]:
        """The event of a caller's own id that was sent when there were fewer partitions. Raises EventNotFound."""
        for part in await self._core.partitions.parts(resource.whole) if key.own_id else ():
            if part != resource:
                found = await self._core.statuses.look(part, key)
                if not isinstance(found, str):
                    return part, found
        raise EventNotFound(request_id)

    async def _holder(self, request_id: str, mark: int | None, function: str) -> Resource:
        """What of this name holds the event: of an alias, its spare part where that knows the id."""
        name, qualifier = split_function(function)
        resource = self._core.resource("function", name if qualifier in {"", LATEST} else function)
        if await self._core.directory.nonce(resource) is None:
            raise FunctionNotFound(function)
        if not resource.qualifier:
            return resource
        spare = self._core.resource("function", f"{function}{SPARE}")
        own_nonce = await self._core.directory.nonce(spare)
        if own_nonce is None:
            return resource
        key = EventKey(own_id=request_id) if mark is None or nonce_of(mark) != own_nonce else None
        found = key is None or not isinstance(await self._core.statuses.look(spare, key), str)
        return spare if found else resource

    async def _look(self, resource: Resource, key: EventKey, request_id: str) -> Standing | bytes:
        found = await self._core.statuses.look(resource, key)
        if isinstance(found, str):
            self._core.directory.forget(resource.whole)  # it may have been made anew, with another random number
            raise EventNotFound(request_id)
        return found

    async def _standing(self, request_id: str, resource: Resource, key: EventKey, found: Standing) -> Status:
        """What is told until it has ended. Where its lease is gone when it is looked for, all is looked at again."""
        lease = None
        for _ in range(_LOOKS):
            if found.place != "leased":
                break
            lease = await self._core.statuses.lease_of(resource, found.entry)
            if lease is not None:
                break
            again = await self._look(resource, key, request_id)
            if isinstance(again, bytes):
                return _ended(request_id, resource, again)
            found = again
        return _unended(request_id, resource, found, lease)

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _wait(self, resource: Resource, key: EventKey, wait_s: float) -> None:
        """Until it has ended, or the time is over. Told by whoever ends it; a slow look finds what was missed."""
        deadline = time.monotonic() + wait_s
        async with self._ends.of(resource, key.name) as told:
            await self._core.statuses.await_end(resource, key.name, for_ms=int(wait_s * 1000) + _AWAITED_SPARE_MS)
            while True:
                told.clear()
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not isinstance(await self._core.statuses.look(resource, key), Standing):
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), min(left_s, _LOOK_AGAIN_S))

    # -- cancelling ---------------------------------------------------------------------------------------------------

    async def _take_out(self, request_id: str, resource: Resource, seen: Standing) -> bool | None:
        """None when it moved on between the look and the step."""
        lease = await self._core.statuses.lease_of(resource, seen.entry) if seen.place == "leased" else None
        member = lease[0] if lease else ""
        facts = seen.facts
        tries = facts.tries if facts else 0
        header, body = unpack(seen.blob)
        own_id = header.id or ""
        described = await self._core.directory.describe(resource)
        if described is None:
            raise EventNotFound(request_id)
        end = InvocationEnd(
            function=resource,
            request_id=own_id or message_id(seen.entry, described.nonce),
            condition="Cancelled",
            tries=tries,
            event=body,
            response=seen.note or None,
            now_ms=seen.now_ms,
            trace=tracing.of_header(header),
        )
        onward = onward_records(end, msgspec.json.decode(described.settings, type=FunctionSettings))
        rest = cancelled(tries, seen.note)
        done = await self._core.statuses.cancel(resource, seen, member=member, own_id=own_id, rest=rest, onward=onward)
        if done == "moved":
            return None
        if done == "cancelled":
            await self._tell_worker(resource, member)
            if onward:
                await self._relay.deliver(resource)
        return done == "cancelled"

    async def _tell_worker(self, resource: Resource, member: str) -> None:
        """Whoever runs it hears at once; without that, at the next renewal of its lease."""
        token = member.partition("|")[2]
        if token[:1] in {"w", "s"}:
            notice = CallNotice(kind="drop", id=member, function=resource.name, partition=resource.partition)
            process = token[1 : 1 + TOKEN_OWNER_LENGTH]
            await self._core.parcels.tell(process, msgspec.msgpack.encode(notice))


_ENDED_AS: Final[dict[EndState, str]] = {
    "succeeded": "succeeded",
    "failed": "was given up",
    "expired": "was too old to run",
    "cancelled": "was cancelled",
}


def _ended(request_id: str, resource: Resource, text: bytes) -> Status:
    end = parse_end(text)
    error = error_text(end.error)
    return Status(
        id=request_id,
        function=resource.name.removesuffix(SPARE),
        state=end.state,
        attempt=end.tries,
        ended_ms=end.ended_ms,
        condition=end.condition,
        error_type=error.error_type if error else "",
        error_message=error.message if error else "",
    )


def _unended(request_id: str, resource: Resource, found: Standing, lease: tuple[str, int] | None) -> Status:
    facts = found.facts
    tries, crashes = (facts.tries, facts.crashes) if facts else (0, 0)
    state: State = "retrying" if tries else "queued"
    since_ms = None
    if lease is not None and lease[1] > found.now_ms:
        state, since_ms = "running", _taken_ms(lease[0])
    error = error_text(found.note) if state == "retrying" else None
    return Status(
        id=request_id,
        function=resource.name.removesuffix(SPARE),
        state=state,
        attempt=tries + (state == "running"),
        since_ms=since_ms,
        next_ms=found.due_ms if found.place in {"waiting", "delayed"} else None,
        error_type=error.error_type if error else "",
        error_message=error.message if error else "",
        crashes=crashes,
    )


def _taken_ms(member: str) -> int | None:
    """When a worker took it, which its lease's token tells."""
    _, dot, text = member.rpartition(".")
    try:
        return int(text, 16) if dot else None
    except ValueError:
        return None


class _Ends:
    """Who waits for which end in this process; one listener a function."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core
        self._waiting: Final[dict[Resource, _Listening]] = {}

    def of(self, function: Resource, name: str) -> _Waiting:
        """An event that is set when the function's event of that name ends, or something may have been missed."""
        return _Waiting(self._core, self._waiting, function, name)


class _Listening:
    def __init__(self) -> None:
        self.told: Final[dict[str, list[asyncio.Event]]] = {}

    def hear(self, data: bytes | None) -> None:
        if data is None:
            events = [event for group in self.told.values() for event in group]
        else:
            events = self.told.get(data.decode(), [])
        for event in events:
            event.set()


class _Waiting:
    def __init__(self, core: Core, waiting: dict[Resource, _Listening], function: Resource, name: str) -> None:
        self._core: Final = core
        self._all: Final = waiting
        self._function: Final = function
        self._name: Final = name
        self._event: Final = asyncio.Event()

    async def __aenter__(self) -> asyncio.Event:
        found = self._all.get(self._function)
        first = found is None
        if found is None:
            found = self._all[self._function] = _Listening()
        found.told.setdefault(self._name, []).append(self._event)
        if first:  # the others are told when Redis confirms it
            await self._core.channels.listen({self._core.keys.of(self._function).ended: found.hear})
        return self._event

    async def __aexit__(self, *_: object) -> None:
        found = self._all[self._function]
        group = found.told[self._name]
        group.remove(self._event)
        if not group:
            del found.told[self._name]
        if not found.told:
            del self._all[self._function]
            await self._core.channels.unlisten(self._core.keys.of(self._function).ended, found.hear)
