"""Levels that a resource requires: read, held against the server's settings, refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.durability import Durability, ServerLevel, gives, parse_durability
from broker.embedded import EmbeddedRedis
from broker.errors import DurabilityNotMet, InvalidOption
from broker.functions import register_function
from broker.names import Resource
from broker.records import FunctionSettings
from broker.store.durable import ServerState
from broker.store.partitions import partition_of_id
from broker.store.server import InForce, level_in_force, online_replicas
from broker.store.values import Stored


def test_levels_are_read() -> None:
    assert parse_durability("fsync") == Durability(text="fsync", server="fsync")
    assert parse_durability("replica:2") == Durability(text="replica:2", replicas=2)
    on_disk = Durability(text="replica-fsync:1", server="everysec", replicas=1, replicas_on_disk=True)
    assert parse_durability("replica-fsync:1") == on_disk


@pytest.mark.parametrize(
    "text", ["disk", "replica", "replica:0", "replica:100", "replica-fsync:", "FSYNC", " fsync", 2]
)
def test_what_is_no_level_is_refused(text: object) -> None:
    with pytest.raises(InvalidOption, match="durability"):
        parse_durability(text)


def test_levels_are_in_order() -> None:
    levels: tuple[ServerLevel, ...] = ("memory", "everysec", "fsync")
    for strength, in_force in enumerate(levels):
        assert [gives(in_force, required) for required in levels] == [need <= strength for need in range(3)]


ON = {"aof_enabled": "1", "aof_base_size": "10", "aof_current_size": "10", "redis_version": "6.2.14"}


@pytest.mark.parametrize(
    ("info", "config", "level"),
    [
        ({"aof_enabled": "0"}, {"appendfsync": "always"}, "memory"),
        (ON, {"appendfsync": "always"}, "fsync"),
        (ON, {"appendfsync": "everysec"}, "everysec"),
        (ON, {"appendfsync": "no"}, "memory"),
        (ON, {}, None),
        (ON, {"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"}, "memory"),
        (ON | {"aof_last_write_status": "err"}, {"appendfsync": "always"}, "memory"),
        # switched on at run time: the file is still being written
        (
            ON | {"aof_base_size": "0", "aof_current_size": "0", "aof_rewrite_in_progress": "1"},
            {"appendfsync": "always"},
            "memory",
        ),
        (
            ON
            | {
                "redis_version": "7.0.15",
                "aof_base_size": "0",
                "aof_current_size": "9",
                "aof_rewrite_in_progress": "1",
            },
            {"appendfsync": "always"},
            "memory",
        ),
        # an ordinary rewrite
        (ON | {"aof_rewrite_in_progress": "1"}, {"appendfsync": "always"}, "fsync"),
    ],
)
def test_the_level_in_force_is_read_from_the_settings_now(
    info: dict[str, str], config: dict[str, str], level: str | None
) -> None:
    assert level_in_force(info, config).level == level


def test_only_replicas_in_step_count() -> None:
    assert (
        online_replicas({"slave0": "ip=a,state=online,lag=0", "slave1": "ip=b,state=wait_bgsave", "slaves": "x"}) == 1
    )


def test_replicas_on_disk_need_a_server_with_waitaof() -> None:
    required = parse_durability("replica-fsync:1")
    assert ServerState(InForce("everysec", ""), 1, waitaof=True).why_not(required) is None
    why_not = ServerState(InForce("everysec", ""), 1, waitaof=False).why_not(required)
    assert why_not == "the server has no WAITAOF, which is new in 7.2"


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Broker]:
    """On a server whose append-only file is written at once."""
    with EmbeddedRedis(tmp_path / "redis", append_only=True, fsync="always") as server:
        async with Broker(server.url) as broker:
            yield broker


async def change(broker: Broker, setting: str, value: str) -> None:
    """The server changes at run time; what is known of it is a second old at most."""
    await broker.core.runner.fetch("CONFIG", "SET", setting, value)
    await broker.core.durable.look()


async def test_a_level_that_is_given_is_taken(strict: Broker) -> None:
    await strict.queue("orders").create(durability="fsync")
    await strict.queue("orders").create(durability="fsync")
    assert await strict.queue("orders").send("x")
    assert (await strict.queue("orders").settings()).durability == "fsync"
    assert await strict.durability() == "fsync"


async def test_a_level_that_is_not_given_is_refused_and_nothing_is_made(broker: Broker) -> None:
    refused = pytest.raises(DurabilityNotMet, match=r"durability=fsync .*there is no append-only file")
    with refused:
        await broker.queue("orders").create(durability="fsync")
    with pytest.raises(DurabilityNotMet):
        await broker.stream("log").create(durability="everysec")
    with pytest.raises(DurabilityNotMet):
        await register_function(broker.core, "work", FunctionSettings(durability="fsync"))
    assert (await broker.queues(), await broker.streams(), await broker.functions()) == ([], [], [])
    assert await broker.durability() == "memory"


async def test_memory_can_be_required_of_any_server(broker: Broker) -> None:
    await broker.queue("orders").create(durability="memory")
    assert await broker.queue("orders").send("x")


async def test_a_server_that_gets_weaker_is_refused_until_it_is_strong_again(strict: Broker) -> None:
    queue = strict.queue("orders")
    await queue.create(durability="fsync")
    await queue.send("before")
    await change(strict, "appendfsync", "everysec")
    with pytest.raises(DurabilityNotMet, match="appendfsync is everysec; nothing was done"):
        await queue.send("meanwhile")
    with pytest.raises(DurabilityNotMet):
        await queue.send_many(["a", "b"])
    (message,) = await queue.receive()
    await message.delete()  # what is there can be worked on
    await change(strict, "appendfsync", "always")
    await queue.send("after")
    assert [message.body for message in await queue.receive(10)] == ["after"]


async def test_a_requirement_that_changes_is_noticed_by_everybody(strict: Broker) -> None:
    queue = strict.queue("orders")
    await queue.create()
    await queue.send("one")
    async with Broker(strict.core.address.url) as other:
        await other.queue("orders").configure(durability="fsync")
        await change(strict, "appendfsync", "everysec")
        with pytest.raises(DurabilityNotMet):
            await queue.send("two")
        await other.queue("orders").configure(durability="")
        await queue.send("three")
    assert (await queue.counts()).visible == 2


async def test_a_requirement_that_is_not_met_cannot_be_configured(strict: Broker) -> None:
    await strict.queue("orders").create()
    await change(strict, "appendfsync", "everysec")
    with pytest.raises(DurabilityNotMet):
        await strict.queue("orders").configure(durability="fsync")
    assert (await strict.queue("orders").settings()).durability == ""
    await strict.queue("orders").configure(durability="everysec")


async def test_a_user_that_may_not_look_is_told_what_the_acl_lacks(tmp_path: Path) -> None:
    options = {"user": "default on nopass ~* &* +@all -config"}
    with EmbeddedRedis(tmp_path / "redis", append_only=True, fsync="always", options=options) as server:
        async with Broker(server.url) as broker:
            assert await broker.durability() is None
            with pytest.raises(DurabilityNotMet, match=r"ACL must allow \+config\|get"):
                await broker.queue("orders").create(durability="fsync")
            await broker.queue("orders").create()


async def test_concurrent_senders_share_a_look_at_the_server(strict: Broker) -> None:
    queue = strict.queue("orders")
    await queue.create(durability="fsync")
    await strict.core.runner.fetch("CONFIG", "RESETSTAT")
    await asyncio.gather(*(queue.send(str(number)) for number in range(100)))
    stats = (await strict.core.runner.fetch("INFO", "commandstats")).decode()
    looks = [line for line in stats.splitlines() if line.startswith("cmdstat_config")]
    assert sum("|get" in line or "cmdstat_config:" in line for line in looks) <= 1
    assert (await queue.counts()).visible == 100


# -- several partitions, several steps --------------------------------------------------------------------------------

PARTITIONS = 4


async def behind(broker: Broker, part: Resource) -> None:
    """A partition has not heard yet of what its queue requires now."""
    await broker.core.runner.fetch("HDEL", broker.core.keys.of(part).meta, "durability")


def by_partition(names: Iterable[str], first: int) -> list[str]:
    """Those of one partition before all others."""
    return sorted(names, key=lambda name: partition_of_id(name, PARTITIONS) != first)


async def total(broker: Broker, queue: str) -> int:
    return (await broker.queue(queue).counts()).total


async def test_a_send_over_several_partitions_stores_nothing_where_one_is_known_to_require_more(
    strict: Broker,
) -> None:
    queue = strict.queue("orders")
    await queue.create(durability="fsync", partitions=PARTITIONS)
    await behind(strict, queue.resource.part(2))
    await asyncio.gather(*(queue.send("x", id=f"first-{number}") for number in range(40)))
    await change(strict, "appendfsync", "everysec")
    names = by_partition((f"second-{number}" for number in range(40)), 2)
    results = await asyncio.gather(*(queue.send("y", id=name) for name in names), return_exceptions=True)
    assert {type(result) for result in results} == {DurabilityNotMet}
    assert await total(strict, "orders") == 40


async def test_each_message_of_a_send_that_one_partition_refuses_is_told_for_itself(strict: Broker) -> None:
    await strict.queue("orders").create(durability="fsync", partitions=PARTITIONS)
    await behind(strict, strict.queue("orders").resource.part(2))
    await change(strict, "appendfsync", "everysec")
    names = by_partition((f"second-{number}" for number in range(40)), 2)
    async with Broker(strict.core.address.url) as stranger:  # who does not know yet what is required
        queue = stranger.queue("orders")
        stranger.core.splits.heard(queue.resource, PARTITIONS)
        results = await asyncio.gather(*(queue.send("y", id=name) for name in names), return_exceptions=True)
    stored = [name for name, result in zip(names, results, strict=True) if result == name]
    assert stored == [name for name in names if partition_of_id(name, PARTITIONS) == 2]
    assert len(stored) == await total(strict, "orders") > 0
    assert all(isinstance(result, DurabilityNotMet) for result in results[len(stored) :])


async def test_a_send_of_several_steps_that_is_cut_short_tells_what_was_stored(
    strict: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = strict.queue("orders")
    await queue.create(durability="fsync")
    send = strict.core.messages.send

    async def weakening(*args: Any, **options: Any) -> Any:
        stored = await send(*args, **options)
        if isinstance(stored, Stored):
            await change(strict, "appendfsync", "everysec")
        return stored

    monkeypatch.setattr(strict.core.messages, "send", weakening)
    with pytest.raises(DurabilityNotMet, match="before that, 1000 messages of this send were stored") as caught:
        await queue.send_many([str(number) for number in range(1_500)])
    assert len(set(caught.value.stored)) == await total(strict, "orders") == 1_000
    (message,) = await queue.receive()
    assert message.id == caught.value.stored[0]


async def test_own_ids_of_what_was_stored_are_told(strict: Broker) -> None:
    queue = strict.queue("orders")
    await queue.create(durability="fsync", partitions=PARTITIONS)
    await behind(strict, queue.resource.part(2))
    await change(strict, "appendfsync", "everysec")
    names = by_partition((f"own-{number}" for number in range(40)), 2)
    async with Broker(strict.core.address.url) as stranger:
        stranger.core.splits.heard(queue.resource, PARTITIONS)
        with pytest.raises(DurabilityNotMet) as caught:
            await stranger.queue("orders").send_batch({"body": "x", "id": name} for name in names)
    ours = [name if partition_of_id(name, PARTITIONS) == 2 else "" for name in names]
    assert list(caught.value.stored) == ours
    assert await total(strict, "orders") == sum(map(bool, ours)) > 0
