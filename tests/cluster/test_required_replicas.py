"""Required durability on a cluster: each resource looks at the node that stores it."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from broker.errors import DurabilityNotMet, WriteNotConfirmed
from broker.settings import Settings
from broker.store.slots import slot_of
from tests.cluster.load import SETTLED_S
from tests.runtime.scene import eventually
from tests.servers import Member, RedisCluster


async def test_a_node_without_its_replica_refuses_for_itself_alone(cluster: RedisCluster, prefix: str) -> None:
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        primaries: dict[str, Member] = {}
        for name in (f"q{number}" for number in range(9)):
            await broker.queue(name).create(durability="replica:1")
            slot = slot_of(broker.core.keys.of(broker.queue(name).resource).meta)
            primaries[name] = await asyncio.to_thread(cluster.primary_of, slot)
        bare = next(iter(primaries.values()))
        replica = await asyncio.to_thread(cluster.replica_of, bare)
        await asyncio.to_thread(replica.kill)

        async def refuses() -> bool:
            try:
                await broker.queue(next(iter(primaries))).send("x")
            except WriteNotConfirmed:  # it is known to be away a second later at most
                return False
            except DurabilityNotMet:
                return True
            return False

        await eventually(refuses, what="the node without a replica refuses", timeout_s=SETTLED_S)
        for name, primary in primaries.items():
            if primary is bare:
                with pytest.raises(DurabilityNotMet, match="0 of 1 replicas are in step"):
                    await broker.queue(name).send("x")
            else:
                await broker.queue(name).send("x")
        assert len(set(primaries.values())) > 1
