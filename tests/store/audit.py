"""What must hold of a resource's state in Redis, read from its keys and checked as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from broker.core import Core
from broker.names import Resource

Place: TypeAlias = Literal["fresh", "leased", "waiting", "delayed", "suspect"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Every message by entry, with its place and its body, and what is to be sent on."""

    places: dict[str, Place]
    bodies: dict[str, bytes]
    leases: dict[str, float]
    outgoing: dict[str, bytes]
    outbox: set[str]
    left_over: set[str]

    def entries(self, place: Place) -> set[str]:
        """The entries in one place."""
        return {entry for entry, found in self.places.items() if found == place}


async def read_state(core: Core, resource: Resource) -> State:
    """The state at one moment; fails if a message has two leases or two places."""
    k = core.keys.of(resource)
    cursor = await core.runner.fetch("HGET", k.meta, "cursor") or b"0-0"
    ready, bodies, leases, waiting, delayed, suspects, facts, notes, outbox, outgoing = await at_once(
        core,
        ("XRANGE", k.ready, "-", "+"),
        ("HGETALL", k.bodies),
        ("ZRANGE", k.leases, 0, -1, "WITHSCORES"),
        ("ZRANGE", k.waiting, 0, -1),
        ("ZRANGE", k.delayed, 0, -1),
        ("ZRANGE", k.suspects, 0, -1),
        ("HKEYS", k.facts),
        ("HKEYS", k.notes),
        ("ZRANGE", k.outbox, 0, -1),
        ("HGETALL", k.outgoing),
    )
    in_stream = {entry.decode(): fields[1] for entry, fields in ready}
    in_hash = {bodies[i].decode(): bodies[i + 1] for i in range(0, len(bodies), 2)}
    places: list[tuple[str, Place]] = [(entry, "fresh") for entry in in_stream if _position(entry) > _position(cursor)]
    places += [(leases[i].decode().partition("|")[0], "leased") for i in range(0, len(leases), 2)]
    places += [(entry.decode(), "waiting") for entry in waiting]
    places += [(entry.decode(), "delayed") for entry in delayed]
    places += [(entry.decode(), "suspect") for entry in suspects]
    twice = {entry for entry, number in Counter(entry for entry, _ in places).items() if number > 1}
    assert not twice, f"in two places: {[pair for pair in places if pair[0] in twice]}"
    by_entry = dict(places)
    records = {outgoing[i].decode(): outgoing[i + 1] for i in range(0, len(outgoing), 2)}
    known = set(in_stream) | set(in_hash)
    left_over = {f"copy {entry}" for entry in in_stream.keys() & in_hash.keys()}
    left_over |= {f"stranded {entry}" for entry in known - by_entry.keys()}
    left_over |= {f"without body {entry}" for entry in by_entry.keys() - known}
    left_over |= {
        f"{by_entry[entry]} in stream {entry}" for entry in by_entry.keys() - in_hash.keys() - in_stream.keys()
    }
    # Facts come before their message; what is ahead of the cursor may still be on its way, until the cursor passes.
    passed = {entry.decode() for entry in {*facts, *notes} if _position(entry) <= _position(cursor)}
    left_over |= {f"facts {entry}" for entry in passed - known}
    # A name without its record is dropped by whoever takes it; a record without its name would stay for ever.
    left_over |= {f"outgoing {name}" for name in records.keys() - {name.decode() for name in outbox}}
    return State(
        places=by_entry,
        bodies=in_stream | in_hash,
        leases={leases[i].decode(): float(leases[i + 1]) for i in range(0, len(leases), 2)},
        outgoing=records,
        outbox={name.decode() for name in outbox},
        left_over=left_over,
    )


async def at_once(core: Core, *commands: Sequence[str | bytes | int]) -> list[Any]:
    """The raw replies of several commands, all as of the same moment."""
    async with core.runner.client.pipeline(transaction=True) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute()


async def check_state(core: Core, resource: Resource) -> State:
    """The state; fails unless every message has exactly one place, nothing is left over and the counts are exact."""
    state = await read_state(core, resource)
    assert not state.left_over, state.left_over
    counts = await core.messages.counts(resource)
    assert counts is not None
    assert counts.total == len(state.places), (counts, state.places)
    assert counts.set_apart == len(state.entries("suspect"))
    assert counts.outbox == len(state.outbox)
    return state


def _position(entry: str | bytes) -> tuple[int, int]:
    milliseconds, _, sequence = (entry.decode() if isinstance(entry, bytes) else entry).partition("-")
    return int(milliseconds), int(sequence)
