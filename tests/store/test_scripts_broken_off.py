"""Every script broken off after each of its writes leaves nothing lost once the repair step has run."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.store.audit import check_state, read_state
from tests.store.breaking import broken_off_after_each_write
from tests.store.operations import OPERATIONS, Operation
from tests.store.situation import LONG_MS, TOO_OLD, Situation, label_of


@pytest.mark.parametrize("drain", ["receive", "work"])
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "*" not in operation.ends])
async def test_nothing_is_lost(situation: Situation, name: str, drain: str) -> None:
    operation = OPERATIONS[name]
    broken_off = 0
    async for after in broken_off_after_each_write(situation, operation):
        broken_off = after
        await situation.core.repairs.repair(situation.queue)
        await check_state(situation.core, situation.queue)
        if operation.adds or operation.command in {"append", "configure", "heartbeat", "take_permits", "call"}:
            await operation.run(situation)  # the caller, who got no answer, asks again
            await check_state(situation.core, situation.queue)
        seen = await _drain(situation, drain)
        must = (situation.labels | operation.adds) - operation.ends - TOO_OLD
        assert must <= seen.keys(), f"after write {after}: lost {must - seen.keys()}"
        unknown = seen.keys() - situation.labels - operation.adds
        assert not unknown, f"after write {after}: {unknown}"
        await _check_the_rest(situation, operation)
    assert broken_off > 0


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "*" in operation.ends])
async def test_what_clears_all_is_one_step(situation: Situation, name: str) -> None:
    operation = OPERATIONS[name]
    async for _ in broken_off_after_each_write(situation, operation):
        state = await read_state(situation.core, situation.queue)
        assert state.places == {}
        assert not state.left_over


async def test_permits_never_exceed_the_limit(situation: Situation) -> None:
    core, keys = situation.core, situation.keys
    for name in ("take_permits", "call", "claim to work"):
        async for _ in broken_off_after_each_write(situation, OPERATIONS[name], limit=3):
            await OPERATIONS[name].run(situation)
            assert await core.runner.fetch("ZCARD", keys.mapping_permits("f")) <= 3
            assert await core.runner.fetch("ZCARD", keys.permits) <= 3


# -- looking at what is there -----------------------------------------------------------------------------------------


async def _drain(situation: Situation, how: str) -> Counter[str]:
    """How often each message is handed out, or stands in the outbox, once everything is due; each is finished."""
    core, queue = situation.core, situation.queue
    await core.directory.hold(queue, held=False)
    await situation.advance(3 * LONG_MS / 1000)
    seen: Counter[str] = Counter()
    modes = ("receive",) if how == "receive" else ("work", "alone")
    for mode in modes:
        token = {"receive": "rdrain", "work": "wdrain", "alone": "sdrain"}[mode]
        while True:
            claim = await situation.claim(token, mode=mode, room=20)  # type: ignore[arg-type]  # one of the tuple's
            state = await read_state(core, queue)  # fails if a message has two leases
            if not claim.messages:
                break
            seen.update(label_of(item.blob) for item in claim.messages)
            members = [situation.held[label_of(item.blob)] for item in claim.messages]
            assert {member for member in members if member in state.leases}
            entries = [f"{item.entry}|{token}" for item in claim.messages]
            settlement = await core.messages.finish(queue, entries, counter="done")
            assert settlement.settled == len(claim.messages)
    assert await core.repairs.repair(queue) == 0
    state = await check_state(core, queue)
    assert state.places == {}, state.places
    seen.update({label_of(record) for record in state.outgoing.values()})
    return seen


async def _check_the_rest(situation: Situation, operation: Operation) -> None:
    """What is no message: records of a log, settings, workers, permits."""
    core = situation.core
    match operation.command:
        case "append":
            found = {entry.id for entry in await core.logs.read(situation.stream, after="0", count=100)}
            assert found == {"r0", "r1", "r2"}
        case "configure":
            for name in await core.directory.names("queue"):
                described = await core.directory.describe(core.resource("queue", name))
                assert described is not None
                assert (described.settings, described.revision) in {
                    (b'{"a":1}', 0),
                    (b'{"changed":true}', 1),
                    (b"{}", 0),
                }
        case "heartbeat":
            await core.directory.heartbeat("later", b"{}", ttl_ms=1)
            alive = await core.runner.fetch("ZRANGE", core.keys.workers("live"), 0, -1)
            assert (await core.directory.known_workers()).keys() == {name.decode() for name in alive}
        case _:
            pass
