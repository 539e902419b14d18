"""Versions and aliases with the SDK, without workers: what is stored where, and what stays when something changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from broker import Broker, InvalidInput, NoLiveWorker, sync
from broker.builds import Alias, Catalogue
from broker.errors import (
    AliasExists,
    BuildNotNamed,
    DurabilityNotMet,
    FunctionNotFound,
    InvalidName,
    ResourceBusy,
    VersionInUse,
    VersionNotFound,
)
from broker.functions import register_function
from broker.names import Resource
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.store.directory import Configured
from broker.versions import align, create_alias, read_catalogue


async def registered(broker: Broker, *builds: str) -> None:
    """`orders`, with a version of each build."""
    for build in builds:
        await register_function(broker.core, "orders", FunctionSettings(build=build))
        await broker.function("orders").publish()


async def held(broker: Broker, *qualifiers: str) -> dict[str, int]:
    """How many events each holds."""
    found = {}
    for qualifier in qualifiers:
        counts = await broker.core.messages.counts(broker.core.resource("function", f"orders{qualifier}"))
        found[qualifier] = -1 if counts is None else counts.total
    return found


async def test_versions_and_aliases_are_made_and_told(broker: Broker) -> None:
    await registered(broker, "one", "two")
    orders = broker.function("orders")
    assert [(version.number, version.build) for version in await orders.versions()] == [(1, "one"), (2, "two")]
    made = await orders.set_alias("live", 1, weights={"2": 0.5}, description="for all")
    assert (made.version, made.weights, made.description) == ("1", {"2": 0.5}, "for all")
    changed = await orders.set_alias("live", 2)
    assert (changed.version, changed.weights, changed.description) == ("2", {}, "for all")
    assert [alias.name for alias in await orders.aliases()] == ["live"]
    assert await broker.functions() == ["orders"]


async def test_what_cannot_be_is_refused_by_name(broker: Broker) -> None:
    for work in (broker.function("orders").publish(), broker.function("orders").set_alias("live", 1)):
        with pytest.raises(FunctionNotFound):
            await work
    await register_function(broker.core, "orders", FunctionSettings())
    with pytest.raises(BuildNotNamed, match="--build NAME"):
        await broker.function("orders").publish()
    await registered(broker, "one")
    with pytest.raises(VersionNotFound, match='"orders:7"'):
        await broker.function("orders").set_alias("live", 7)
    for name in ("7", "a b", ""):
        with pytest.raises(InvalidName):
            await broker.function("orders").set_alias(name, 1)
    with pytest.raises(VersionNotFound, match='"orders:live"'):
        await broker.invoke("orders:live", 1)
    with pytest.raises(VersionNotFound, match='"orders:2"'):
        await broker.call("orders:2", 1)
    with pytest.raises(FunctionNotFound):
        await broker.invoke("nobody:1", 1)
    with pytest.raises(NoLiveWorker, match='"orders:1"'):
        await broker.call("orders:1", 1)
    await create_alias(broker.core, "orders", "live", "1")
    with pytest.raises(AliasExists):
        await create_alias(broker.core, "orders", "live", "1")
    await registered(broker, "two")
    for weights in ({"1": 0.1}, {"1": 0.1, "2": 0.1}, {"2": 1.1}):
        with pytest.raises(InvalidInput, match="weights"):
            await broker.function("orders").set_alias("other", 1, weights=weights)


async def test_many_events_of_an_alias_are_shared_out_one_by_one_and_answered_in_order(broker: Broker) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1, weights={"2": 0.5})
    ids = await broker.invoke_many("orders:live", range(100))
    assert len(set(ids)) == 100
    found = await held(broker, ":live", ":live+", ":1", "")
    assert found[":live"] + found[":live+"] == 100
    assert 20 < found[":live"] < 80
    assert (found[":1"], found[""]) == (0, 0)
    assert (await broker.function("orders:live").counts()).total == 100
    assert {(await broker.status(request_id)).function for request_id in ids[:5]} == {"orders:live"}
    assert await broker.function("orders:live").purge() == 100
    assert (await broker.function("orders:live").counts()).total == 0


async def test_an_own_id_goes_the_same_way_again_and_is_known_by_the_alias(broker: Broker) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1, weights={"2": 0.5})
    for _ in range(2):
        for number in range(20):
            await broker.invoke("orders:live", number, id=f"order-{number}")
    found = await held(broker, ":live", ":live+")
    assert sum(found.values()) == 20
    assert min(found.values()) > 0
    for number in range(20):
        assert (await broker.status(f"order-{number}", function="orders:live")).state == "queued"
        assert await broker.cancel(f"order-{number}", function="orders:live")
    assert sum((await held(broker, ":live", ":live+")).values()) == 0


def test_shares_are_exact_on_average() -> None:
    alias = Alias(name="live", version="1", weights={"2": 0.3})
    by_chance = Counter(alias.takes_spare() for _ in range(20_000))
    by_id = Counter(alias.takes_spare(f"order-{number}") for number in range(20_000))
    for counted in (by_chance, by_id):
        assert 5_600 < counted[True] < 6_400  # 6000 +- 65 is one deviation
    assert not any(Alias(name="live", version="1", weights={"2": 0.0}).takes_spare() for _ in range(100))
    assert all(Alias(name="live", version="1", weights={"2": 1.0}).takes_spare(str(number)) for number in range(100))


async def test_two_who_publish_and_name_at_once_both_get_their_way(broker: Broker) -> None:
    await registered(broker, "one")
    orders = broker.function("orders")
    await asyncio.gather(*(orders.set_alias(f"a{number}", 1) for number in range(8)))
    assert [alias.name for alias in await orders.aliases()] == [f"a{number}" for number in range(8)]
    assert [version.number for version in await orders.versions()] == [1]


async def test_nothing_that_holds_events_or_is_named_is_deleted(broker: Broker) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1, weights={"2": 1})
    with pytest.raises(VersionInUse, match="live"):
        await broker.function("orders:2").delete()
    await broker.invoke("orders:live", 1)  # to the second version
    for name in ("orders:live", "orders"):
        with pytest.raises(ResourceBusy):
            await broker.function(name).delete()
    assert await held(broker, ":live+", ":live", ":1") == {":live+": 1, ":live": 0, ":1": 0}
    await broker.function("orders:live").delete(force=True)
    await broker.function("orders:2").delete()
    assert await held(broker, ":live+", ":live", ":2", ":1") == {":live+": -1, ":live": -1, ":2": -1, ":1": 0}
    await broker.function("orders").delete()
    assert await held(broker, "", ":1") == {"": -1, ":1": -1}
    assert await broker.core.directory.names("function") == []
    assert await read_catalogue(broker.core, "orders") == Catalogue()


async def test_permits_of_a_function_are_those_of_its_versions_and_stay_when_one_is_deleted(broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings(build="one", concurrency=2))
    await broker.function("orders").publish()
    function, version = (broker.core.resource("function", name) for name in ("orders", "orders:1"))
    permits = broker.core.permits
    assert (await permits.take_of_function(function, ["a"], permit_ms=60_000)).granted == 1
    assert (await permits.take_of_function(version, ["b", "c"], permit_ms=60_000)).granted == 1
    await broker.function("orders:1").delete()
    assert (await permits.take_of_function(function, ["d"], permit_ms=60_000)).granted == 0


async def test_a_pause_of_the_function_holds_for_its_versions_and_those_made_later(broker: Broker) -> None:
    await registered(broker, "one")
    await broker.function("orders").pause()
    await broker.function("orders").set_alias("live", 1)
    for name in ("orders", "orders:1", "orders:live"):
        described = await broker.core.directory.describe(broker.core.resource("function", name))
        assert described is not None
        assert described.held
    await broker.function("orders").resume()
    described = await broker.core.directory.describe(broker.core.resource("function", "orders:live"))
    assert described is not None
    assert not described.held


async def test_what_a_process_that_died_has_left_out_is_made_by_the_next_alignment(broker: Broker) -> None:
    await registered(broker, "one")
    lost = broker.core.resource("function", "orders:1")
    await broker.core.directory.delete(lost, force=True)
    await align(broker.core, "orders")
    assert await held(broker, ":1") == {":1": 0}
    assert (await broker.function("orders:1").settings()).build == "one"


@pytest.mark.parametrize("name", ["orders:live", "orders:2", "orders"])
async def test_an_alignment_that_makes_what_was_deleted_meanwhile_removes_it_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1)
    configure, asked, let_go = broker.core.directory.configure, asyncio.Event(), asyncio.Event()
    gone = name if ":" in name else "orders:1"

    async def slow(resource: Resource, *args: Any, **options: Any) -> Configured:
        if resource.name == gone and not asked.is_set():
            asked.set()
            await let_go.wait()
        return await configure(resource, *args, **options)

    monkeypatch.setattr(broker.core.directory, "configure", slow)
    aligning = asyncio.create_task(align(broker.core, "orders"))
    await asyncio.wait_for(asked.wait(), 10)
    await broker.function(name).delete()
    let_go.set()
    await aligning
    assert gone not in await broker.core.directory.names("function")
    if ":" in name:
        assert await held(broker, "", ":1") == {"": 0, ":1": 0}


@pytest.mark.parametrize("name", ["orders:live", "orders:2"])
@pytest.mark.parametrize("force", [False, True])
async def test_what_an_alignment_makes_in_the_middle_of_a_deletion_goes_with_it_unless_it_has_got_events(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, name: str, *, force: bool
) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1)
    put, steps = broker.core.directory.put_catalogue, list[str]()

    async def late(*args: Any, **options: Any) -> bool:
        for step in steps:
            await (align(broker.core, "orders") if step == "align" else broker.invoke(name, 1))
        steps.clear()
        return await put(*args, **options)

    monkeypatch.setattr(broker.core.directory, "put_catalogue", late)
    before = await read_catalogue(broker.core, "orders")
    steps += ["align", "send"]
    if force:
        await broker.function(name).delete(force=True)
    else:
        with pytest.raises(ResourceBusy):
            await broker.function(name).delete()
        assert await read_catalogue(broker.core, "orders") == before
        assert await held(broker, f":{name.partition(':')[2]}") == {f":{name.partition(':')[2]}": 1}
        await broker.function(name).purge()
        steps.append("align")
        await broker.function(name).delete()
    assert name not in await broker.core.directory.names("function")


async def test_events_for_two_versions_of_an_alias_that_are_stored_in_part_are_told_in_their_order(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(broker, "one", "two")
    await broker.function("orders").set_alias("live", 1, weights={"2": 0.5})
    send, calls = broker.core.messages.send, list[str]()

    async def second_fails(resource: Resource, *args: Any, **options: Any) -> Any:
        calls.append(resource.name)
        if len(calls) > 1:
            raise DurabilityNotMet("fsync", "it is not")
        return await send(resource, *args, **options)

    monkeypatch.setattr(broker.core.messages, "send", second_fails)
    with pytest.raises(DurabilityNotMet) as caught:
        await broker.invoke_many("orders:live", range(50))
    first, other = calls
    stored = caught.value.stored
    assert len(stored) == 50
    assert 0 < sum(map(bool, stored)) < 50
    ids = [each for each in stored if each]
    assert ids == sorted(set(ids))
    assert await held(broker, f":{first.partition(':')[2]}") == {f":{first.partition(':')[2]}": len(ids)}
    assert await held(broker, f":{other.partition(':')[2]}") == {f":{other.partition(':')[2]}": 0}


async def test_the_other_face_has_the_same(broker: Broker, redis_url: str, settings: Settings) -> None:
    await registered(broker, "one")

    def work() -> tuple[int, list[int], str, list[str]]:
        with sync.Broker(redis_url, settings=settings) as other:
            orders = other.function("orders")
            made = orders.publish(description="again").number
            numbers = [version.number for version in orders.versions()]
            return made, numbers, orders.set_alias("live", 1).version, [alias.name for alias in orders.aliases()]

    assert await asyncio.to_thread(work) == (1, [1], "1", ["live"])
