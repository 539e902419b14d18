"""Callers that are cancelled at each point of a synchronous call: what they have begun ends, and no permit is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Broker
from broker.store.permits import CallStatus
from tests.runtime.scene import Serve, Shop, empty, eventually


@pytest.fixture
def shop() -> Shop:
    return Shop(concurrency=1)


async def test_a_caller_that_is_cancelled_before_it_hears_that_a_worker_was_told_ends_the_handler(
    broker: Broker, serve: Serve, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over = broker.core.permits.call

    async def unheard(*args: Any, **options: Any) -> CallStatus:
        await hand_over(*args, **options)
        await asyncio.Event().wait()
        raise AssertionError

    async with serve(shop.app):
        with monkeypatch.context() as patched:
            patched.setattr(broker.core.permits, "call", unheard)
            await cancelled(asyncio.create_task(broker.call("job", "whole")), shop)
            stream = broker.call_stream("job", "stream")
            await cancelled(asyncio.create_task(stream.__aenter__()), shop)
        assert shop.cancelled == ["whole", "stream"]
        shop.gate.set()
        assert await broker.call("job", "next") == "next"
        await empty(broker, "job")


async def cancelled(call: asyncio.Task[Any], shop: Shop) -> None:
    """Cancels a call that runs; returns when its handler has ended."""
    before = len(shop.cancelled)
    await eventually(lambda: shop.gauge.now, what="it runs")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: len(shop.cancelled) > before, what="its handler is cancelled")
