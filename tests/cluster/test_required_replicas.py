"""Required durability on a cluster: each resource looks at the node that stores it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.errors import DurabilityNotMet, WriteNotConfirmed
from broker.queues import QueueClient
from broker.settings import Settings
from broker.store.addresses import Place
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


def sockets() -> int:
    """How many this process has open."""
    return sum(each.is_socket() for each in Path("/proc/self/fd").iterdir())


async def test_no_connection_that_waits_for_replicas_is_left_behind_when_a_slot_moves(
    cluster: RedisCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sockets()
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        at_node: dict[Member, list[QueueClient]] = {}
        for queue in (broker.queue(f"q{number}") for number in range(9)):
            await queue.create(durability="replica:1")
            slot = slot_of(broker.core.keys.of(queue.resource).meta)
            at_node.setdefault(await asyncio.to_thread(cluster.primary_of, slot), []).append(queue)
        source, (moved, stays) = next((node, pair[:2]) for node, pair in at_node.items() if len(pair) > 1)
        target = next(node for node in at_node if node is not source)
        looking, moving = asyncio.Event(), asyncio.Event()
        fetch_at = broker.core.runner.fetch_at

        async def fetch_once_moved(place: Place, *command: str) -> Any:
            looking.set()
            await moving.wait()
            return await fetch_at(place, *command)

        monkeypatch.setattr(broker.core.runner, "fetch_at", fetch_once_moved)
        sending = asyncio.create_task(moved.send("x"))
        await looking.wait()  # for what the node gives that had the queue when the send began
        slot = slot_of(broker.core.keys.of(moved.resource).meta)
        await asyncio.to_thread(lambda: list(cluster.move_slot(slot, target)))
        await moved.counts()  # this one is told that it has moved
        moving.set()
        await sending
        await stays.send("x")
    await eventually(lambda: sockets() == before, what="all connections have ended")
