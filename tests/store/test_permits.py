"""Permits: never more unexpired ones than the limit, whatever several workers do in whatever order."""

from __future__ import annotations

import random

import pytest

from broker import Broker
from broker.store.values import Claim, Deferral
from tests.conftest import Clock
from tests.runtime.scene import eventually
from tests.store.audit import check_state
from tests.store.desk import LEASE_MS, Desk, members

LIMIT = 4


@pytest.fixture
async def desk(broker: Broker) -> Desk:
    opened = Desk(broker.core)
    await opened.configure({"limit": str(LIMIT), "max_crashes": "1000"})
    return opened


@pytest.mark.parametrize("seed", range(6))
async def test_permits_are_exact_under_interleaved_claims_of_two_workers(desk: Desk, clock: Clock, seed: int) -> None:
    chance = random.Random(seed)
    await desk.send(*[str(number) for number in range(60)])
    leases: list[tuple[Claim, str]] = []
    done = 0
    for step in range(150):
        token = f"{chance.choice(('w', 's'))}{chance.choice('ab')}{step}"
        match chance.choice(("claim", "claim", "finish", "defer", "extend", "late", "call")):
            case "claim":
                mode = "alone" if token[0] == "s" else "work"
                claim = await desk.claim(token, mode=mode, room=chance.randint(1, 5))  # type: ignore[arg-type]
                if claim.messages:
                    leases.append((claim, token))
            case "finish" if leases:
                claim, holder = leases.pop(chance.randrange(len(leases)))
                done += (await desk.finish(claim, holder)).settled
            case "defer" if leases:
                claim, holder = leases.pop(chance.randrange(len(leases)))
                deferrals = [Deferral(member, chance.choice((0, 1_000))) for member in members(claim, holder)]
                await desk.core.messages.defer(desk.resource, deferrals)
            case "extend" if leases:
                claim, holder = chance.choice(leases)
                if await _alive(desk, members(claim, holder)[0]):
                    await desk.core.messages.extend(desk.resource, members(claim, holder), lease_ms=LEASE_MS)
            case "late":
                await clock.advance(chance.choice((1, LEASE_MS / 2_000)))
            case "call":
                await desk.core.permits.take_of_function(desk.resource, [f"call{step}"], permit_ms=2_000)
        counts = await desk.counts()
        assert counts.running <= LIMIT
        assert counts.in_flight <= counts.running
        assert counts.total == 60 - done
    await check_state(desk.core, desk.resource)


async def _alive(desk: Desk, member: str) -> bool:
    score = await desk.core.runner.fetch("ZSCORE", desk.keys.permits, member)
    return score is not None


async def test_permits_of_a_mapping_are_its_own(desk: Desk) -> None:
    permits = desk.core.permits
    queue = desk.core.resource("queue", "orders")
    await Desk(desk.core, "queue", "orders").configure()
    one = await permits.take_of_mapping(queue, "f", ["a", "b", "c"], permit_ms=1_000, limit=2)
    other = await permits.take_of_mapping(queue, "g", ["a"], permit_ms=1_000, limit=2)
    assert (one.granted, other.granted) == (2, 1)
    await permits.release_of_mapping(queue, "f", ["a"])
    assert (await permits.take_of_mapping(queue, "f", ["c", "d"], permit_ms=1_000, limit=2)).granted == 1


async def test_who_went_without_a_permit_of_a_mapping_hears_of_those_of_that_mapping(desk: Desk) -> None:
    permits, queue = desk.core.permits, desk.core.resource("queue", "orders")
    orders = Desk(desk.core, "queue", "orders")
    await orders.configure()
    heard = list[str]()
    for function in ("f", "g", "ff"):

        def hear(data: bytes | None, function: str = function) -> None:
            if data is not None:
                heard.append(function)

        await desk.core.channels.listen({orders.keys.mapping_wake(function): hear})
        grant = await permits.take_of_mapping(queue, function, ["a", "b"], permit_ms=60_000, limit=1)
        assert grant.granted == 1
    await orders.send("x")
    await orders.finish(await orders.claim(), "w1")  # what concerns messages leaves them alone
    for function in ("g", "f", "f", "ff", "g"):
        await permits.release_of_mapping(queue, function, ["a"])
    await eventually(lambda: heard == ["g", "f", "ff"])


async def test_permit_that_ran_out_is_free_and_not_renewed(desk: Desk, clock: Clock) -> None:
    permits = desk.core.permits
    names = [str(number) for number in range(LIMIT)]
    assert (await permits.take_of_function(desk.resource, names, permit_ms=1_000)).granted == LIMIT
    refused = await permits.take_of_function(desk.resource, ["late"], permit_ms=1_000)
    assert refused.granted == 0
    assert refused.next_expiry_ms is not None
    await clock.advance(1)
    assert (await permits.take_of_function(desk.resource, ["late"], permit_ms=1_000)).granted == 1
    assert await desk.core.runner.run("renew_permits", (desk.keys.permits,), (5_000, *names, "late")) == [1, 2, 3, 4]


async def test_call_takes_a_permit_only_when_somebody_listens(desk: Desk) -> None:
    permits = desk.core.permits
    heard: list[bytes | None] = []
    await desk.core.channels.listen({desk.core.keys.inbox("here"): heard.append})
    call = {"permit_ms": 1_000, "notice": b"notice"}
    assert await permits.call(desk.resource, call_id="1", process="nowhere", **call) == "absent"  # type: ignore[arg-type]
    assert (await desk.counts()).running == 0
    for number in range(LIMIT):
        assert await permits.call(desk.resource, call_id=f"c{number}", process="here", **call) == "sent"  # type: ignore[arg-type]
    assert await permits.call(desk.resource, call_id="more", process="here", **call) == "throttled"  # type: ignore[arg-type]
    await desk.configure({"limit": "0"})
    assert await permits.call(desk.resource, call_id="more", process="here", **call) == "throttled"  # type: ignore[arg-type]
    await desk.configure({"paused": "1"})
    assert await permits.call(desk.resource, call_id="more", process="here", **call) == "paused"  # type: ignore[arg-type]


async def test_function_without_a_limit_needs_none(desk: Desk) -> None:
    await desk.configure()
    grant = await desk.core.permits.take_of_function(desk.resource, ["a"], permit_ms=1_000)
    assert (grant.status, grant.granted) == ("ok", None)
    await desk.send("a")
    await desk.claim()
    assert (await desk.counts()).running == 0
