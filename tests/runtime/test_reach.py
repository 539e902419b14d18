"""How much a claim asks for, by how long the ones before took."""

from __future__ import annotations

from broker.limits import CLAIM_BYTES
from broker.store.values import Claim, Claimed
from runtime.reach import Reach

LEASE_MS = 8_000
IN_TIME_S = 1.0


def claim(size: int) -> Claim:
    return Claim("ok", messages=[Claimed("1-0", b"x" * size, b"")])


def test_claims_that_are_filled_in_time_grow_to_the_limit() -> None:
    reach, asked = Reach(LEASE_MS), list[int]()
    for _ in range(12):
        asked.append(reach.bytes)
        reach.took(claim(reach.bytes), IN_TIME_S)
    assert asked == [min(16 * 1024 * 2**n, CLAIM_BYTES) for n in range(12)]


def test_one_that_is_not_filled_says_nothing_of_a_larger_one() -> None:
    reach = Reach(LEASE_MS)
    before = reach.bytes
    reach.took(claim(before - 1), 0.001)
    assert reach.bytes == before


def test_one_that_comes_late_sinks_to_what_would_have_come_in_time() -> None:
    reach = Reach(LEASE_MS)
    reach.took(claim(16_000), 4 * IN_TIME_S)
    assert reach.bytes == 4_000
    reach.took(claim(10), 60.0)
    assert reach.bytes == 1_024, "never nothing"
    reach.took(claim(reach.bytes), IN_TIME_S)
    assert reach.bytes == 2_048
    reach.took(claim(CLAIM_BYTES), 2 * IN_TIME_S)  # one large message
    assert reach.bytes == 2_048
