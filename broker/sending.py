"""Sending: one script call for many messages, the same token when a lost reply makes it necessary to ask again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeVar

from broker import errors, limits
from broker.core import Core
from broker.ids import TokenSource
from broker.names import Kind, Resource
from broker.store.lanes import RunsScripts
from broker.store.values import Accepted, NewMessage, Stored

T = TypeVar("T")
_Waiting: TypeAlias = tuple[NewMessage, asyncio.Future[Accepted]]
_RETRY_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, *(0.4 for _ in range(12)))  # five seconds: longer than a failover
_RETRY_FOR_S: Final = 20.0  # no attempt begins later: with its timeouts it ends while the token is remembered
_NOT_FOUND: Final[dict[Kind, type[errors.NotFound]]] = {
    "queue": errors.QueueNotFound,
    "function": errors.FunctionNotFound,
    "stream": errors.StreamNotFound,
}


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
        """Stores messages in order, up to 1,000 a step; answers their ids. Errors as :meth:`send`."""
        ids: list[str] = []
        sent: tuple[Stored, int] | None = None
        for chunk in chunks(messages, bytes_of=lambda message: len(message.blob)):
            storing = asyncio.ensure_future(self._store(resource, chunk, urgent=urgent))
            try:
                await asyncio.sleep(0)  # the step is on its way; the ids of the one before are made meanwhile
                if sent is not None:
                    ids += sent[0].ids(sent[1])
                sent = await storing, len(chunk)
            finally:
                storing.cancel()
        if sent is not None:
            ids += sent[0].ids(sent[1])
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
            stored = await self._store(resource, [message for message, _ in chunk], urgent=False)
        except errors.InvalidInput as error:
            if len(chunk) == 1:
                _fail(chunk[0][1], error)
                return
            for pair in chunk:  # one of them is not for this queue (too large, without an id): each for itself
                await self._send_chunk(resource, [pair])
        except Exception as error:  # noqa: BLE001 - each waiting sender gets it; nobody else would
            for _, future in chunk:
                _fail(future, error)
        else:
            for index, ((_, future), stored_id) in enumerate(zip(chunk, stored.ids(len(chunk)), strict=True)):
                if not future.done():
                    future.set_result(Accepted(stored_id, stored.entry(index)))

    async def _store(self, resource: Resource, messages: Sequence[NewMessage], *, urgent: bool) -> Stored:
        token, bucket = self._tokens.next(), str(int(time.time() // 60))
        give_up = time.monotonic() + _RETRY_FOR_S
        pauses_s = iter(_RETRY_PAUSES_S)
        if not urgent:
            await self._core.headroom.check()

        async def attempt(made_sure_of: str, runs: RunsScripts) -> Stored | None:
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
                    raise _NOT_FOUND[resource.kind](resource.name)
                return stored


def _fail_all(waiting: Iterable[_Waiting]) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(errors.StoreUnavailable("the broker was closed during this send: outcome unknown"))


def _fail(future: asyncio.Future[Accepted], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def chunks(items: Sequence[T], *, bytes_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """The items in slices that one script call may carry: at most 1,000, at most 4 MiB unless one alone is larger."""
    start, size = 0, 0
    for index, item in enumerate(items):
        length = bytes_of(item)
        if index > start and (index - start >= limits.MAX_SEND_MESSAGES or size + length > limits.MAX_SEND_BYTES):
            yield items[start:index]
            start, size = index, 0
        size += length
    if start < len(items):
        yield items[start:]
