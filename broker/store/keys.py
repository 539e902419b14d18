"""How every key is spelled. One resource, one hash tag, so that all its keys share a cluster slot."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Final

import msgspec

from broker.names import Resource

CLOCK_OFFSET_KEYS: Final = tuple(f"penstock:test-clock:{{{tag}}}" for tag in "abc")
"""Read only by a test server's scripts: milliseconds added to its clock, or, behind a '=', the time at which it
stands. On a test cluster of three primaries, each of these keys is on another one (slots 15495, 3300 and 7365); all
have the same value."""


_CACHED: Final = 4_096  # of about 5 KB each, of all keyspaces together: clients make up names, accounts and regions


class ResourceKeys(msgspec.Struct, frozen=True):
    """The keys of one resource, and its channels ``wake`` and ``ended``."""

    ready: str
    leases: str
    waiting: str
    delayed: str
    suspects: str
    bodies: str
    facts: str
    notes: str
    meta: str
    outbox: str
    outgoing: str
    permits: str
    seen: str
    groups: str
    order: str
    open: str
    blocked: str
    holders: str
    accepted_even: str
    accepted_odd: str
    named: str
    ended_1: str
    ended_2: str
    awaited: str
    gone: str
    moves: str
    log: str
    repair_lock: str
    wake: str
    ended: str
    base: str

    def tokens(self, bucket: str) -> str:
        """Where the tokens of one sender's minute are kept."""
        return f"{self.base}tokens:{bucket}"

    def attempt(self, attempt_id: str) -> str:
        """What a receive from a FIFO queue brought that may be repeated under the same id."""
        return f"{self.base}attempt:{attempt_id}"

    def once(self, digest: str) -> str:
        """What has run, or runs, once under a key of this function; it expires by itself."""
        return f"{self.base}once:{digest}"

    @property
    def probe(self) -> str:
        """Written, and gone at once, to see whether a write is confirmed as it must be."""
        return f"{self.base}probe"

    def mapping_permits(self, function: str) -> str:
        """The running batches of the mapping from this queue to that function."""
        return f"{self.base}mapping:{function}"

    def mapping_wake(self, function: str) -> str:
        """The channel that tells of permits of that mapping given back; not the queue's, which tells of messages."""
        return f"{self.base}mapping-wake:{function}"

    def every(self) -> tuple[str, ...]:
        """All keys that live as long as the resource (tokens expire by themselves)."""
        return (
            *(self.meta, self.bodies, self.ready, self.outbox, self.leases, self.waiting, self.delayed),
            *(self.suspects, self.facts, self.notes, self.outgoing, self.seen, self.log),
            *((self.permits,) if self.permits.startswith(self.base) else ()),
            *(self.groups, self.order, self.open, self.blocked, self.holders, self.accepted_even),
            *(self.accepted_odd, self.moves, self.named, self.ended_1, self.ended_2, self.awaited),
        )

    def held(self) -> tuple[str, ...]:
        """The keys of its messages, without settings, remembered ids and what is to be sent on."""
        return (
            *(self.ready, self.bodies, self.leases, self.waiting, self.delayed, self.suspects, self.facts, self.notes),
            *(self.groups, self.order, self.open, self.blocked, self.holders, self.named),
        )

    def fifo(self) -> tuple[str, ...]:
        """What the scripts of FIFO queues work on, in their order."""
        return (
            *(self.meta, self.bodies, self.groups, self.order, self.open, self.blocked, self.suspects, self.leases),
            *(self.holders, self.waiting, self.facts, self.notes),
        )


@lru_cache(maxsize=_CACHED)
def _keys_of(prefix: str, resource: Resource) -> ResourceKeys:
    slot = f"{prefix}:{{{resource.slot}}}:"
    base = f"{slot}@{resource.qualifier}:" if resource.qualifier else slot
    names = [name for name in ResourceKeys.__struct_fields__ if name not in {"base", "permits"}]
    # Versions and aliases run under the limit of their function: one set of permits holds those of them all.
    return ResourceKeys(**{name: base + name.replace("_", "-") for name in names}, base=base, permits=f"{slot}permits")


class Keyspace:
    """Spells the keys under one prefix. The prefix stands outside the braces."""

    def __init__(self, prefix: str, account: str, region: str) -> None:
        self.prefix: Final = prefix
        self._scope: Final = f"{account}:{region}"
        self.of: Final = partial(_keys_of, prefix)

    def directory(self, what: str) -> str:
        """The hash that lists one kind of resource of this account and region."""
        return f"{self.prefix}:{{directory:{self._scope}}}:{what}"

    def workers(self, what: str) -> str:
        """What is known of live workers of this account and region."""
        return f"{self.prefix}:{{workers:{self._scope}}}:{what}"

    def upkeep(self, what: str) -> str:
        """What the upkeep of all accounts and regions shares: which there are, what is to be looked after."""
        return f"{self.prefix}:{{upkeep}}:{what}"

    @property
    def hints(self) -> str:
        """The channel on which every upkeep hears of queues to look after."""
        return f"{self.prefix}:upkeep"

    @property
    def mappings_channel(self) -> str:
        """The channel on which workers hear the names of mappings that came, changed or went."""
        return f"{self.prefix}:mappings:{self._scope}"

    @property
    def versions_channel(self) -> str:
        """The channel on which workers hear the names of functions whose versions or aliases changed, or whose newest
        build."""
        return f"{self.prefix}:versions:{self._scope}"

    def inbox(self, process: str) -> str:
        """The channel on which one process hears of calls (a worker) or replies (a caller)."""
        return f"{self.prefix}:inbox:{process}"

    def parcel(self, call_id: str) -> str:
        """Where a payload too large for a channel waits; it expires by itself."""
        return f"{self.prefix}:{{parcel:{call_id}}}"
