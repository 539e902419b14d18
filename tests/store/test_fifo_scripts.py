"""Every script of FIFO queues, run twice and broken off after each of its writes: nothing is lost or out of order."""

from __future__ import annotations

from collections import Counter

import pytest

from broker import Broker
from broker.store.values import ClaimMode
from tests.store.audit import check_state, read_groups
from tests.store.breaking import broken_off_after_each_write
from tests.store.fifo_situation import FIFO_OPERATIONS, TOO_OLD, FifoSituation, numbered
from tests.store.situation import LONG_MS, label_of, same

_ENDING = [name for name, operation in FIFO_OPERATIONS.items() if "*" in operation.ends]
_OTHERS = [name for name in FIFO_OPERATIONS if name not in _ENDING]


@pytest.fixture
async def situation(broker: Broker) -> FifoSituation:
    built = FifoSituation(broker)
    await built.build()
    return built


async def test_the_situation_is_sound(situation: FifoSituation) -> None:
    before = await situation.core.messages.counts(situation.queue)
    assert await situation.core.repairs.repair(situation.queue) == 0
    once = await situation.contents()
    assert await situation.core.repairs.repair(situation.queue) == 0
    assert await situation.contents() == once
    assert await situation.core.messages.counts(situation.queue) == before
    await check_state(situation.core, situation.queue)


@pytest.mark.parametrize("name", FIFO_OPERATIONS)
async def test_second_run_changes_nothing(situation: FifoSituation, name: str) -> None:
    operation = FIFO_OPERATIONS[name]
    before = await situation.contents()
    if operation.command == "fifo_restore":
        await situation.strand()
    await operation.run(situation)
    once = await situation.contents()
    assert not same(before, once) or name == "restore", "the operation does nothing at all"
    await operation.run(situation)
    twice = await situation.contents()
    assert same(once, twice), {key: (once.get(key), twice.get(key)) for key in once.keys() | twice.keys()}
    if operation.command != "delete":
        await check_state(situation.core, situation.queue)


@pytest.mark.parametrize("drain", ["receive", "work"])
@pytest.mark.parametrize("name", _OTHERS)
async def test_nothing_is_lost_and_groups_keep_their_order(situation: FifoSituation, name: str, drain: str) -> None:
    operation = FIFO_OPERATIONS[name]
    broken_off = 0
    async for after in broken_off_after_each_write(situation, operation):
        broken_off = after
        await situation.core.repairs.repair(situation.queue)
        await check_state(situation.core, situation.queue)
        if operation.adds:
            await operation.run(situation)  # the caller, who got no answer, asks again
            await check_state(situation.core, situation.queue)
        seen = await _drain(situation, drain)
        must = (situation.labels | operation.adds) - operation.ends - TOO_OLD
        assert must <= seen.keys(), f"after write {after}: lost {must - seen.keys()}"
        unknown = seen.keys() - situation.labels - operation.adds - {"again 1"}
        assert not unknown, f"after write {after}: {unknown}"
    assert broken_off > 0


@pytest.mark.parametrize("name", [name for name in _OTHERS if name != "restore"])
async def test_what_is_left_half_done_is_found_without_a_repair_but_never_out_of_order(
    situation: FifoSituation, name: str
) -> None:
    operation = FIFO_OPERATIONS[name]
    async for _ in broken_off_after_each_write(situation, operation):
        await operation.run(situation)
        await _drain(situation, "receive", whole=False)


@pytest.mark.parametrize("name", _ENDING)
async def test_what_clears_all_is_one_step(situation: FifoSituation, name: str) -> None:
    async for _ in broken_off_after_each_write(situation, FIFO_OPERATIONS[name]):
        state = await read_groups(situation.core, situation.queue)
        assert state.places == {}
        assert not state.left_over


async def _drain(situation: FifoSituation, how: str, *, whole: bool = True) -> Counter[str]:
    """How often each message is handed out, or stands in the outbox, once everything is due; each is finished."""
    core, queue = situation.core, situation.queue
    await situation.advance(3 * LONG_MS / 1000)
    seen: Counter[str] = Counter()
    last: dict[str, int] = {}
    modes: tuple[ClaimMode, ...] = ("receive",) if how == "receive" else ("work", "alone")
    idle = 0
    while idle < len(modes):
        mode = modes[0]
        modes = (*modes[1:], mode)
        token = {"receive": "rdrain", "work": "wdrain", "alone": "sdrain"}[mode]
        claim = await core.messages.claim(queue, token=token, lease_ms=LONG_MS, room=20, mode=mode, of_one_group=2)
        await read_groups(core, queue)  # fails if a message has two leases
        idle = 0 if claim.messages else idle + 1
        labels = [label_of(item.blob) for item in claim.messages]
        for label in labels:
            group = situation.groups.get(label, "")
            if not group:  # sent by the operation, perhaps twice
                continue
            assert last.get(group, 0) <= numbered(label), f"{label} after {last[group]}"
            last[group] = numbered(label)
        seen.update(labels)
        members = [f"{item.entry}|{token}" for item in claim.messages]
        settlement = await core.messages.finish(queue, members, counter="done")
        assert settlement.settled == len(members)
    if not whole:
        return seen
    assert await core.repairs.repair(queue) == 0
    state = await check_state(core, queue)
    assert state.places == {}, state.places
    seen.update({label_of(record) for record in state.outgoing.values()})
    return seen
