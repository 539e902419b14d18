"""Workers that share limits ask Redis for nothing once all is done: permits that are given back wake nobody in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Broker
from runtime import App, Context
from runtime.permit_wish import PermitWish
from tests.runtime.scene import Serve, eventually


async def scripts_run(broker: Broker) -> int:
    text = (await broker.core.runner.fetch("INFO", "commandstats")).decode()
    lines = [line for line in text.splitlines() if line.startswith("cmdstat_eval")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("limits", ["of the function", "of the mapping", "of both", "of events"])
async def test_workers_with_limits_are_quiet_when_all_is_done(
    broker: Broker, serve: Serve, limits: str, partitions: int
) -> None:
    app, events = App(), limits == "of events"
    concurrency = None if limits == "of the mapping" else 2

    async def handler(event: Any, context: Context) -> None:
        await asyncio.sleep(0.001)

    if events:
        app.function(name="place", concurrency=concurrency, partitions=partitions)(handler)
    else:
        of_mapping = None if limits == "of the function" else 2
        app.queue("orders", name="place", batch_size=1, max_concurrency=of_mapping, concurrency=concurrency)(handler)
    source = broker.function("place") if events else broker.queue("orders")
    await broker.queue("orders").create(partitions=partitions)

    async def all_done() -> bool:
        return (await source.counts()).total == 0

    async with serve(app), serve(app):
        for _ in range(4):
            if events:
                await broker.invoke_many("place", range(200))
            else:
                await broker.queue("orders").send_many([str(number) for number in range(200)])
            await eventually(all_done, what="all has run", timeout_s=30)
            await asyncio.sleep(0.2)
            before = await scripts_run(broker)
            await asyncio.sleep(0.3)
            assert await scripts_run(broker) - before < 100, "some thousands where they wake each other for ever"


def test_what_is_given_back_while_a_source_asks_concerns_it_only_if_it_gets_none() -> None:
    woken: list[None] = []
    wish = PermitWish(lambda: woken.append(None))
    assert not wish.concerns()
    wish.asks()
    assert not wish.concerns()
    assert not woken, "it may get one"
    wish.got_none()
    assert len(woken) == 1
    assert wish.concerns()
    wish.asks()
    wish.got_none()
    assert len(woken) == 1, "nothing was given back this time"
    wish.ends()
    assert not wish.concerns()
