"""A node is lost with nobody to take over: what is on the others goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.settings import Settings
from broker.store.slots import slot_of
from runtime import App, Context
from tests.runtime.conftest import logs  # noqa: F401 - a fixture
from tests.runtime.scene import eventually, lines, serving
from tests.servers import RedisCluster

LEASE_MS = 1_500


@pytest.fixture
def bare_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries, no replicas; what is on two of them is served without the third."""
    options = {"cluster-require-full-coverage": "no"}
    with RedisCluster(tmp_path, replicas=0, options=options) as running:
        yield running


async def test_functions_at_other_nodes_are_polled_and_their_leases_renewed(
    bare_cluster: RedisCluster,
    prefix: str,
    logs: list[MutableMapping[str, Any]],  # noqa: F811 - the fixture
) -> None:
    settings = Settings(prefix=prefix, lease_ms=LEASE_MS)
    app, gate, began = App(), asyncio.Event(), list[tuple[str, Any]]()

    def function(name: str) -> None:
        @app.function(name=name, timeout=600)
        async def handle(event: Any, context: Context) -> None:
            began.append((name, event))
            if event == "long":
                await gate.wait()

    async with Broker(bare_cluster.url, settings=settings) as broker:
        core = broker.core
        names = [f"f{number}" for number in range(30)]
        port_of = {name: _port(broker, core.keys.of(core.resource("function", name)).meta) for name in names}
        needed = {_port(broker, core.keys.directory("functions")), _port(broker, core.keys.workers("live"))}
        lost = next(name for name in names if port_of[name] not in needed)
        kept = next(name for name in names if port_of[name] != port_of[lost])
        function(lost)
        function(kept)
        async with serving(app, bare_cluster.url, settings):
            for name in (lost, kept):
                await broker.invoke(name, "long")
            await eventually(lambda: len(began) == 2, what="both run")
            leases = core.keys.of(core.resource("function", kept)).leases
            await asyncio.to_thread(bare_cluster.at(port_of[lost]).kill)
            await eventually(lambda: lines(logs, "lease_renewal_failed"), what="the loss is noticed")
            member, before = await core.runner.fetch("ZRANGE", leases, 0, 0, "WITHSCORES")

            async def renewed() -> bool:
                return float(await core.runner.fetch("ZSCORE", leases, member)) > float(before)

            await eventually(renewed, what="the lease at another node is renewed")
            await broker.invoke(kept, "short")
            await eventually(lambda: (kept, "short") in began, what="the other function is polled")
            gate.set()
            await asyncio.to_thread(bare_cluster.at(port_of[lost]).start)
    assert began.count((kept, "long")) == 1


def _port(broker: Broker, key: str) -> int:
    place = broker.core.runner.link.place_of(key)
    assert place is not None, slot_of(key)
    return place[1]
