"""R9: a network splits between the nodes of a cluster, with producers on both sides.

An old primary and producers are cut off from everybody else, who elect its replica. The old one goes on accepting until
it notices that it is alone, and forgets it all when the sides come together again. Some resources require
``replica:1``.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.load import CONFIRMED, OUTLASTING_MS, Load, under_load
from tests.faults.scene import SEED, judged, report, sized
from tests.faults.split_network import SplitNetwork, why_not
from tests.runtime.scene import eventually
from tests.servers import NODE_TIMEOUT_MS, Member, RedisCluster, until

ROUNDS: Final = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", sized(1, 3)))
SPLIT_S: Final = (5.0, 10.0)
SIDES: Final = {"apart": ["10.231.0.11"], "most": [f"10.231.0.{number}" for number in range(21, 26)]}
HOSTS: Final = [*SIDES["most"][:2], *SIDES["apart"], *SIDES["most"][2:]]
"""Three primaries, then their replicas in the same order. The third primary, of four of the load's nine resources, two
of each kind, is apart."""
APART: Final = 2
PREFIX: Final = "r9"
MIN_REPLICAS: Final = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def network() -> Iterator[SplitNetwork]:
    """Two sides, together."""
    with SplitNetwork(SIDES) as running:
        yield running


class Apart:
    """Producers on the side of the old primary."""

    def __init__(self, network: SplitNetwork, url: str) -> None:
        self._url: Final = url
        self.producing: Final = threading.Event()
        self._enough: Final = threading.Event()
        self._answer: Final[Future[Load]] = network.start_loop("apart", self._produce)

    async def _produce(self) -> Load:
        async with under_load(self._url, PREFIX, confirmed=CONFIRMED, side="apart", workers=0) as load:
            await eventually(lambda: load.accepted, what="something is accepted")
            self.producing.set()
            await asyncio.to_thread(self._enough.wait)
            return load

    async def ended(self) -> Load:
        """What they have sent."""
        self._enough.set()
        return await asyncio.wrap_future(self._answer)


def make_primary(cluster: RedisCluster, member: Member) -> None:
    """The one that is going to be apart serves its slots again."""
    if member not in cluster.serving():
        member.ask("CLUSTER", "FAILOVER")
        until(lambda: member in cluster.serving(), "the node serves again")
        cluster.until_whole()


class Splits:
    """All rounds, on the side of most, where the workers are."""

    def __init__(self, network: SplitNetwork, cluster: RedisCluster, server: str) -> None:
        self._network, self._cluster, self._server = network, cluster, server
        self._chance: Final = random.Random(SEED)
        self._seconds: Final[list[float]] = []

    async def run(self) -> None:
        async with under_load(
            self._cluster.url, PREFIX, confirmed=CONFIRMED, long=True, workers=2, lease_ms=OUTLASTING_MS
        ) as load:
            apart = Apart(self._network, self._cluster.url)
            await asyncio.to_thread(apart.producing.wait)
            for _ in range(ROUNDS):
                await self._split(load)
            other = await apart.ended()
            await load.emptied()
        self._judge(load, other)

    async def _split(self, load: Load) -> None:
        await asyncio.to_thread(make_primary, self._cluster, self._cluster.members[APART])
        await load.flowing()
        seconds = self._chance.uniform(*SPLIT_S)
        began = time.monotonic()
        await asyncio.to_thread(self._network.cut, "apart")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._network.join, "apart")
        await asyncio.to_thread(self._cluster.until_whole)
        load.doubt(began)
        self._seconds.append(seconds)
        await load.flowing()

    def _judge(self, load: Load, other: Load) -> None:
        here, there = load.lost_of(load.accepted), load.lost_of(other.accepted)
        cuts = [since for since, _ in load.doubtful]
        meanwhile = [when for when in other.accepted.values() if any(s <= when <= e for s, e in load.doubtful)]
        late = [min(at - cut for cut in cuts if cut <= at) for name in there.events for at in [other.accepted[name]]]
        report(
            f"R9 {self._server}",
            seed=SEED,
            rounds=ROUNDS,
            split_for_s=", ".join(f"{each:.1f}" for each in self._seconds),
            node_timeout_s=NODE_TIMEOUT_MS / 1_000,
            accepted=len(load.accepted) + len(other.accepted),
            accepted_apart_meanwhile=len(meanwhile),
            lost=len(here.events) + len(there.events),
            lost_apart=len(there.events),
            lost_with_replica_1=len(here.confirmed) + len(there.confirmed),
            last_lost_s_after_the_split=max(late, default=1.0) - 1.0,
            ran_twice_at_a_time=len(load.overlaps),
            refused=load.refused + other.refused,
        )
        faults = {
            "lost with replica:1": [*here.confirmed, *there.confirmed],
            "lost without a reason": [*here.without_reason, *there.without_reason],
            "ran twice at a time without a reason": load.twice_without_reason(),
        }
        judged(**{name: len(events) for name, events in faults.items()})
        assert not any(faults.values()), faults


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["in memory", "min-replicas-to-write 1"])
def test_an_old_primary_is_cut_off_with_producers(network: SplitNetwork, tmp_path: Path, server: str) -> None:
    def start(member: Member) -> None:
        side = next(side for side, addresses in SIDES.items() if member.host in addresses)
        network.call(side, member.start)

    options = {"cluster-require-full-coverage": "no"} | (MIN_REPLICAS if server.startswith("min") else {})
    with RedisCluster(tmp_path, options=options, hosts=HOSTS, start=start) as cluster:
        network.start_loop("most", Splits(network, cluster, server).run).result()
