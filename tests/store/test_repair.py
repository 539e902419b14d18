"""The repair step: what it finds, what it leaves alone."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from tests.store.audit import check_state
from tests.store.desk import Desk, bodies, members
from tests.store.situation import Situation


@pytest.fixture
async def desk(broker: Broker) -> Desk:
    opened = Desk(broker.core)
    await opened.configure()
    return opened


async def test_sound_queue_is_left_as_it_is(situation: Situation) -> None:
    before = await situation.contents()
    assert await situation.core.repairs.repair(situation.queue) == 0
    assert await situation.contents() == before


async def test_stranded_messages_get_a_place_again_with_their_counters(desk: Desk) -> None:
    await desk.send("from stream", "from hash")
    claim = await desk.claim("w1", room=1)
    second = await desk.claim("w2", room=1)
    await desk.defer(second, "w2", adds_try=True)
    again = await desk.claim("w3")
    await desk.core.runner.fetch("ZREM", desk.keys.leases, *members(claim, "w1"), *members(again, "w3"))
    assert (await desk.claim("w4")).messages == []
    assert await desk.core.repairs.repair(desk.resource) == 2
    await check_state(desk.core, desk.resource)
    restored = await desk.claim("w5")
    facts = {body: item.facts for body, item in zip(bodies(restored), restored.messages, strict=True)}
    assert (facts["from stream"].receives, facts["from stream"].crashes) == (2, 0)
    assert (facts["from hash"].receives, facts["from hash"].tries) == (3, 1)


async def test_many_stranded_messages_are_restored_page_by_page(desk: Desk) -> None:
    for _ in range(3):
        await desk.send(*["x"] * 1_000)
    await desk.claim(room=2_500)
    await desk.core.runner.fetch("DEL", desk.keys.leases)
    assert await desk.core.repairs.repair(desk.resource) == 2_500
    assert (await desk.counts()).total == 3_000
    assert len((await desk.claim("w2", room=3_000)).messages) == 3_000


async def test_left_overs_are_cleared(desk: Desk) -> None:
    await desk.send("a", "b")
    await desk.claim()
    run = desk.core.runner.fetch
    await run("ZADD", desk.keys.delayed, 1, "1-1")
    await run("HSET", desk.keys.facts, "1-2", "1,0,0,0,0,")
    await run("HSET", desk.keys.notes, "1-3", "why")
    assert await desk.core.repairs.repair(desk.resource) == 0
    state = await check_state(desk.core, desk.resource)
    assert len(state.places) == 2


async def test_two_repairs_at_once_restore_once(desk: Desk) -> None:
    await desk.send(*["x"] * 100)
    await desk.claim()
    await desk.core.runner.fetch("DEL", desk.keys.leases)
    repairs = desk.core.repairs
    assert sum(await asyncio.gather(*(repairs.repair(desk.resource) for _ in range(5)))) == 100
    assert (await desk.counts()).total == 100


async def test_repair_while_others_work_disturbs_nothing(desk: Desk) -> None:
    await desk.send(*[str(number) for number in range(500)])
    seen: list[str] = []

    async def work(name: str) -> None:
        while (claim := await desk.claim(name, room=7)).messages:
            seen.extend(bodies(claim))
            assert (await desk.finish(claim, name)).refused == {}

    async def repair() -> int:
        return sum([await desk.core.repairs.repair(desk.resource) for _ in range(50)])

    *_, restored = await asyncio.gather(work("w1"), work("w2"), repair())
    assert restored == 0
    assert sorted(map(int, seen)) == list(range(500))
