"""Clusters that must not be trusted: each stops the start with one line that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker import Broker, errors
from tests.servers import Member, RedisCluster, free_ports


async def test_any_node_finds_the_whole_cluster(cluster: RedisCluster) -> None:
    for member in cluster.members:
        async with Broker(f"redis+cluster://127.0.0.1:1,127.0.0.1:{member.port}") as broker:
            queue = broker.queue(f"from-{member.port}")
            await queue.create()
            await queue.send("x")
            assert [message.body for message in await queue.receive()] == ["x"]
            await queue.delete(force=True)


async def test_an_absent_cluster_is_named_with_every_node_that_was_asked(cluster: RedisCluster) -> None:
    with pytest.raises(
        errors.StoreUnavailable, match=r"redis\+cluster://127\.0\.0\.1:1,127\.0\.0\.1:2 \(the URL given\)"
    ):
        async with Broker("redis+cluster://127.0.0.1:1,127.0.0.1:2"):
            pass


async def test_a_plain_address_of_a_node_is_refused_with_the_one_to_write(cluster: RedisCluster) -> None:
    port = cluster.members[0].port
    wanted = f"is a node of a cluster; write redis+cluster://127.0.0.1:{port}, and more nodes after it"
    with pytest.raises(errors.StoreUnsuitable, match=re.escape(wanted)):
        async with Broker(f"redis://127.0.0.1:{port}"):
            pass


async def test_one_server_is_no_cluster(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    rule = r"is not a cluster .*; write redis:// instead"
    with Member(tmp_path / "r", port, {}), pytest.raises(errors.StoreUnsuitable, match=rule):
        async with Broker(f"redis+cluster://127.0.0.1:{port}"):
            pass


async def test_slots_that_nobody_serves_are_named(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, primaries=1, replicas=0, slots=16_000) as cluster:
        wanted = (
            r"does not serve all slots: 16000-16383 belong to no node, .* \(redis-cli --cluster fix 127\.0\.0\.1:\d+\)"
        )
        with pytest.raises(errors.StoreUnsuitable, match=wanted):
            async with Broker(cluster.url):
                pass


async def test_a_node_that_may_evict_is_named_also_where_it_is_a_replica(cluster: RedisCluster) -> None:
    replica = next(member for member in cluster.members if member not in cluster.serving())
    for member in (cluster.serving()[0], replica):
        member.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(
            errors.StoreUnsuitable, match=rf"127\.0\.0\.1:{member.port}/ has maxmemory-policy allkeys-lru"
        ):
            async with Broker(cluster.url):
                pass
        member.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_cluster_with_a_password_is_opened_with_it_and_denied_without(tmp_path: Path) -> None:
    options = {"requirepass": "secret", "masterauth": "secret"}
    with RedisCluster(tmp_path, replicas=0, options=options) as cluster:
        async with Broker(cluster.url.replace("://", "://:secret@")) as broker:
            assert await broker.queues() == []
        with pytest.raises(errors.StoreDenied, match="refused: Authentication required"):
            async with Broker(cluster.url):
                pass
