"""What leaves the stream when messages end: those alone, wherever they stand and in whatever order they end."""

from __future__ import annotations

import random

import pytest

from broker import Broker
from tests.conftest import Clock
from tests.store.audit import check_state
from tests.store.desk import Desk, members


@pytest.fixture
async def desk(broker: Broker) -> Desk:
    opened = Desk(broker.core)
    await opened.configure()
    return opened


async def in_stream(desk: Desk) -> list[str]:
    return [entry.decode() for entry, _ in await desk.core.runner.fetch("XRANGE", desk.keys.ready, "-", "+")]


async def finish(desk: Desk, names: list[str]) -> None:
    settled = await desk.core.messages.finish(desk.resource, names, counter="done")
    assert settled.settled == len(names)


@pytest.mark.parametrize("sends", [[300], [7] * 40, [1] * 80], ids=["one send", "sends of 7", "single sends"])
@pytest.mark.parametrize("body", ["x", "x" * 1_500], ids=["small", "large"])
async def test_what_ends_in_the_order_in_which_it_was_claimed_leaves_nothing(
    desk: Desk, clock: Clock, sends: list[int], body: str
) -> None:
    for count in sends:
        await desk.send(*[f"{number}{body}" for number in range(count)])
        await clock.advance(0.002)
    claimed = []
    while (claim := await desk.claim(room=50)).messages:
        claimed.append(claim)
    for claim in claimed:
        before = await in_stream(desk)
        await desk.finish(claim)
        assert await in_stream(desk) == before[len(claim.messages) :]
    await check_state(desk.core, desk.resource)


async def test_what_stands_between_two_that_end_together_stays(desk: Desk, clock: Clock) -> None:
    for _ in range(60):
        await desk.send("x")
        await clock.advance(0.002)
    claims = [await desk.claim(f"w{number}", room=20) for number in range(3)]
    sent = [item.entry for claim in claims for item in claim.messages]
    await finish(desk, [*members(claims[0], "w0"), *members(claims[2], "w2")])
    assert await in_stream(desk) == sent[20:40]
    await finish(desk, list(members(claims[1], "w1")))
    assert await in_stream(desk) == []


async def test_what_is_claimed_later_and_not_at_all_stays(desk: Desk) -> None:
    await desk.send(*map(str, range(100)))
    first, second = await desk.claim("w1", room=30), await desk.claim("w2", room=30)
    await desk.finish(second, "w2")
    await desk.finish(first, "w1")
    rest = await in_stream(desk)
    assert len(rest) == 40
    assert [item.entry for item in (await desk.claim(room=100)).messages] == rest


@pytest.mark.parametrize("seed", range(12))
async def test_only_what_has_ended_leaves_in_whatever_order(desk: Desk, clock: Clock, seed: int) -> None:
    dice = random.Random(seed)
    waiting: set[str] = set()
    leased: list[str] = []
    for turn in range(40):
        for _ in range(dice.choice((0, 1, 3))):
            await desk.send(*map(str, range(dice.choice((1, 2, 25, 60)))))
            await clock.advance(dice.choice((0, 0.002)))
        claim = await desk.claim(f"w{turn}", room=dice.choice((1, 20, 70)))
        names = list(members(claim, f"w{turn}"))
        if dice.random() < 0.2:
            await desk.defer(claim, f"w{turn}", delay_ms=dice.choice((0, 10)))
            waiting |= {item.entry for item in claim.messages}
        else:
            leased += names
            waiting -= {item.entry for item in claim.messages}
        if dice.random() < 0.3:
            dice.shuffle(leased)
        ending, leased = leased[: (count := dice.randrange(120))], leased[count:]
        before = await in_stream(desk)
        if ending:
            await finish(desk, ending)
        gone = {name.partition("|")[0] for name in ending}
        assert await in_stream(desk) == [entry for entry in before if entry not in gone]
    await check_state(desk.core, desk.resource)
