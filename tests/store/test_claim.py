"""What a claim hands out, in which order, how much of it, and what it says of each message."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from tests.conftest import Clock
from tests.store.audit import check_state
from tests.store.desk import LEASE_MS, Desk, bodies, members


@pytest.fixture
async def desk(broker: Broker) -> Desk:
    opened = Desk(broker.core)
    await opened.configure({"max_crashes": "2"})
    return opened


# -- how much ---------------------------------------------------------------------------------------------------------


async def test_claim_takes_no_more_than_its_bytes_and_one_message(desk: Desk) -> None:
    for number in range(50):
        await desk.send(f"{number:03}" + "x" * 500_000)
    seen: list[str] = []
    while (claim := await desk.claim(max_bytes=2_000_000)).messages:
        assert sum(len(item.blob) for item in claim.messages) <= 2_000_000 + 500_004
        seen += [body[:3] for body in bodies(claim)]
        await desk.finish(claim)
    assert seen == [f"{number:03}" for number in range(50)]


@pytest.mark.parametrize("place", ["waiting", "suspects", "ended leases"])
async def test_bytes_also_bound_what_is_not_fresh(desk: Desk, clock: Clock, place: str) -> None:
    await desk.send(*[f"{number}" + "x" * 500_000 for number in range(8)])
    token = "r1" if place == "ended leases" else "w1"
    claim = await desk.claim(token, max_bytes=100_000_000)
    if place == "waiting":
        await desk.defer(claim)
    else:
        await clock.advance(LEASE_MS / 1000)
    if place == "suspects":
        assert (await desk.claim()).messages == []
    again = await desk.claim(max_bytes=1_000_000, mode="alone" if place == "suspects" else "work")
    assert len(again.messages) == 2
    await check_state(desk.core, desk.resource)


async def test_one_message_over_the_budget_is_still_handed_out(desk: Desk) -> None:
    await desk.send("x" * 900_000, "y")
    assert bodies(await desk.claim(max_bytes=1_000)) == ["x" * 900_000]
    assert bodies(await desk.claim(max_bytes=1_000)) == ["y"]


@pytest.mark.parametrize("room", [0, -1])
async def test_no_room_hands_nothing_out(desk: Desk, room: int) -> None:
    await desk.send("a")
    claim = await desk.claim(room=room)
    assert (claim.status, claim.messages) == ("full", [])
    assert (await desk.counts()).visible == 1


async def test_room_over_several_thousand_is_one_claim(desk: Desk) -> None:
    for start in range(0, 4_000, 1_000):
        await desk.send(*[str(start + number) for number in range(1_000)])
    claim = await desk.claim(room=3_500)
    assert bodies(claim) == [str(number) for number in range(3_500)]
    state = await check_state(desk.core, desk.resource)
    assert len(state.leases) == 3_500


# -- in which order ---------------------------------------------------------------------------------------------------


async def test_due_messages_come_before_fresh_ones(desk: Desk, clock: Clock) -> None:
    await desk.send("retried", "left")
    await desk.defer(await desk.claim(room=1), delay_ms=5_000)
    await desk.claim("r1", room=1, lease_ms=5_000)
    await desk.send("delayed", delay_ms=5_000)
    await desk.send("fresh")
    assert bodies(await desk.claim("w2", room=1)) == ["fresh"]
    await desk.send("fresher")
    await clock.advance(5)
    assert bodies(await desk.claim("w3")) == ["left", "retried", "delayed", "fresher"]


async def test_fresh_messages_behind_many_delayed_ones_are_found_at_once(desk: Desk) -> None:
    await desk.send(*["later"] * 1_000, delay_ms=60_000)
    await desk.send("now")
    assert bodies(await desk.claim(room=1)) == ["now"]


async def test_ids_rise_and_are_contiguous_also_when_the_clock_steps_back(desk: Desk, clock: Clock) -> None:
    positions: list[tuple[int, int]] = []
    for seconds in (0, -100, 50, -3_600, 0, 7_200):
        await clock.advance(seconds)
        stored = await desk.send("a", "b", "c")
        positions += [(int(stored.milliseconds), stored.sequence + index) for index in range(3)]
    assert positions == sorted(set(positions))
    claim = await desk.claim()
    assert [item.entry for item in claim.messages] == [f"{ms}-{sequence}" for ms, sequence in positions]


async def test_aged_claim_takes_what_was_sent_early_enough_wherever_it_waits(desk: Desk, clock: Clock) -> None:
    await desk.send("old", "old, retried", "old, set apart")
    first = await desk.claim("w1", room=1)
    await desk.defer(await desk.claim("w2", room=1), "w2", delay_ms=3_000)
    await desk.claim("w3", room=1, lease_ms=1_000)
    await clock.advance(2)
    assert (await desk.claim("w4")).suspects == 1
    await desk.defer(first)
    limit_ms = await desk.core.messages.now_ms() + 1_000
    await clock.advance(2)
    await desk.send("young")
    aged = await desk.claim("w5", mode="aged", sent_before_ms=limit_ms)
    assert sorted(bodies(aged)) == ["old", "old, retried", "old, set apart"]
    assert bodies(await desk.claim("w6")) == ["young"]
    await check_state(desk.core, desk.resource)


# -- counters ---------------------------------------------------------------------------------------------------------


async def test_workers_lease_that_ends_is_a_crash_and_its_event_runs_alone(desk: Desk, clock: Clock) -> None:
    await desk.send("poison", "neighbour")
    poison = await desk.claim("w1", room=1)
    await clock.advance(LEASE_MS / 1000)
    assert bodies(await desk.claim("w2")) == ["neighbour"]
    assert (await desk.claim("w3")).suspects == 1
    alone = await desk.claim("s1", mode="alone", room=1)
    assert bodies(alone) == ["poison"]
    facts = alone.messages[0].facts
    assert (facts.receives, facts.tries, facts.crashes, facts.culprit) == (2, 0, 1, "w1")
    assert (await desk.finish(poison, "w1")).refused == {0: "fenced"}
    # A retry after an error does not end the isolation.
    await desk.defer(alone, "s1", adds_try=True)
    assert (await desk.claim("w4")).messages == []
    again = await desk.claim("s2", mode="alone", room=1)
    assert (again.messages[0].facts.receives, again.messages[0].facts.tries, again.messages[0].facts.crashes) == (
        3,
        1,
        1,
    )
    assert (await desk.finish(again, "s2")).settled == 1
    await check_state(desk.core, desk.resource)


async def test_event_with_too_many_crashes_is_handed_to_any_worker_for_quarantine(desk: Desk, clock: Clock) -> None:
    await desk.send("poison")
    for token in ("w1", "s2", "s3"):
        claim = await desk.claim(token, mode="work" if token == "w1" else "alone")
        assert bodies(claim) == ["poison"]
        await clock.advance(LEASE_MS / 1000)
    last = await desk.claim("w4")
    assert last.messages[0].facts.crashes == 3  # one more than max_crashes
    assert last.messages[0].facts.culprit == "s3"
    assert last.messages[0].facts.receives == 4


async def test_event_with_a_crash_stays_alone_after_a_receivers_lease_has_ended(desk: Desk, clock: Clock) -> None:
    await desk.send("poison")
    await desk.claim("w1")
    await clock.advance(LEASE_MS / 1000)
    assert (await desk.claim("r1", mode="receive")).messages[0].facts.crashes == 1
    await clock.advance(LEASE_MS / 1000)
    again = await desk.claim("w2")
    assert (again.messages, again.suspects) == ([], 1)
    facts = (await desk.claim("s1", mode="alone")).messages[0].facts
    assert (facts.receives, facts.crashes) == (3, 1)


async def test_used_up_messages_in_front_do_not_hide_one_that_is_not(desk: Desk, clock: Clock) -> None:
    await desk.configure({"max_receives": "1"})
    await desk.send("used up", "used up too")
    await desk.claim("r1", mode="receive")
    await clock.advance(LEASE_MS / 1000)
    await desk.configure({"max_receives": "2"})
    await desk.send("good")
    await desk.claim("r2", mode="receive", room=2)
    await desk.claim("r3", mode="receive", room=1, lease_ms=LEASE_MS + 1)
    await clock.advance(LEASE_MS / 1000 + 1)
    assert bodies(await desk.claim("r4", mode="receive", room=1)) == ["good"]


async def test_receivers_lease_that_ends_is_no_crash(desk: Desk, clock: Clock) -> None:
    await desk.send("a")
    for receives in (1, 2, 3):
        claim = await desk.claim(f"r{receives}", mode="receive")
        facts = claim.messages[0].facts
        assert (facts.receives, facts.tries, facts.crashes) == (receives, 0, 0)
        await clock.advance(LEASE_MS / 1000)
    assert (await desk.claim("w1")).messages[0].facts.receives == 4


async def test_release_is_neither_try_nor_crash(desk: Desk) -> None:
    await desk.send("a")
    await desk.defer(await desk.claim("w1"), "w1")
    await desk.defer(await desk.claim("w2"), "w2", adds_try=True)
    facts = (await desk.claim("w3")).messages[0].facts
    assert (facts.receives, facts.tries, facts.crashes) == (3, 1, 0)


async def test_fence_rises_with_every_later_lease_of_a_message(desk: Desk, clock: Clock) -> None:
    await desk.send("a")
    fences = []
    for number in range(5):
        claim = await desk.claim(f"r{number}", mode="receive")
        fences.append(claim.fence)
        await clock.advance(LEASE_MS / 1000)
    assert fences == sorted(set(fences))


# -- pauses and limits ------------------------------------------------------------------------------------------------


async def test_paused_or_held_function_keeps_everything_queued(desk: Desk) -> None:
    await desk.send("a")
    await desk.configure({"paused": "1"})
    assert (await desk.claim()).status == "paused"
    await desk.configure()
    await desk.core.directory.hold(desk.resource, held=True)
    assert (await desk.claim()).status == "paused"
    await desk.core.directory.hold(desk.resource, held=False)
    assert bodies(await desk.claim()) == ["a"]


async def test_limit_bounds_what_is_claimed_and_the_rest_waits(desk: Desk, clock: Clock) -> None:
    await desk.configure({"limit": "3"})
    await desk.send(*"abcde")
    first = await desk.claim("w1", room=2)
    second = await desk.claim("w2")
    assert (len(first.messages), len(second.messages)) == (2, 1)
    third = await desk.claim("w3")
    assert (third.status, third.messages, third.limit) == ("full", [], 3)
    assert third.next_due_ms is not None
    assert (await desk.counts()).running == 3
    await desk.finish(first, "w1")
    assert len((await desk.claim("w4")).messages) == 2


async def test_limit_nought_needs_no_permit(desk: Desk) -> None:
    await desk.configure({"limit": "0"})
    await desk.send("a", "b")
    claim = await desk.claim()
    assert (claim.limit, bodies(claim)) == (0, ["a", "b"])
    assert (await desk.counts()).running == 0


async def test_unknown_resource_says_so(broker: Broker) -> None:
    assert (await Desk(broker.core, name="never-made").claim()).status == "unknown"


# -- retention and dead letters ---------------------------------------------------------------------------------------


async def test_messages_past_their_retention_are_dropped_and_counted(desk: Desk, clock: Clock) -> None:
    await desk.configure({"retention_ms": "60000"})
    await desk.send("fresh", "retried")
    await desk.send("delayed", delay_ms=50_000)
    await desk.defer(await desk.claim(room=1), delay_ms=50_000)
    await clock.advance(60)
    await desk.send("young")
    assert bodies(await desk.claim()) == ["young"]
    described = await desk.core.directory.describe(desk.resource)
    assert described is not None
    assert described.counters["expired"] == 3
    await check_state(desk.core, desk.resource)


async def test_message_with_its_receives_used_up_goes_to_the_outbox(desk: Desk, clock: Clock) -> None:
    await desk.configure({"max_receives": "2"})
    await desk.send("a", "b")
    await desk.claim("r1", mode="receive")
    await clock.advance(LEASE_MS / 1000)
    claim = await desk.claim("r2", mode="receive")
    assert len(claim.messages) == 2
    await clock.advance(LEASE_MS / 1000)
    last = await desk.claim("r3", mode="receive")
    assert (last.messages, last.outbox) == ([], 2)
    assert (await desk.counts()).total == 0
    assert (await desk.core.messages.finish(desk.resource, members(claim, "r2"), counter="done")).refused == {
        0: "unknown",
        1: "unknown",
    }


# -- wake-ups ---------------------------------------------------------------------------------------------------------


async def test_send_wakes_a_claimer_that_found_nothing_once(desk: Desk) -> None:
    wakes = await _listen(desk)
    await desk.send("before")
    await desk.finish(await desk.claim())
    assert wakes.empty()
    assert (await desk.claim(wake=True)).messages == []
    await desk.send("a")
    await asyncio.wait_for(wakes.get(), 5)
    await desk.send("b")
    await _settle(desk)
    assert wakes.empty()


@pytest.mark.parametrize("how", ["finish", "defer", "release_claim", "release_permits"])
async def test_free_permit_wakes_whoever_went_without(desk: Desk, how: str) -> None:
    await desk.configure({"limit": "1"})
    wakes = await _listen(desk)
    await desk.send("a", "b")
    held = await desk.claim("w1")
    assert (await desk.claim("w2", wake=True)).status == "full"
    assert wakes.empty()
    match how:
        case "finish":
            await desk.finish(held, "w1")
        case "defer":
            await desk.defer(held, "w1", delay_ms=1_000)
        case "release_claim":
            await desk.core.messages.release_claim(desk.resource, "w1")
        case _:
            await desk.core.permits.release_of_function(desk.resource, list(members(held, "w1")))
    await asyncio.wait_for(wakes.get(), 5)
    assert len((await desk.claim("w2")).messages) == 1


async def test_claim_that_finds_too_little_says_when_something_is_due(desk: Desk) -> None:
    await desk.send("later", delay_ms=5_000)
    claim = await desk.claim(wake=True)
    assert claim.next_due_ms is not None
    assert 4_000 < claim.next_due_ms - claim.now_ms <= 5_000


async def _listen(desk: Desk) -> asyncio.Queue[bytes]:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await desk.core.channels.listen({desk.keys.wake: lambda data: heard.put_nowait(data) if data is not None else None})
    while not heard.empty():
        heard.get_nowait()
    return heard


async def _settle(desk: Desk) -> None:
    """Waits until everything that was published before has been heard."""
    heard = asyncio.Event()
    await desk.core.channels.listen({f"{desk.keys.wake}:mark": lambda data: heard.set() if data == b"mark" else None})
    await desk.core.runner.fetch("PUBLISH", f"{desk.keys.wake}:mark", "mark")
    await asyncio.wait_for(heard.wait(), 5)


# -- memory -----------------------------------------------------------------------------------------------------------


async def test_memory_is_given_back_when_all_but_a_few_are_finished_and_those_wait(desk: Desk) -> None:
    await desk.send("warm up")
    await desk.finish(await desk.claim())
    empty = await desk.core.runner.fetch("MEMORY", "USAGE", desk.keys.ready, "SAMPLES", 0)
    for _ in range(100):
        await desk.send(*["x" * 100] * 1_000)
    full = await desk.core.runner.fetch("MEMORY", "USAGE", desk.keys.ready, "SAMPLES", 0)
    for number in range(100):
        claim = await desk.claim(f"w{number}", room=1_000)
        names = members(claim, f"w{number}")
        await desk.core.messages.finish(desk.resource, names[30:], counter="done")
        claim.messages[30:] = []
        await desk.defer(claim, f"w{number}", delay_ms=60_000, adds_try=True)
    after = await desk.core.runner.fetch("MEMORY", "USAGE", desk.keys.ready, "SAMPLES", 0)
    assert (await desk.counts()).retrying == 3_000
    assert full > 10_000_000
    assert after < empty + 20_000


# -- damaged data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["", "1,0", "one,0,0,0,0,", b"\xff\xfe,,"])
async def test_damaged_counters_are_forgotten_and_stop_nobody(desk: Desk, clock: Clock, damaged: str | bytes) -> None:
    stored = await desk.send("damaged", delay_ms=1_000)
    await desk.core.runner.fetch("HSET", desk.keys.facts, stored.entry(0), damaged)
    await desk.send("sound")
    await clock.advance(1)
    claim = await desk.claim()
    assert sorted(bodies(claim)) == ["damaged", "sound"]
    assert {item.facts.tries for item in claim.messages} == {0}
