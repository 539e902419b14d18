"""What is split together with versions, aliases, required durability, traces and the doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Broker, Queue
from broker.doctor.checkup import Checkup
from broker.embedded import EmbeddedRedis
from broker.errors import DurabilityNotMet, FunctionNotFound
from broker.functions import register_function
from broker.ids import id_mark, partition_of
from broker.lineage import hash_of
from broker.names import Resource
from broker.queues import QueueClient
from broker.records import FunctionSettings
from tests.conftest import Clock
from tests.partitions import PARTITIONS, named

QUALIFIERS = ("1", "2", "live", "live+")


async def register(broker: Broker, *builds: str, partitions: int = PARTITIONS) -> None:
    """`orders`, with a version of each build, and `live` for the first two in equal shares."""
    for build in builds:
        await register_function(broker.core, "orders", FunctionSettings(build=build, partitions=partitions))
        await broker.function("orders").publish()
    await broker.function("orders").set_alias("live", 1, weights={"2": 0.5})


def places(broker: Broker) -> list[Resource]:
    """What holds events: the partitions of the function, then its versions and aliases."""
    qualified = [broker.core.resource("function", f"orders:{qualifier}") for qualifier in QUALIFIERS]
    return [*broker.function("orders").resource.parts(PARTITIONS), *qualified]


async def meta(broker: Broker, resource: Resource, field: str) -> bytes | None:
    found: bytes | None = await broker.core.runner.fetch("HGET", broker.core.keys.of(resource).meta, field)
    return found


# -- versions and aliases ---------------------------------------------------------------------------------------------


async def test_versions_and_aliases_of_a_split_function_are_not_split(broker: Broker) -> None:
    await register(broker, "one", "two")
    for name in ("orders:1", "orders:live"):
        assert (await broker.function(name).settings()).partitions == 1
    ids = await broker.invoke_many("orders:live", range(40)) + [await broker.invoke("orders:1", 1)]
    assert {partition_of(id_mark(request_id) or 0) for request_id in ids} == {0}
    found = [await broker.core.messages.counts(place) for place in places(broker)]
    held = [counts.total for counts in found if counts is not None]
    assert len(held) == len(places(broker))
    assert held[: PARTITIONS + 2] == [0, 0, 0, 0, 1, 0]
    assert sum(held) == 41
    assert min(held[-2:]) > 0
    assert [await meta(broker, place, "partitions") for place in places(broker)[PARTITIONS:]] == [None] * 4


async def test_growing_leaves_versions_as_they_are(broker: Broker) -> None:
    await register(broker, "one", "two")
    await register_function(broker.core, "orders", FunctionSettings(build="two", partitions=2 * PARTITIONS))
    assert (await broker.function("orders").publish()).number == 2
    assert (await broker.function("orders:live").settings()).partitions == 1
    assert (await broker.function("orders").settings()).partitions == 2 * PARTITIONS


async def test_counts_and_purges_are_of_all_that_a_name_means(broker: Broker) -> None:
    await register(broker, "one", "two")
    for _ in range(2 * PARTITIONS):
        await broker.invoke("orders", 1)
    await broker.invoke_many("orders:live", range(20))
    assert (await broker.function("orders").counts()).total == 2 * PARTITIONS
    assert (await broker.function("orders:live").counts()).total == 20
    assert await broker.function("orders:live").purge() == 20
    assert await broker.function("orders").purge() == 2 * PARTITIONS


async def test_a_pause_holds_for_all_partitions_and_versions(broker: Broker) -> None:
    await register(broker, "one", "two")
    await broker.function("orders:live").pause()
    assert [await meta(broker, place, "held") for place in places(broker)] == [b"1"] * len(places(broker))
    await broker.function("orders").resume()
    assert not any([await meta(broker, place, "held") for place in places(broker)])


async def test_the_limit_reaches_all_partitions_and_versions(broker: Broker) -> None:
    await register(broker, "one", "two")
    await register_function(broker.core, "orders", FunctionSettings(build="two", partitions=PARTITIONS, concurrency=3))
    assert [await meta(broker, place, "limit") for place in places(broker)] == [b"3"] * len(places(broker))
    keys = broker.core.keys
    whole, *parts = places(broker)
    assert {keys.of(place).permits for place in parts[PARTITIONS - 1 :]} == {keys.of(whole).permits}


async def test_a_split_function_is_deleted_with_its_versions(broker: Broker) -> None:
    await register(broker, "one", "two")
    await broker.invoke_many("orders", range(100))
    await broker.invoke_many("orders:live", range(20))
    await broker.function("orders").delete(force=True)
    assert not any([await meta(broker, place, "kind") for place in places(broker)])
    with pytest.raises(FunctionNotFound):
        await broker.function("orders").counts()


async def test_the_events_of_an_alias_of_a_split_function_are_found_and_cancelled(broker: Broker) -> None:
    await register(broker, "one", "two")
    own = [f"order-{number}" for number in range(8)]
    made = [await broker.invoke("orders:live", id=name, event=name) for name in own]
    assert made == own
    given = await broker.invoke_many("orders:live", range(8))
    for request_id in given:
        for function in (None, "orders:live"):
            status = await broker.status(request_id, function=function)
            assert (status.function, status.state) == ("orders:live", "queued")
        assert await broker.cancel(request_id)
    for name in own:
        assert (await broker.status(name, function="orders:live")).function == "orders:live"
        assert await broker.cancel(name, function="orders:live")
        assert (await broker.status(name, function="orders:live")).state == "cancelled"
    assert (await broker.function("orders:live").counts()).total == 0


async def test_one_own_id_names_an_event_of_the_function_and_one_of_its_alias(broker: Broker) -> None:
    await register(broker, "one", "two")
    own = named(3)
    for name in ("orders", "orders:live"):
        await broker.invoke(name, name, id=own)
    assert await broker.cancel(own, function="orders")
    assert (await broker.status(own, function="orders")).state == "cancelled"
    assert (await broker.status(own, function="orders:live")).state == "queued"


def test_a_partition_and_a_version_of_one_number_have_nothing_in_common(broker: Broker) -> None:
    function, version = (broker.core.resource("function", name) for name in ("orders", "orders:3"))
    part = function.part(3)
    assert part.tag != version.tag  # what is sent on is known by it
    assert function.slot == "fn:000000000000:us-east-1:orders"
    assert part.slot.startswith("fn:000000000000:us-east-1:orders:3.")
    assert version.slot == function.slot
    assert not set(broker.core.keys.of(part).every()) & set(broker.core.keys.of(version).every())


def test_all_partitions_and_versions_of_a_function_are_one_in_a_lineage(broker: Broker) -> None:
    function = broker.core.resource("function", "orders")
    everything = [*function.parts(PARTITIONS), broker.core.resource("function", "orders:3")]
    assert {hash_of(resource.arn) for resource in everything} == {hash_of(function.arn)}


# -- durability -------------------------------------------------------------------------------------------------------


async def test_what_is_required_holds_in_every_partition_until_it_is_required_no_more(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis", append_only=True, fsync="always") as server:
        async with Broker(server.url) as broker, Broker(server.url) as other:
            queue = broker.queue("orders")
            await queue.create(partitions=PARTITIONS)
            await send_to_each(queue)
            await other.queue("orders").configure(durability="everysec")
            await send_to_each(queue)
            await other.queue("orders").configure(durability="fsync")
            await broker.core.runner.fetch("CONFIG", "SET", "appendfsync", "everysec")
            await broker.core.durable.look()
            for _ in range(PARTITIONS):
                with pytest.raises(DurabilityNotMet):
                    await queue.send("meanwhile")
            for number in range(PARTITIONS):
                with pytest.raises(DurabilityNotMet):
                    await queue.send("meanwhile", id=named(number))
            await other.queue("orders").configure(durability="", partitions=2 * PARTITIONS)
            for number in range(2 * PARTITIONS):
                await queue.send("after", id=named(number, 2 * PARTITIONS))
            assert (await queue.counts()).visible == 4 * PARTITIONS


async def send_to_each(queue: QueueClient) -> None:
    """One message to each partition, which take turns."""
    for _ in range(PARTITIONS):
        await queue.send("x")


# -- the doctor -------------------------------------------------------------------------------------------------------


async def test_the_doctor_looks_at_a_split_queue_as_a_whole(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(partitions=PARTITIONS, dead_letter=Queue("dead"), max_receives=1, visibility_timeout=0)
    await send_to_each(queue)
    for part in queue.resource.parts(PARTITIONS):  # the second claim finds that its receives are used up
        for token in ("r1", "r2"):
            await broker.core.messages.claim(part, token=token, lease_ms=0, room=1, mode="receive")
    await send_to_each(queue)
    await clock.advance(120)
    stranded = queue.resource.part(PARTITIONS - 1)
    await queue.send("later", id=named(stranded.partition), delay=900)
    await broker.core.runner.fetch("DEL", broker.core.keys.of(stranded).delayed)
    said = await doctors_words(broker)
    assert said["backlog"].startswith("5 wait, 0 in flight, the oldest for 12")
    assert said["outbox"].startswith("4 in its outbox, the first 12")
    assert said["stranded"] == "at least 1 messages are in no set"
    assert (await doctors_words(broker, repair=True))["repair"] == "1 messages were given a place again"
    assert "stranded" not in await doctors_words(broker)


async def doctors_words(broker: Broker, *, repair: bool = False) -> dict[str, str]:
    """What is said of the queue, by kind."""
    checkup = Checkup(broker.core, watch_s=0, progress=lambda _: None, repair=repair)
    return {finding.check: finding.text async for finding in checkup.run() if finding.subject == 'queue "orders"'}
