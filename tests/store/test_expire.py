"""What is past its retention is removed wherever it waits, with all that belongs to it; what is leased stays."""

from __future__ import annotations

import pytest

from broker import Broker
from broker.ids import random_token
from broker.records import Facts, pack
from broker.store.values import NewMessage
from tests.conftest import Clock
from tests.store.audit import check_state, names_under
from tests.store.desk import LEASE_MS, Desk, bodies

RETENTION_S = 100


@pytest.fixture
async def desk(broker: Broker) -> Desk:
    opened = Desk(broker.core, "queue", "orders")
    await opened.configure({"retention_ms": str(RETENTION_S * 1_000)})
    return opened


async def expired(desk: Desk, *, calls: int = 10) -> int:
    return await desk.core.messages.expire(desk.resource, calls=calls)


async def counter(desk: Desk) -> int:
    described = await desk.core.directory.describe(desk.resource)
    assert described is not None
    return described.counters["expired"]


async def send_moved(desk: Desk, body: str, *, sent_ms: int, delay_ms: int = 0) -> None:
    """A message that was first sent somewhere else, as a dead letter."""
    facts = Facts(receives=2, sent_ms=sent_ms).stored()
    message = NewMessage(pack(body.encode()), len(body), delay_ms, facts=facts)
    await desk.core.messages.send(desk.resource, [message], token=random_token(), bucket="1")


async def test_every_place_is_cleared_of_what_is_old_and_keeps_what_is_young(desk: Desk, clock: Clock) -> None:
    for age in ("old", "young"):
        await desk.send(f"{age}, retried")
        await desk.defer(await desk.claim(), delay_ms=900_000, adds_try=True)
        await desk.send(f"{age}, set apart")
        await desk.claim("w2", lease_ms=1_000)
        await clock.advance(1)
        await desk.claim("w3")
        await desk.send(f"{age}, delayed", delay_ms=900_000)
        await clock.advance(RETENTION_S / 2)
    await desk.send("fresh")
    assert await expired(desk) == 3
    state = await check_state(desk.core, desk.resource)
    assert sorted(state.places.values()) == ["delayed", "fresh", "suspect", "waiting"]
    assert all(b"old" not in body for body in state.bodies.values())
    await clock.advance(RETENTION_S)
    assert await expired(desk) == 4
    assert await expired(desk) == 0
    assert await counter(desk) == 7
    left = {name.decode() for name in await names_under(desk.core, desk.keys.base.removesuffix(":"))}
    assert left <= {desk.keys.meta, desk.keys.ready, desk.keys.tokens("1")}


async def test_nothing_is_removed_before_its_time(desk: Desk, clock: Clock) -> None:
    await desk.send("a")
    await desk.send("b", delay_ms=50_000)
    await clock.advance(RETENTION_S - 1)
    assert await expired(desk) == 0
    await clock.advance(1)
    assert await expired(desk) == 2


@pytest.mark.parametrize("lease_s", [10, 1_000])
async def test_what_is_leased_can_still_be_finished(desk: Desk, clock: Clock, lease_s: int) -> None:
    await desk.send("from stream", "from hash", "fresh")
    first = await desk.claim("w0", room=2)
    await desk.defer(first, "w0")
    from_hash = await desk.claim("w1", room=1, lease_ms=lease_s * 1_000)
    await desk.send("behind")
    await desk.defer(await desk.claim("w2", room=1), "w2", delay_ms=900_000)
    from_stream = await desk.claim("w3", room=1, lease_ms=lease_s * 1_000)
    assert bodies(from_stream) == ["fresh"]
    await clock.advance(RETENTION_S)
    assert await expired(desk) == 2
    state = await check_state(desk.core, desk.resource)
    assert set(state.places.values()) == {"leased"}
    for claim, token in ((from_hash, "w1"), (from_stream, "w3")):
        assert (await desk.finish(claim, token)).settled == 1
    assert (await check_state(desk.core, desk.resource)).places == {}


@pytest.mark.parametrize("delay_ms", [0, 500_000])
async def test_a_moved_message_goes_by_its_first_sending_wherever_it_stands(
    desk: Desk, clock: Clock, delay_ms: int
) -> None:
    now_ms = await desk.core.messages.now_ms()
    await desk.send("in front", delay_ms=delay_ms)
    await send_moved(desk, "old", sent_ms=now_ms - (RETENTION_S - 10) * 1_000, delay_ms=delay_ms)
    await desk.send("behind", delay_ms=delay_ms)
    assert await expired(desk) == 0
    await clock.advance(10)
    assert await expired(desk) == 1
    await clock.advance(delay_ms / 1_000)
    await desk.configure()
    assert bodies(await desk.claim()) == ["in front", "behind"]
    await check_state(desk.core, desk.resource)


async def test_without_retention_or_resource_nothing_happens(broker: Broker, clock: Clock) -> None:
    function = Desk(broker.core)
    assert await expired(function) == 0
    assert await names_under(broker.core, function.keys.base.removesuffix(":")) == []
    await function.configure()
    await function.send("event")
    await clock.advance(365 * 86_400)
    assert await expired(function) == 0
    assert (await function.counts()).visible == 1


@pytest.mark.parametrize("delay_ms", [0, 30_000])
async def test_a_long_queue_is_cleared_in_bounded_steps(desk: Desk, clock: Clock, delay_ms: int) -> None:
    for _ in range(3):
        await desk.send(*["x"] * 600, delay_ms=delay_ms)
    await clock.advance(RETENTION_S)
    await desk.send("young")
    assert await expired(desk, calls=1) == 500
    assert await expired(desk, calls=2) == 1_000
    assert await expired(desk) == 300
    assert bodies(await desk.claim()) == ["young"]
    assert await counter(desk) == 1_800


async def test_large_messages_are_cleared_in_steps_bounded_by_bytes(desk: Desk, clock: Clock) -> None:
    for number in range(12):
        await desk.send(f"{number:02}" + "x" * 500_000)
    await clock.advance(RETENTION_S)
    assert 1 <= await expired(desk, calls=1) <= 6
    await expired(desk)
    assert (await check_state(desk.core, desk.resource)).places == {}
    assert await counter(desk) == 12


async def test_what_hides_behind_many_young_ones_is_found_when_these_are_old(desk: Desk, clock: Clock) -> None:
    await desk.send("late", delay_ms=800_000)
    await clock.advance(RETENTION_S / 2)
    await desk.send(*["early"] * 600, delay_ms=1_000)
    await clock.advance(RETENTION_S / 2)
    assert await expired(desk) == 0
    await clock.advance(RETENTION_S / 2)
    assert await expired(desk) == 601


async def test_an_ended_lease_is_removed_by_the_next_receive(desk: Desk, clock: Clock) -> None:
    await desk.send("a")
    await desk.claim("r1", mode="receive")
    await clock.advance(RETENTION_S + LEASE_MS / 1_000)
    assert await expired(desk) == 0
    assert (await desk.claim("r2", mode="receive")).messages == []
    assert (await desk.counts()).total == 0
    assert await counter(desk) == 1
