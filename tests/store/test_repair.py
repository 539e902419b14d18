"""The repair step: what it finds, what it leaves alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from broker import Broker
from broker.records import Header, pack
from broker.store import repair
from broker.store.messages import MessageStore
from broker.store.repair import RepairStore
from broker.store.scripts import Argument, Command, ScriptRunner
from broker.store.values import NewMessage
from tests.conftest import Clock
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


class Watched(ScriptRunner):
    """The runner of a repair, which lets something happen before each of its commands and measures replies."""

    def __init__(self, runner: ScriptRunner, before: Callable[[], Awaitable[object]]) -> None:
        self.__dict__.update(runner.__dict__)
        self._before = before
        self.longest = self.looks = 0

    async def run(self, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        return await self._noting(super().run(command, keys, arguments))

    async def fetch(self, *command: Argument) -> Any:
        return await self._noting(super().fetch(*command))

    async def _noting(self, reply: Awaitable[Any]) -> Any:
        await self._before()
        answer = await reply
        pages = [each for each in (answer, *(answer if isinstance(answer, list) else ())) if isinstance(each, list)]
        self.longest = max(self.longest, *map(len, pages), 0)
        self.looks += 1
        return answer


async def nothing() -> None:
    """Nobody else is there."""


async def test_no_step_of_a_repair_reads_more_than_a_page(desk: Desk) -> None:
    for delay_ms in (600_000, None):
        for _ in range(3):
            await desk.send(*["x" * 100] * 1_000, delay_ms=delay_ms)
    for number in range(3):
        claim = await desk.claim(f"w{number}", room=1_000)
        assert len(claim.messages) == 1_000
        if number == 2:
            await desk.defer(claim, f"w{number}", delay_ms=600_000)
    watched = Watched(desk.core.runner, nothing)
    assert await RepairStore(watched, desk.core.repairs._keys).repair(desk.resource) == 0
    assert watched.longest <= 4 * repair._NAMES_PAGE, "HSCAN and ZSCAN may answer some more than they are asked for"
    await desk.core.runner.fetch("DEL", desk.keys.leases)
    assert await RepairStore(watched, desk.core.repairs._keys).repair(desk.resource) == 2_000


@pytest.mark.parametrize("seed", range(12))
async def test_messages_that_move_between_the_pages_of_a_repair_are_left_alone(
    desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever others do between its commands: each message stays where it is, and is there once."""
    monkeypatch.setattr(repair, "_NAMES_PAGE", 8)
    chance, number = random.Random(seed), 0
    messages: MessageStore = desk.core.messages
    leased: list[tuple[Any, str]] = []

    async def add(count: int) -> None:
        for group in ("", "a", "b"):
            blob = pack(b"x" * 100, Header(group=group)) if group else pack(b"x" * 100)
            for delay_ms in (0, 300):
                new = [NewMessage(blob, 100, delay_ms, group=group) for _ in range(count)]
                await messages.send(desk.resource, new, token=f"t{seed}{number}{group}{delay_ms}", bucket="1")

    async def move() -> None:
        nonlocal number
        number += 1
        match chance.randrange(6):
            case 0 | 1 | 2:
                token = f"w{number}"
                claim = await desk.claim(token, room=chance.randrange(1, 60), lease_ms=chance.choice([400, 20_000]))
                leased.append((claim, token))
            case 3 if leased:
                await desk.defer(*leased.pop(chance.randrange(len(leased))), delay_ms=chance.choice([0, 200]))
            case 4 if leased:
                claim, token = leased.pop(chance.randrange(len(leased)))
                await messages.release_claim(desk.resource, token)
            case _:
                await clock.advance(0.1)

    await desk.configure({"max_crashes": "1000"})
    await add(60)
    for _ in range(8):
        await move()
    watched = Watched(desk.core.runner, move)
    repairs = RepairStore(watched, desk.core.repairs._keys)
    assert [await repairs.repair(desk.resource) for _ in range(3)] == [0, 0, 0]
    assert watched.looks > 60
    await check_state(desk.core, desk.resource)
    assert (await desk.counts()).total == 360
