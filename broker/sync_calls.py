"""Streamed calls without an event loop, as :class:`broker.sync.Broker` gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Self

from broker import client as aio
from broker.call_streams import CallStream as AioCallStream
from broker.sync_queues import Runs


class CallStream:
    """The chunks of a call as they come: ``with broker.call_stream(...) as chunks: for chunk in chunks``.

    Rules and errors are those of :class:`broker.call_streams.CallStream`.
    """

    def __init__(self, run: Runs, broker: aio.Broker, function: str, event: object, *, timeout_s: float) -> None:
        self._run: Final = run
        self._inner: Final[AioCallStream] = broker.call_stream(function, event, timeout=timeout_s)
        self.request_id: Final = self._inner.request_id
        """What the function sees as its request id."""

    def __enter__(self) -> Self:
        self._run(self._inner.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._inner.__aexit__)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._run(self._inner.next)
        if chunk is None:
            raise StopIteration
        return chunk
