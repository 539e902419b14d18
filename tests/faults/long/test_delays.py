"""R15: many delayed messages over a while, with receivers that wait for them."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from broker import Broker
from broker.queues import QueueClient
from broker.settings import Settings
from tests.faults.scene import SEED, judged, report, sized

MESSAGES = sized(5_000, 100_000)
OVER_S = sized(15, 300)
RECEIVERS = 4
_PAGE = 1_000


async def take(queue: QueueClient, early_ms: list[float], late_ms: list[float]) -> None:
    """Receives until all have come, by Redis's clock alone."""
    while len(late_ms) < MESSAGES:
        messages = await queue.receive(_PAGE, wait=1)
        if messages:
            now_ms = await queue.core.messages.now_ms()
            for message in messages:
                late = now_ms - int(message.body)
                late_ms.append(late)
                if late < 0:
                    early_ms.append(late)
            await queue.delete_many(messages)


@pytest.mark.timeout(240)
async def test_no_message_is_early_and_few_are_late(redis_url: str, settings: Settings) -> None:
    chance, started = random.Random(SEED), time.monotonic()
    early_ms: list[float] = []
    late_ms: list[float] = []
    async with Broker(redis_url, settings=settings) as broker:
        queue = broker.queue("later")
        await queue.create()
        receiving = [asyncio.create_task(take(queue, early_ms, late_ms)) for _ in range(RECEIVERS)]
        for start in range(0, MESSAGES, _PAGE):
            now_ms = await queue.core.messages.now_ms()
            delays = [chance.randint(1, OVER_S) for _ in range(min(_PAGE, MESSAGES - start))]
            # The send comes after the look at the clock, so each is due when it says at the earliest.
            await queue.send_batch({"body": str(now_ms + delay * 1000), "delay": delay} for delay in delays)
        await asyncio.gather(*receiving)
        left = (await queue.counts()).total
    late_ms.sort()
    report(
        "R15",
        seed=SEED,
        messages=MESSAGES,
        over_s=OVER_S,
        late_ms_median=late_ms[len(late_ms) // 2],
        late_ms_p99=late_ms[len(late_ms) * 99 // 100],
        late_ms_most=late_ms[-1],
        seconds=time.monotonic() - started,
    )
    judged(**{"lost": MESSAGES - len(late_ms), "early": len(early_ms), "left over": left})
    assert not early_ms
    assert (len(late_ms), left) == (MESSAGES, 0)
