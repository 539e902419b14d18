"""Every script that writes, run twice as after a lost reply, has one effect."""

from __future__ import annotations

import pytest

from tests.store.audit import check_state
from tests.store.fifo_situation import FIFO_OPERATIONS
from tests.store.operations import OPERATIONS, mutating_scripts
from tests.store.situation import Situation, label_of, message, same


def test_every_mutating_script_is_in_the_table() -> None:
    operations = (*OPERATIONS.values(), *FIFO_OPERATIONS.values())
    assert {operation.command for operation in operations} == mutating_scripts()


@pytest.mark.parametrize("name", OPERATIONS)
async def test_second_run_changes_nothing(situation: Situation, name: str) -> None:
    operation = OPERATIONS[name]
    before = await situation.contents()
    if operation.command == "restore":
        await situation.strand()
    await operation.run(situation)
    once = await situation.contents()
    assert not same(before, once), "the operation does nothing at all"
    await operation.run(situation)
    twice = await situation.contents()
    assert same(once, twice), {key: (once.get(key), twice.get(key)) for key in once.keys() | twice.keys()}
    if operation.command != "delete":
        await check_state(situation.core, situation.queue)


async def test_second_claim_hands_nothing_out_twice(situation: Situation) -> None:
    first = await situation.claim("wfirst", mode="work", room=1_000)
    second = await situation.claim("wsecond", mode="work", room=1_000)
    assert len(first.messages) > 0
    assert second.messages == []


async def test_claim_whose_reply_was_lost_is_given_back_once_and_is_no_crash(situation: Situation) -> None:
    lost = await situation.claim("wreply", mode="work", room=1_000)
    assert await situation.core.messages.release_claim(situation.queue, "wreply") == len(lost.messages)
    assert await situation.core.messages.release_claim(situation.queue, "wreply") == 0
    again = await situation.claim("wagain", mode="work", room=1_000)
    receives = {item.entry: item.facts.receives for item in lost.messages}
    used_up = {entry for entry, number in receives.items() if number >= 3}
    assert {item.entry for item in again.messages} == receives.keys() - used_up
    for item in again.messages:
        assert item.facts.receives == receives[item.entry] + 1
        assert item.facts.crashes == 0
    await situation.core.repairs.repair(situation.queue)  # notes of what was dead-lettered
    await check_state(situation.core, situation.queue)


async def test_repeated_call_holds_one_permit_also_at_the_limit(situation: Situation) -> None:
    core = situation.core
    await core.runner.fetch("DEL", situation.keys.permits)
    await core.runner.fetch("HSET", situation.keys.meta, "limit", 1)
    answers = [
        await core.permits.call(situation.queue, call_id=call_id, permit_ms=60_000, process="here", notice=b"n")
        for call_id in ("c", "c", "d")
    ]
    assert answers == ["sent", "sent", "throttled"]
    assert await core.runner.fetch("ZRANGE", situation.keys.permits, 0, -1) == [b"c"]


async def test_repeated_send_answers_the_same_entries(situation: Situation) -> None:
    core = situation.core
    first = await core.messages.send(situation.queue, [message("a"), message("b")], token="t", bucket="1")
    second = await core.messages.send(situation.queue, [message("a"), message("b")], token="t", bucket="1")
    assert first == second
    state = await check_state(core, situation.queue)
    assert sorted(label_of(blob) for blob in state.bodies.values()).count("a") == 1
