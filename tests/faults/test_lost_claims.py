"""A claim whose reply was lost is given back whole, whatever else happens to the leases meanwhile."""

from __future__ import annotations

import pytest

from broker import Broker
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.store.values import member_of

LEASED = 1_500
PAGE = 1_000


@pytest.mark.parametrize("meanwhile", ["settled", "renewed"])
async def test_no_lease_of_a_lost_claim_is_passed_over_while_others_come_and_go(broker: Broker, meanwhile: str) -> None:
    """It is looked for page by page; between two pages the leases before it go."""
    resource = broker.core.resource("function", "work")
    store, keys = broker.core.messages, broker.core.keys.of(resource)
    await register_function(broker.core, "work", FunctionSettings())
    await broker.invoke_many("work", range(2 * LEASED))
    kept = await store.claim(resource, token="wkept", lease_ms=60_000, room=LEASED, mode="work")
    lost = await store.claim(resource, token="wlost", lease_ms=60_000, room=LEASED, mode="work")
    assert len(kept.messages) == len(lost.messages) == LEASED

    script_keys = (keys.ready, keys.leases, keys.waiting, keys.bodies, keys.facts, keys.permits, keys.meta)
    released, seen, score, member = await broker.core.runner.run(
        "release_claim", script_keys, ("wlost", PAGE, keys.wake, "", "")
    )
    assert (released, seen) == (0, PAGE)
    members = [member_of(claimed.entry, "wkept") for claimed in kept.messages][:PAGE]
    if meanwhile == "settled":
        assert (await store.finish(resource, members, counter="done")).settled == PAGE
    else:
        assert await store.extend(resource, members, lease_ms=120_000) == []
    while seen == PAGE:
        found, seen, score, member = await broker.core.runner.run(
            "release_claim", script_keys, ("wlost", PAGE, keys.wake, score, member)
        )
        released += found
    assert released == LEASED
