"""Slots: which one a name is in, which are not served, and that no script touches two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from broker import Broker
from broker.names import Resource
from broker.store.keys import CLOCK_OFFSET_KEYS, Keyspace
from broker.store.scripts import Argument, Command, Script, ScriptRunner, load_scripts
from broker.store.slots import Shard, name_in, read_slots, slot_of, uncovered
from tests.store.fifo_situation import FIFO_OPERATIONS, FifoSituation
from tests.store.operations import OPERATIONS
from tests.store.situation import Situation

_UNDECLARED = """
local server, declared = redis, {}
for _, key in ipairs(KEYS) do declared[key] = true end
local redis = setmetatable({ call = function(...)
  local name, key = ...
  if name ~= 'TIME' and name ~= 'PUBLISH' and not declared[key] then error('undeclared key ' .. tostring(key)) end
  return server.call(...)
end }, { __index = server })
"""


def test_the_slot_of_the_specification() -> None:
    assert slot_of("123456789") == 0x31C3
    assert slot_of("{user1000}.following") == slot_of("{user1000}.followers") == slot_of(b"user1000")
    assert slot_of("foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")
    assert slot_of("foo{bar}{zap}") == slot_of("bar")


@given(st.text(alphabet="ab{}é:"))
def test_the_slot_is_the_librarys(name: str) -> None:
    assert slot_of(name) == key_slot(name.encode())


def test_the_three_keys_of_the_test_clock_are_on_three_primaries() -> None:
    assert [slot_of(key) * 3 // 16_384 for key in CLOCK_OFFSET_KEYS] == [2, 0, 1]


def test_a_command_goes_where_its_key_or_channel_is() -> None:
    assert name_in(("EVALSHA", "sha", 2, "a", "b", "argument")) == "a"
    assert name_in(("EVALSHA", "sha", 0)) is None
    assert name_in(("INFO",)) is None
    assert name_in(("HGET", b"h", "field")) == b"h"
    assert name_in(("PUBLISH", "channel", "x")) == "channel"
    assert name_in(("PUBSUB", "NUMSUB", "channel")) == "channel"


def test_a_node_without_a_name_is_at_the_host_that_was_asked() -> None:
    reply = [[0, 5, [b"", 7000, b"id"], [b"other", 7001, b"id", []]], [6, 7, [None, 7002, b"id"]]]
    assert read_slots(reply, ("seed", 1)) == [
        Shard(0, 5, ("seed", 7000), (("other", 7001),)),
        Shard(6, 7, ("seed", 7002), ()),
    ]


def test_slots_that_nobody_serves_are_named_as_ranges() -> None:
    def served(*ranges: tuple[int, int]) -> list[Shard]:
        return [Shard(first, last, ("h", 1), ()) for first, last in ranges]

    assert uncovered(served((0, 16_383))) == ""
    assert uncovered(served((8_000, 16_383), (0, 7_999))) == ""
    assert uncovered(served((1, 99), (101, 16_000))) == "0, 100, 16001-16383"
    assert uncovered([]) == "0-16383"


# -- no script touches two slots --------------------------------------------------------------------------------------


@pytest.fixture
def slots_used(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The slots of the keys of each script that runs; one that uses a key which it does not declare fails."""
    used: list[set[int]] = []
    run = ScriptRunner.run

    async def noted(self: ScriptRunner, command: Command, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        used.append({slot_of(key) for key in keys})
        return await run(self, command, keys, arguments)

    monkeypatch.setattr(ScriptRunner, "run", noted)
    return used


def _strict(scripts: dict[Command, Script]) -> None:
    for command, script in scripts.items():
        text = _UNDECLARED + script.text
        scripts[command] = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_keeps_to_one_slot(situation: Situation, slots_used: list[set[int]], name: str) -> None:
    _strict(situation.core.scripts)
    await OPERATIONS[name].run(situation)
    assert slots_used
    assert all(len(slots) <= 1 for slots in slots_used), slots_used


@pytest.mark.parametrize("name", FIFO_OPERATIONS)
async def test_an_operation_on_a_fifo_queue_keeps_to_one_slot(
    broker: Broker, slots_used: list[set[int]], name: str
) -> None:
    situation = FifoSituation(broker)
    await situation.build()
    _strict(situation.core.scripts)
    slots_used.clear()
    await FIFO_OPERATIONS[name].run(situation)
    assert slots_used
    assert all(len(slots) <= 1 for slots in slots_used), slots_used


def test_the_whole_of_a_resource_is_in_one_slot_and_resources_are_spread() -> None:
    keys = Keyspace("penstock", "000000000000", "us-east-1")
    slots = set()
    for number in range(100):
        spelled = keys.of(Resource("queue", "000000000000", "us-east-1", f"q{number}"))
        slots_of_one = {slot_of(key) for key in (*spelled.every(), *spelled.held(), *spelled.fifo())}
        slots_of_one |= {
            slot_of(key) for key in (spelled.attempt("a"), spelled.once("d"), spelled.mapping_permits("f"))
        }
        slots_of_one |= {slot_of(key) for key in (spelled.wake, spelled.ended, spelled.tokens("1"), spelled.gone)}
        assert len(slots_of_one) == 1
        slots |= slots_of_one
    assert len(slots) > 90


def test_every_script_is_in_the_audit_or_reads_only() -> None:
    audited = {operation.command for operation in (*OPERATIONS.values(), *FIFO_OPERATIONS.values())}
    reading = load_scripts().keys() - audited
    assert reading <= {"counts", "fifo_counts", "fifo_peek", "live_workers", "moves", "names", "now", "peek", "status"}
