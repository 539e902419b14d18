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


async def test_whoever_leaves_a_channel_hears_what_was_published_before_and_nobody_is_counted_afterwards(
    broker: Broker,
) -> None:
    channels, name = broker.core.channels, broker.core.keys.inbox("here")
    heard: list[bytes] = []

    def listener(data: bytes | None) -> None:
        if data:
            heard.append(data)

    await channels.listen({broker.core.keys.inbox("other"): lambda _: None})
    for number in range(50):
        heard.clear()
        await channels.listen({name: listener})
        leaving = asyncio.create_task(channels.leave(name, listener))
        publishing = [broker.core.parcels.tell("here", b"%d %d" % (number, each)) for each in range(20)]
        counted = sum(await asyncio.gather(*publishing))
        await leaving
        assert len(heard) == counted
        assert not await broker.core.parcels.listening("here")


async def test_leaving_a_channel_over_a_lost_connection_ends(broker: Broker) -> None:
    channels, name = broker.core.channels, broker.core.keys.inbox("here")

    def listener(_: bytes | None) -> None: ...

    await channels.listen({broker.core.keys.inbox("other"): lambda _: None, name: listener})
    leaving = asyncio.create_task(channels.leave(name, listener))
    await asyncio.sleep(0)
    channels.renew()
    await asyncio.wait_for(leaving, 10)
    await channels.listen({broker.core.keys.inbox("third"): lambda _: None})
    assert not await broker.core.parcels.listening("here")
