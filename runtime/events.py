"""One event of a function, as a claim has brought it."""

from __future__ import annotations

import time

from broker.ids import message_id
from broker.records import FIRST_FACTS, Facts, Header, unpack
from broker.store.values import Claim, Claimed
from runtime.tracing import CallTrace


class Event:
    """One leased event of the function."""

    __slots__ = ("body", "facts", "fence", "header", "identity", "member", "sent_at_s", "sent_ms", "trace")

    def __init__(self, claimed: Claimed, member: str, claim: Claim, claimed_at_s: float) -> None:
        self.header: Header
        self.header, self.body = unpack(claimed.blob)
        self.member = member
        self.facts: Facts = claimed.facts if claimed.facts_text else FIRST_FACTS
        self.identity: str | tuple[str, int] = self.header.id or (claimed.entry, claim.nonce)
        self.sent_ms = self.facts.sent_ms or int(claimed.entry[: claimed.entry.index("-")])
        self.sent_at_s = claimed_at_s - (claim.now_ms - self.sent_ms) / 1000
        self.fence = claim.fence
        self.trace: CallTrace | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The leases that its call depends on."""
        return (self.member,)

    @property
    def request_id(self) -> str:
        """The caller's own id, or the one that the entry gives."""
        return self.identity if isinstance(self.identity, str) else message_id(*self.identity)

    @property
    def own_id(self) -> str:
        """The caller's own id, '' where it gave none."""
        return self.identity if isinstance(self.identity, str) else ""

    def age_s(self) -> float:
        """Seconds since it was accepted, by Redis's clock at the claim plus ours since then."""
        return time.monotonic() - self.sent_at_s

    def redis_now_ms(self) -> int:
        """Redis's clock now, as well as this process knows it."""
        return self.sent_ms + int(self.age_s() * 1000)
