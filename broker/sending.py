"""Sending: one script call for many messages, the same token when a lost reply makes it necessary to ask again."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Final, Literal, TypeAlias, TypeVar

from broker import errors, limits
from broker.core import Core
from broker.ids import TokenSource
from broker.names import Kind, Resource
from broker.store.lanes import RunsScripts
from broker.store.values import Accepted, NewMessage, Stored

T = TypeVar("T")
_Waiting: TypeAlias = tuple[NewMessage, asyncio.Future[Accepted]]
_RETRY_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, *(0.4 for _ in range(12)))  # five seconds: longer than a failover
_ROUTINGS: Final = 5
_RETRY_FOR_S: Final = 20.0  # no attempt begins later: with its timeouts it ends while the token is remembered
_NOT_FOUND: Final[dict[Kind, type[errors.NotFound]]] = {
    "queue": errors.QueueNotFound,
    "function": errors.FunctionNotFound,
    "stream": errors.StreamNotFound,
}


class Spread:
    """Where the messages of one send stand that went to several partitions, as :class:`Stored` of one."""

    def __init__(self) -> None:
        self._stored: Final[dict[int, tuple[Stored, int]]] = {}
        self.failure: Exception | None = None
        """Why what has no id was not stored, where some was."""

    def add(self, stored: Stored, indexes: Sequence[int]) -> None:
        """The messages at these places of the send were stored together."""
        for at, index in enumerate(indexes):
            self._stored[index] = stored, at

    def ids(self, count: int) -> list[str]:
        """The ids of the first ``count`` messages of the send; '' for what was not stored."""
        found = map(self._stored.get, range(count))
        return ["" if place is None else place[0].id(place[1]) for place in found]

    def entry(self, index: int) -> str:
        """The entry of one message of the send."""
        stored, at = self._stored[index]
        return stored.entry(at)


class Sender:
    """Sends to any queue or function. Concurrent single sends to one resource share a round trip."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core
        self._tokens: Final = TokenSource()
        self._waiting: Final[dict[Resource, list[_Waiting]]] = {}

    def send(self, resource: Resource, message: NewMessage) -> asyncio.Future[Accepted]:
        """Stores one message; to be awaited for its id and place. Errors: NotFound, PayloadTooLarge, the StoreError
        family."""
        future: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(resource)
        if waiting is None:
            self._waiting[resource] = [(message, future)]
            drain = self._core.in_background(self._drain(resource), name="send")
            drain.add_done_callback(partial(self._abandon, resource))
        else:
            waiting.append((message, future))
        return future

    async def send_many(self, resource: Resource, messages: Sequence[NewMessage], *, urgent: bool = False) -> list[str]:
        """Stores messages in order, up to 1,000 a step; answers their ids. Errors as :meth:`send`; ``stored`` of an
        error tells what is stored all the same."""
        ids: list[str] = []
        for chunk in chunks(messages, bytes_of=lambda message: len(message.blob)):
            try:
                placed = await self._place(resource, chunk, urgent=urgent)
                ids += placed.ids(len(chunk))
                if isinstance(placed, Spread) and placed.failure is not None:
                    raise placed.failure
            except errors.PenstockError as error:
                error.stored = tuple(ids)
                raise
        return ids

    async def _drain(self, resource: Resource) -> None:
        """Sends what has gathered until nothing has; whoever comes meanwhile joins the next step."""
        while gathered := self._waiting[resource]:
            self._waiting[resource] = []
            # Who gave up before anything was sent is left out.
            batch = [pair for pair in gathered if not pair[1].done()]
            try:
                for chunk in chunks(batch, bytes_of=lambda pair: len(pair[0].blob)):
                    await self._send_chunk(resource, chunk)
            finally:
                _fail_all(batch)  # only ever finds something when the broker was closed meanwhile
        del self._waiting[resource]

    def _abandon(self, resource: Resource, drain: asyncio.Task[None]) -> None:
        """After a drain that was cut short: nobody may wait for ever."""
        if drain.cancelled() or drain.exception() is not None:
            _fail_all(self._waiting.pop(resource, ()))

    async def _send_chunk(self, resource: Resource, chunk: Sequence[_Waiting]) -> None:
        try:
            placed = await self._place(resource, [message for message, _ in chunk], urgent=False)
        except Exception as error:  # noqa: BLE001 - each waiting sender gets it; nobody else would
            await self._refuse(resource, chunk, error)
            return
        ids = placed.ids(len(chunk))
        for index, ((_, future), stored_id) in enumerate(zip(chunk, ids, strict=True)):
            if stored_id and not future.done():
                future.set_result(Accepted(stored_id, placed.entry(index) if resource.fifo else ""))
        if isinstance(placed, Spread) and placed.failure is not None:
            left = [pair for pair, stored_id in zip(chunk, ids, strict=True) if not stored_id]
            await self._refuse(resource, left, placed.failure)

    async def _refuse(self, resource: Resource, chunk: Sequence[_Waiting], error: Exception) -> None:
        if isinstance(error, errors.InvalidInput) and len(chunk) > 1:
            for pair in chunk:  # one of them is not for this queue (too large, without an id): each for itself
                await self._send_chunk(resource, [pair])
            return
        for _, future in chunk:
            _fail(future, error)

    async def _place(self, resource: Resource, messages: Sequence[NewMessage], *, urgent: bool) -> Stored | Spread:
        """Stores messages in one step; where the resource is split, in that of the next partition, and what has an own
        id in those that the ids pick."""
        if resource not in self._core.splits.known:
            stored = await self._store(resource, messages, urgent=urgent)
            if stored is not None:
                return stored
        for _ in range(_ROUTINGS):
            spread = await self._spread(resource, messages, urgent=urgent)
            if spread is not None:
                return spread
        raise errors.StoreFault(f'the partitions of {resource.kind} "{resource.name}" changed {_ROUTINGS} times')

    async def _spread(self, whole: Resource, messages: Sequence[NewMessage], *, urgent: bool) -> Spread | None:
        """None where what was known of the partitions was not right. Raises only where nothing was stored."""
        spread = Spread()
        routes = [(whole.part(partition), indexes) for partition, indexes in await self._routes(whole, messages)]
        if len(routes) > 1:
            await self._core.durable.make_sure(part for part, _ in routes)
        for part, indexes in routes:
            try:
                stored = await self._store(part, [messages[index] for index in indexes], urgent=urgent)
            except errors.PenstockError as error:
                if part == routes[0][0]:
                    raise
                spread.failure = error
                break
            if stored is None:
                return None  # what is stored by now has own ids, which will be recognised
            spread.add(stored, indexes)
        return spread

    async def _routes(self, whole: Resource, messages: Sequence[NewMessage]) -> list[tuple[int, list[int]]]:
        """Which messages go to which partition; last those without an own id, whose step cannot be repeated."""
        named = [index for index, message in enumerate(messages) if message.own_id]
        routes: dict[int, list[int]] = {}
        if named:
            places = await self._core.partitions.places(whole, [messages[index].own_id for index in named])
            for index, place in zip(named, places, strict=True):
                routes.setdefault(place, []).append(index)
        others = [index for index, message in enumerate(messages) if not message.own_id]
        return [*routes.items(), *([(self._core.splits.turn(whole), others)] if others else ())]

    async def _store(self, resource: Resource, messages: Sequence[NewMessage], *, urgent: bool) -> Stored | None:
        """None where the messages may belong to other partitions than was known."""
        token, bucket = self._tokens.next(), str(int(time.time() // 60))
        give_up = time.monotonic() + _RETRY_FOR_S
        pauses_s = iter(_RETRY_PAUSES_S)
        if not urgent:
            await self._core.headroom.check()

        async def attempt(made_sure_of: str, runs: RunsScripts) -> Stored | Literal["split"] | None:
            return await self._core.messages.send(
                resource, messages, token=token, bucket=bucket, urgent=urgent, made_sure_of=made_sure_of, runs=runs
            )

        while True:
            try:
                stored = await self._core.durable.store(resource, attempt)
            except errors.StoreUnavailable:
                pause_s = next(pauses_s, None)
                if pause_s is None or time.monotonic() + pause_s > give_up:
                    raise
                await asyncio.sleep(pause_s)
            else:
                if stored is None:
                    await self._not_there(resource)
                    return None
                if stored != "split":
                    return stored
                if resource.partition:  # it may be what is behind
                    await self._core.partitions.adopt_one(resource)
                return None

    async def _not_there(self, resource: Resource) -> None:
        """Raises NotFound where there is no such resource; else it is a partition that has yet to be made, or one of a
        resource that was made anew with fewer."""
        core = self._core
        there = resource.partition and await core.partitions.adopt_one(resource) != "gone"
        if not there and (not resource.partition or await core.directory.describe(resource.whole) is None):
            core.splits.heard(resource.whole, None)
            raise _NOT_FOUND[resource.kind](resource.name)


def _fail_all(waiting: Iterable[_Waiting]) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(errors.StoreUnavailable("the broker was closed during this send: outcome unknown"))


def _fail(future: asyncio.Future[Accepted], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def chunks(items: Sequence[T], *, bytes_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """The items in slices that one script call may carry: at most 1,000, at most 4 MiB unless one alone is larger."""
    start = 0
    while page := items[start : start + limits.MAX_SEND_MESSAGES]:
        fit = bisect_right(list(accumulate(map(bytes_of, page))), limits.MAX_SEND_BYTES) or 1
        yield page if fit == len(page) else page[:fit]
        start += fit
