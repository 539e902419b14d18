"""replica-fsync:N on a cluster: the replica of the node that serves a queue confirms what is on its disk."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.errors import DurabilityNotMet, WriteNotConfirmed
from broker.settings import Settings
from broker.store.slots import slot_of
from tests.servers import Member, RedisCluster
from tests.store.replicated import skip_without_waitaof


@pytest.fixture
def cluster_on_disk(tmp_path: Path) -> Iterator[RedisCluster]:
    """Every node syncs before it answers. Nobody takes over from a node while it stands still."""
    skip_without_waitaof()
    options = {"appendonly": "yes", "appendfsync": "always", "cluster-node-timeout": "60000"}
    with RedisCluster(tmp_path, options=options) as running:
        yield running


async def test_each_queue_is_confirmed_where_it_is(cluster_on_disk: RedisCluster, prefix: str) -> None:
    async with Broker(cluster_on_disk.url, settings=Settings(prefix=prefix)) as broker:
        queues = [broker.queue(f"q{number}") for number in range(6)]
        for queue in queues:
            await queue.create(durability="replica-fsync:1")
        await asyncio.gather(*(queue.send(str(number)) for queue in queues for number in range(50)))
        primaries = {queue.name: _primary_of(broker, queue.name, cluster_on_disk) for queue in queues}
        assert len(set(primaries.values())) > 1
        still = primaries[queues[0].name]
        _replica_of(still, cluster_on_disk).signal(signal.SIGSTOP)
        for queue in queues:
            if primaries[queue.name] == still:
                with pytest.raises(WriteNotConfirmed):
                    await queue.send("unconfirmed")
            else:
                await queue.send("confirmed")


async def test_a_replica_without_a_file_is_refused_where_it_would_be_needed(
    cluster_on_disk: RedisCluster, prefix: str
) -> None:
    async with Broker(cluster_on_disk.url, settings=Settings(prefix=prefix)) as broker:
        primary = _primary_of(broker, "orders", cluster_on_disk)
        _replica_of(primary, cluster_on_disk).ask("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(DurabilityNotMet, match="appendonly is no"):
            await broker.queue("orders").create(durability="replica-fsync:1")
        others = (f"q{number}" for number in range(1_000))
        elsewhere = next(name for name in others if _primary_of(broker, name, cluster_on_disk) != primary)
        await broker.queue(elsewhere).create(durability="replica-fsync:1")
        await broker.queue(elsewhere).send("one")


def _primary_of(broker: Broker, queue: str, cluster: RedisCluster) -> int:
    core = broker.core
    return cluster.primary_of(slot_of(core.keys.of(core.resource("queue", queue)).meta)).port


def _replica_of(primary: int, cluster: RedisCluster) -> Member:
    """As it says itself: the others hear of it late where the timeout is long."""
    roles = ((member, member.ask("ROLE")) for member in cluster.members)
    return next(member for member, role in roles if role[0] == b"slave" and role[2] == primary)
