"""R8: primaries are killed, stopped and replaced, and slots move, again and again under load.

Some of the resources require ``replica:1``, so each round shows both: what is lost where Redis answers before its
replicas have a write, and that nothing is where the answer waits for one. In a planned failover under Sentinels the
replica that confirms may be another than the one that takes over: there all are required to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pytest

from broker.store.slots import slot_of
from tests.cluster.load import CONFIRMED, OUTLASTING_MS, Load, under_load
from tests.faults.scene import SEED, judged, report, sized
from tests.servers import NODE_TIMEOUT_MS, Member, RedisCluster, SentinelGroup, until

Fault: TypeAlias = Literal["killed", "stopped"]

ROUNDS: Final = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", sized(2, 20)))
STOPPED_S: Final = 5.0
FORGOTTEN_S: Final = 6.0
LEFT_S: Final = 1.5
"""A primary that was replaced as planned is left within it, though it goes on answering."""
BOUND_S: Final = NODE_TIMEOUT_MS / 1_000 + 3.0
"""How long nobody is served at most, half of the times: one election may take a second turn."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries with a replica each."""
    with RedisCluster(tmp_path, options={"cluster-require-full-coverage": "no"}) as running:
        yield running


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    """One primary, two replicas, three Sentinels."""
    with SentinelGroup(tmp_path) as running:
        yield running


@dataclass
class Rounds:
    """What happened in all rounds of one kind."""

    load: Load
    replaced: list[float] = field(default_factory=list)
    """Seconds until another server said that it serves."""
    accepting: list[float] = field(default_factory=list)
    """The longest pause between two events that were accepted, of whatever resource without required durability."""
    running: list[float] = field(default_factory=list)
    """The same between two that began to run."""
    confirming: list[float] = field(default_factory=list)
    """The same as accepting, of resources that require ``replica:1``."""

    @property
    def plain(self) -> list[str]:
        """The resources that require nothing."""
        return [name for name in self.load.resources if name not in self.load.confirmed]

    def end(self, since: float) -> None:
        """A round is over."""
        now = time.monotonic()
        accepting, running = self.load.pauses_s(self.plain, since, now)
        self.accepting.append(accepting)
        self.running.append(running)
        self.confirming.append(self.load.pauses_s(self.load.confirmed, since, now)[0])

    async def judge(self, kind: str, topology: str) -> None:
        """Waits for what is left, tells the figures, and holds the promises against them."""
        await self.load.emptied()
        lost = self.load.lost_of(self.load.accepted)
        figures: dict[str, object] = {
            "seed": SEED,
            "topology": topology,
            "rounds": len(self.accepting),
            "accepted": len(self.load.accepted),
            "lost": len(lost.events),
            "ran_twice_at_a_time": len(self.load.overlaps),
            "refused": self.load.refused,
            "node_timeout_s": NODE_TIMEOUT_MS / 1_000,
        }
        for name, values in (
            ("replaced_after", self.replaced),
            ("outage", self.accepting),
            ("nothing_ran_for", self.running),
            (f"outage_with_{self.load.level}", self.confirming),
        ):
            if values:
                figures |= {f"{name}_s_median": statistics.median(values), f"{name}_s_most": max(values)}
        report(f"R8 {kind}", **figures)
        faults = {
            f"lost with {self.load.level}": lost.confirmed,
            "lost without a reason": lost.without_reason,
            "ran twice at a time without a reason": self.load.twice_without_reason(),
        }
        judged(**{name: len(events) for name, events in faults.items()})
        assert not any(faults.values()), faults
        assert statistics.median(self.accepting) < BOUND_S


async def break_down(member: Member, fault: Fault) -> None:
    """Takes a server away."""
    if fault == "killed":
        await asyncio.to_thread(member.kill)
    else:
        member.signal(signal.SIGSTOP)


async def replace(
    rounds: Rounds, fault: Fault, primary: Member, is_replaced: Callable[[], bool], heal: Callable[[], None]
) -> None:
    """One round: a primary goes away, another takes over, and it comes back."""
    began = time.monotonic()
    await break_down(primary, fault)
    await asyncio.to_thread(until, is_replaced, "another server takes over")
    rounds.replaced.append(time.monotonic() - began)
    rounds.load.doubt(began)
    await rounds.load.flowing(of=rounds.plain)
    if fault == "stopped":
        await asyncio.sleep(began + STOPPED_S - time.monotonic())
    await asyncio.to_thread(heal)
    await rounds.load.flowing()
    rounds.end(began)


def is_replaced(cluster: RedisCluster, slot: int, primary: Member) -> bool:
    """Whether the other nodes know another one that serves a slot."""
    return cluster.primary_of(slot, without=primary) is not primary


def is_succeeded(group: SentinelGroup, primary: Member) -> bool:
    """Whether a Sentinel names another primary."""
    return group.primary() is not primary


def slots_of(load: Load) -> list[int]:
    """The slots of all resources, and of the lists that all processes read."""
    core = load.broker.core
    names = [
        core.keys.of(core.resource("function" if name.startswith("f") else "queue", name)).meta
        for name in load.resources
    ]
    return [slot_of(name) for name in (*names, core.keys.directory("mappings"), core.keys.workers("live"))]


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_primaries_of_a_cluster_go_away(cluster: RedisCluster, fault: Fault) -> None:
    async with under_load(cluster.url, "r8", confirmed=CONFIRMED, long=True, lease_ms=OUTLASTING_MS) as load:
        rounds = Rounds(load)
        for number in range(ROUNDS):
            slot = slots_of(load)[number % len(load.resources)]
            primary = await asyncio.to_thread(cluster.primary_of, slot)
            await replace(rounds, fault, primary, partial(is_replaced, cluster, slot, primary), cluster.heal)
        await rounds.judge(f"a primary of a cluster is {fault}", "cluster 3+3")


def take_over(replica: Member, is_done: Callable[[], bool]) -> None:
    """Lets a replica take over as planned. Redis forgets that when it has not come about within five seconds."""
    asked_at = float("-inf")

    def is_done_or_asked_again() -> bool:
        nonlocal asked_at
        if is_done():
            return True
        if time.monotonic() - asked_at > FORGOTTEN_S:
            asked_at = time.monotonic()
            replica.ask("CLUSTER", "FAILOVER")
        return False

    until(is_done_or_asked_again, "the replica takes over")


async def test_primaries_of_a_cluster_are_replaced_as_planned(cluster: RedisCluster) -> None:
    async with under_load(cluster.url, "r8", confirmed=CONFIRMED, long=True, lease_ms=OUTLASTING_MS) as load:
        rounds = Rounds(load)
        for number in range(ROUNDS):
            slot = slots_of(load)[number % len(load.resources)]
            primary = await asyncio.to_thread(cluster.primary_of, slot)
            replica = await asyncio.to_thread(cluster.replica_of, primary)
            began = time.monotonic()
            await asyncio.to_thread(take_over, replica, partial(is_replaced, cluster, slot, primary))
            rounds.replaced.append(time.monotonic() - began)
            await asyncio.to_thread(cluster.heal)
            await load.flowing()
            rounds.end(began)
        await rounds.judge("planned failover in a cluster", "cluster 3+3")


async def test_slots_of_a_cluster_move(cluster: RedisCluster) -> None:
    def move(slot: int) -> None:
        source = cluster.primary_of(slot)
        target = next(member for member in cluster.serving() if member is not source)
        for _ in cluster.move_slot(slot, target):
            pass

    async with under_load(cluster.url, "r8", confirmed=CONFIRMED, long=True, lease_ms=OUTLASTING_MS) as load:
        rounds = Rounds(load)
        for _ in range(ROUNDS):
            began = time.monotonic()
            for slot in slots_of(load):
                await asyncio.to_thread(move, slot)
            await load.flowing()
            rounds.end(began)
        await rounds.judge(f"{len(slots_of(load))} slots of a cluster move a round", "cluster 3+3")


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_primaries_that_sentinels_watch_go_away(group: SentinelGroup, fault: Fault) -> None:
    async with under_load(group.url, "r8", confirmed=CONFIRMED, long=True, lease_ms=OUTLASTING_MS) as load:
        rounds = Rounds(load)
        for _ in range(ROUNDS):
            primary = await asyncio.to_thread(group.primary)
            await replace(rounds, fault, primary, partial(is_succeeded, group, primary), group.heal)
        await rounds.judge(f"a primary under Sentinels is {fault}", "Sentinel 1+2, 3 sentinels")


async def test_primaries_that_sentinels_watch_are_replaced_as_planned(group: SentinelGroup) -> None:
    async with under_load(
        group.url, "r8", confirmed=CONFIRMED, level="replica:2", long=True, lease_ms=OUTLASTING_MS
    ) as load:
        rounds = Rounds(load)
        for _ in range(ROUNDS):
            primary = await asyncio.to_thread(group.primary)
            began = time.monotonic()
            await asyncio.to_thread(group.fail_over)
            await asyncio.to_thread(until, partial(is_succeeded, group, primary), "a replica takes over")
            rounds.replaced.append(time.monotonic() - began)
            # Sentinels do not wait until the replica has everything, as a cluster does, and tell the old primary late.
            await asyncio.sleep(LEFT_S)
            load.doubt(began)
            await asyncio.sleep(LEFT_S)
            await asyncio.to_thread(group.heal)
            await load.flowing()
            rounds.end(began)
        await rounds.judge("planned failover under Sentinels", "Sentinel 1+2, 3 sentinels")
