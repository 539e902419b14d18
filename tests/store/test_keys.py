"""How keys are spelled: one slot for a resource, the prefix outside the braces, no key that another has."""

from __future__ import annotations

from collections import Counter

import pytest

from broker import Broker
from broker.names import Kind, Resource
from broker.store.keys import Keyspace, ResourceKeys
from broker.store.slots import slot_of
from tests.store.situation import Situation

KEYS = Keyspace("penstock", "000000000000", "us-east-1")


def _resource(kind: Kind, name: str) -> Resource:
    return Resource(kind, "000000000000", "us-east-1", name)


def _spelled(resource: Resource) -> list[str]:
    keys = KEYS.of(resource)
    names = [getattr(keys, field) for field in ResourceKeys.__struct_fields__ if field != "base"]
    return [*names, keys.tokens("1"), keys.mapping_permits("f")]


def test_all_keys_of_a_resource_share_one_hash_tag() -> None:
    for key in _spelled(_resource("queue", "orders")):
        assert key.startswith("penstock:{q:000000000000:us-east-1:orders}:")


def test_no_two_keys_are_the_same() -> None:
    kinds: tuple[Kind, ...] = ("queue", "function", "stream")
    spelled = [key for kind in kinds for name in ("a", "b") for key in _spelled(_resource(kind, name))]
    spelled += [KEYS.directory("queues"), KEYS.workers("live"), KEYS.inbox("p"), KEYS.parcel("c")]
    assert len(spelled) == len(set(spelled))


def test_few_keys_are_remembered_however_many_names_clients_make_up() -> None:
    scopes = [Keyspace("many", str(number), "us-east-1") for number in range(10)]
    first = scopes[0].of(_resource("queue", "n"))
    for scope in scopes:
        for number in range(500):
            scope.of(_resource("queue", f"{scope.directory('')}{number}"))
    again = scopes[0].of(_resource("queue", "n"))
    assert again == first
    assert again is not first


def test_accounts_and_regions_are_apart() -> None:
    tags = {Resource("queue", account, region, "q").tag for account in ("1", "2") for region in ("a", "b")}
    assert len(tags) == 4


def test_the_example_of_the_design_is_spelled_so() -> None:
    assert KEYS.of(_resource("queue", "orders")).ready == "penstock:{q:000000000000:us-east-1:orders}:ready"


async def test_every_key_that_is_ever_written_is_known_and_deleted_with_its_resource(situation: Situation) -> None:
    core, queue = situation.core, situation.queue
    keys = core.keys.of(queue)
    tokens = keys.tokens("")
    written = {key.split(" ")[0] for key in await situation.contents() if queue.tag in key}
    assert {key for key in written if not key.startswith(tokens)} <= set(keys.every())
    await core.directory.delete(queue, force=True)
    left = {key.split(" ")[0] for key in await situation.contents() if queue.tag in key}
    assert all(key.startswith(tokens) or key == keys.gone for key in left)
    for key in left:
        assert await core.runner.fetch("PTTL", key) > 0


async def test_two_prefixes_see_nothing_of_each_other(broker: Broker) -> None:
    await broker.queue("orders").create()
    other = Keyspace("another", "000000000000", "us-east-1")
    assert await broker.core.runner.fetch("EXISTS", other.directory("queues")) == 0
    assert await broker.core.runner.fetch("EXISTS", broker.core.keys.directory("queues")) == 1


def test_versions_and_aliases_are_in_the_slot_of_their_function_with_its_permits_and_share_nothing_else() -> None:
    keyspace = Keyspace("p", "1", "a")
    names = ("orders", "orders:1", "orders:live", "orders:live+", "orders:ready")
    found = {name: keyspace.of(Resource("function", "1", "a", name)) for name in names}
    permits = {keys.permits for keys in found.values()}
    assert permits == {"p:{fn:1:a:orders}:permits"}
    every = [key for keys in found.values() for key in (*keys.every(), keys.wake, keys.ended, keys.once("ready"))]
    assert len(every) == len(set(every))
    assert all(key.startswith("p:{fn:1:a:orders}:") for key in every)
    assert [name for name, keys in found.items() if keys.permits in keys.every()] == ["orders"]
    assert Resource("function", "1", "a", "orders:live+").arn == "arn:aws:lambda:a:1:function:orders:live"
    assert len({Resource("function", "1", "a", name).tag for name in names}) == len(names)


@pytest.mark.parametrize("name", ["orders", "mails", "a", "x" * 64])
@pytest.mark.parametrize(("partitions", "fewest", "most"), [(8, 2, 3), (16, 5, 6), (64, 21, 22)])
def test_partitions_are_spread_evenly_over_the_nodes_of_a_cluster(
    name: str, partitions: int, fewest: int, most: int
) -> None:
    parts = Resource("queue", "000000000000", "us-east-1", name).parts(partitions)

    nodes = Counter(slot_of(f"{{{part.slot}}}") * 3 // 16_384 for part in parts)

    assert set(nodes) == {0, 1, 2}
    assert fewest <= min(nodes.values()) <= max(nodes.values()) <= most
