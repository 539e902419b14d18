"""Listening: what one listener's end does to others of the same channel."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from broker.store.pipe import Subscription


async def test_a_listener_that_is_cancelled_while_it_subscribes_leaves_the_next_one_its_channel(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, name = broker.core.channels, broker.core.keys.inbox("here")
    await channels.listen({broker.core.keys.inbox("other"): lambda _: None})
    subscribe = Subscription.subscribe
    begun, let_go, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(pubsub: Subscription, *args: bytes) -> None:
        begun.set()
        await let_go.wait()
        await subscribe(pubsub, *args)

    monkeypatch.setattr(Subscription, "subscribe", slow)
    first = asyncio.create_task(channels.listen({name: lambda _: None}))
    await begun.wait()
    second = asyncio.create_task(channels.listen({name: lambda data: heard.set() if data else None}))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    let_go.set()
    await second
    assert await broker.core.runner.fetch("PUBLISH", name, "x") == 1
    async with asyncio.timeout(10):
        await heard.wait()


async def test_a_message_that_comes_in_several_reads_is_whole_and_the_connection_stays(broker: Broker) -> None:
    channels, name = broker.core.channels, broker.core.keys.inbox("here")
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await channels.listen({name: lambda data: heard.put_nowait(data) if data else None})

    for number in range(20):
        message = b"%d" % number * 1_000_000
        assert await broker.core.runner.fetch("PUBLISH", name, message) == 1
        async with asyncio.timeout(10):
            assert await heard.get() == message

    assert channels.lost_at == float("-inf")
