"""A function's or a queue's messages at the level of the store, for tests of claims: one word for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from broker.core import Core
from broker.ids import random_token
from broker.names import Kind
from broker.records import pack, unpack
from broker.store.values import Claim, ClaimMode, Counts, Deferral, NewMessage, Settlement, Stored, member_of

LEASE_MS: Final = 20_000
WORKER: Final = "w1"
_FIELDS: Final = ("limit", "paused", "max_crashes", "max_receives", "retention_ms")


class Desk:
    """One resource, created with the settings that scripts read."""

    def __init__(self, core: Core, kind: Kind = "function", name: str = "f") -> None:
        self.core: Final = core
        self.resource: Final = core.resource(kind, name)
        self.keys: Final = core.keys.of(self.resource)

    async def configure(self, fields: Mapping[str, str] | None = None) -> None:
        """Creates the resource, or gives it other settings."""
        changes = dict.fromkeys(_FIELDS, "") | dict(fields or {})
        await self.core.directory.configure(self.resource, repr(changes).encode(), changes, mode="replace")

    async def send(self, *bodies: str, delay_ms: int | None = None) -> Stored:
        """Sends messages."""
        messages = [NewMessage(pack(body.encode()), len(body), delay_ms) for body in bodies]
        stored = await self.core.messages.send(self.resource, messages, token=random_token(), bucket="1")
        assert isinstance(stored, Stored)
        return stored

    async def claim(
        self,
        token: str = WORKER,
        *,
        mode: ClaimMode = "work",
        room: int = 100,
        lease_ms: int = LEASE_MS,
        max_bytes: int = 6_000_000,
        sent_before_ms: int | None = None,
        wake: bool = False,
    ) -> Claim:
        """Leases messages."""
        return await self.core.messages.claim(
            self.resource,
            token=token,
            mode=mode,
            room=room,
            lease_ms=lease_ms,
            max_bytes=max_bytes,
            sent_before_ms=sent_before_ms,
            wake=wake,
        )

    async def finish(self, claim: Claim, token: str = WORKER) -> Settlement:
        """Ends what a claim brought."""
        return await self.core.messages.finish(self.resource, members(claim, token), counter="done")

    async def defer(
        self, claim: Claim, token: str = WORKER, *, delay_ms: int = 0, adds_try: bool = False
    ) -> Settlement:
        """Gives back what a claim brought."""
        deferrals = [Deferral(member, delay_ms, adds_try=adds_try) for member in members(claim, token)]
        return await self.core.messages.defer(self.resource, deferrals)

    async def counts(self) -> Counts:
        """The counts, which must be there."""
        counts = await self.core.messages.counts(self.resource)
        assert counts is not None
        return counts


def members(claim: Claim, token: str) -> Sequence[str]:
    """The names of a claim's leases."""
    return [member_of(item.entry, token) for item in claim.messages]


def bodies(claim: Claim) -> list[str]:
    """What the claimed messages say."""
    return [unpack(item.blob)[1].decode() for item in claim.messages]
