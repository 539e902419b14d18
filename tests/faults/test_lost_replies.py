"""R6: connections end before a script arrives, or instead of its reply, again and again."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.conftest import Clock
from tests.faults.customers import HIDDEN_S, Books, Customer, everything, outcome_of
from tests.faults.proxy import Action, FaultProxy, Rule
from tests.faults.scene import SEED, judged, report, sized, until

CUTS = sized(300, 10_000)


@pytest.mark.timeout(240)
async def test_whatever_of_a_call_is_lost_it_has_one_effect_or_none(
    broker: Broker, clock: Clock, settings: Settings, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    chance, started, books, outcomes, cuts = random.Random(SEED), time.monotonic(), Books(), Counter[str](), 0
    queue = broker.queue("orders")
    await queue.create()
    async with (
        FaultProxy(Path(redis_server.url.removeprefix("unix://")), tmp_path / "proxy.sock") as proxy,
        Broker(proxy.url, settings=settings) as shaky,
    ):
        customer = Customer(shaky.queue("orders"), books, chance, "a")
        while cuts < CUTS:
            action: Action = "cut_after" if chance.random() < 0.8 else "cut_before"
            rule = proxy.add(Rule(action, command="EVALSHA", number=chance.randint(1, 3)))
            outcomes[await outcome_of(customer.next_call())] += 1
            if rule.fired.is_set():
                cuts += 1
            else:
                proxy.remove(rule)

        async def only_held() -> bool:
            return (await queue.counts()).in_flight <= len(books.held) + len(books.perhaps_deleted - books.deleted)

        await until(only_held, timeout_s=20, what="what lost receives leased is back")
    await clock.advance(HIDDEN_S)
    left = await everything(queue)
    report(
        "R6",
        seed=SEED,
        cuts=cuts,
        accepted=len(books.accepted),
        unknown=len(books.unknown),
        of_these_stored=len(books.unknown & (set(left) | books.deleted)),
        calls_with_unknown_outcome=outcomes["unknown"],
        seconds=time.monotonic() - started,
    )
    faults = books.faults(left)
    judged(**faults)
    assert not any(faults.values()), faults
    assert (await queue.counts()).total == len(left)
