"""The doctor on a cluster: what is wrong with one node is said of that node."""

from __future__ import annotations

from broker import Broker
from broker.doctor.checkup import Checkup
from broker.settings import Settings
from tests.servers import RedisCluster


async def test_each_node_that_serves_slots_is_looked_at(cluster: RedisCluster, prefix: str) -> None:
    async with Broker(cluster.url, settings=Settings(prefix=prefix)) as broker:
        names = [name for name, _ in broker.core.runner.servers()]
        await broker.queue("orders").create()

        findings = [finding async for finding in Checkup(broker.core, watch_s=0, progress=lambda _: None).run()]

    assert len(names) == 3
    for check in ("version", "memory", "latency", "clock"):
        assert [finding.subject for finding in findings if finding.check == check] == names
