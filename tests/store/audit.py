"""What must hold of a resource's state in Redis, read from its keys and checked as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from broker.core import Core
from broker.names import Resource
from broker.store.connection import Client
from broker.store.links import SingleLink
from broker.store.slots import slot_of

Place: TypeAlias = Literal["fresh", "leased", "waiting", "delayed", "suspect", "in turn"]


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
    return await read_groups(core, resource) if resource.fifo else await _read_standard(core, resource)


async def _read_standard(core: Core, resource: Resource) -> State:
    k = core.keys.of(resource)
    cursor = await core.runner.fetch("HGET", k.meta, "cursor") or b"0-0"
    (
        ready,
        bodies,
        leases,
        waiting,
        delayed,
        suspects,
        facts,
        notes,
        outbox,
        outgoing,
        order,
        groups,
        turns,
    ) = await at_once(
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
        ("ZRANGE", k.order, 0, -1),
        ("HGETALL", k.groups),
        ("ZRANGE", k.open, 0, -1),
    )
    in_stream = {entry.decode(): fields[1] for entry, fields in ready}
    in_hash = {bodies[i].decode(): bodies[i + 1] for i in range(0, len(bodies), 2)}
    places: list[tuple[str, Place]] = [(entry, "fresh") for entry in in_stream if _position(entry) > _position(cursor)]
    places += [(leases[i].decode().partition("|")[0], "leased") for i in range(0, len(leases), 2)]
    places += [(entry.decode(), "waiting") for entry in waiting]
    places += [(entry.decode(), "delayed") for entry in delayed]
    places += [(entry.decode(), "suspect") for entry in suspects]
    in_turn = [tuple(member.split(b" ")) for member in order]
    places += [(entry.decode(), "in turn") for _, entry in in_turn]
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
    group_of = {groups[i]: groups[i + 1] for i in range(0, len(groups), 2)}
    left_over |= {f"group of {entry.decode()}" for entry in group_of if entry.decode() not in known}
    left_over |= {f"in another group {entry.decode()}" for group, entry in in_turn if group_of.get(entry) != group}
    left_over |= {f"without a turn {group.decode()}" for group, _ in in_turn if group not in turns}
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


async def read_groups(core: Core, queue: Resource) -> State:
    """The state of a FIFO queue at one moment; fails if a message has two leases."""
    k = core.keys.of(queue)
    sorted_sets = (k.order, k.open, k.blocked, k.suspects, k.waiting, k.delayed, k.outbox, k.leases)
    hashes = (k.bodies, k.groups, k.holders, k.facts, k.notes, k.outgoing)
    replies = await at_once(
        core,
        *(("ZRANGE", key, 0, -1, "WITHSCORES") for key in sorted_sets),
        *(("HGETALL", key) for key in hashes),
    )
    plain = [{reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)} for reply in replies]
    order, opened, blocked, suspects, waiting, delayed, outbox, leases = plain[: len(sorted_sets)]
    bodies, groups, holders, facts, notes, outgoing = plain[len(sorted_sets) :]
    token_of = dict(member.split("|") for member in leases)
    assert len(token_of) == len(leases), f"two leases: {sorted(leases)}"
    group_of = {entry: group for group, entry in (member.split(" ") for member in order)}
    heads: dict[str, str] = {}
    for entry in sorted(group_of):
        heads.setdefault(group_of[entry], entry)
    left_over = {f"no place {entry}" for entry in bodies.keys() - group_of.keys()}
    names = {"order": group_of, "waiting": waiting, "delayed": delayed, "groups": groups, "facts": facts}
    for what, entries in (names | {"notes": notes, "leases": token_of, "holders": holders}).items():
        left_over |= {f"{what} {entry}" for entry in entries if entry not in bodies}
    left_over |= {f"group {entry}" for entry in group_of if groups.get(entry) != group_of[entry].encode()}
    left_over |= {f"lease {entry}" for entry in token_of.keys() | holders.keys() if not _held(entry, token_of, holders)}
    left_over |= {f"leased and waiting {entry}" for entry in token_of.keys() & waiting.keys()}
    sets = Counter(group for found in (opened, blocked, suspects) for group in found)
    left_over |= {f"group in {sets[group]} sets: {group}" for group in sets.keys() | heads.keys() if sets[group] != 1}
    left_over |= {f"empty group {group}" for group in sets if group not in heads}
    for group, score in blocked.items():
        head = heads.get(group, "")
        member = f"{head}|{token_of.get(head, '')}"
        if float(score) > float(leases.get(member) or waiting.get(head, 0)):
            left_over.add(f"blocked too long {group}")
    left_over |= {f"outgoing {name}" for name in outgoing.keys() - outbox.keys()}
    places: dict[str, Place] = dict.fromkeys(group_of, "fresh")
    places |= dict.fromkeys(waiting, "waiting") | dict.fromkeys(token_of, "leased")
    places |= {heads[group]: "suspect" for group in suspects if group in heads}
    return State(
        places=places,
        bodies=bodies,
        leases={member: float(score) for member, score in leases.items()},
        outgoing=outgoing,
        outbox=set(outbox),
        left_over=left_over,
    )


def _held(entry: str, token_of: dict[str, str], holders: dict[str, bytes]) -> bool:
    return entry in token_of and holders.get(entry) == token_of[entry].encode()


async def at_once(core: Core, *commands: Sequence[str | bytes | int]) -> list[Any]:
    """The raw replies of several commands; those on one resource all as of the same moment."""
    by_slot: dict[int, list[int]] = {}
    for index, command in enumerate(commands):
        by_slot.setdefault(slot_of(_text(command[1])) if core.runner.link.spread else 0, []).append(index)
    replies: list[Any] = [None] * len(commands)
    for indexes in by_slot.values():
        client = core.runner.link.client_for(_text(commands[indexes[0]][1]))
        found = await in_transaction(client, [commands[index] for index in indexes])
        for index, reply in zip(indexes, found, strict=True):
            replies[index] = reply
    return replies


async def in_transaction(client: Client, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
    """The raw replies of commands that nothing comes between."""
    *_, replies = await client.together([("MULTI",), *(tuple(command) for command in commands), ("EXEC",)])
    assert isinstance(replies, list), replies
    return replies


def _text(word: str | bytes | int) -> str | bytes:
    return str(word) if isinstance(word, int) else word


async def command_calls(core: Core, *names: str) -> int:
    """How often the servers have run these commands, or any where none is named; in scripts, too."""
    reports = await core.runner.fetch_everywhere("INFO", "commandstats")
    lines = [line.partition(":") for report in reports for line in report.decode().splitlines() if ":calls=" in line]
    wanted = {f"cmdstat_{name}" for name in names}
    return sum(
        int(figures.removeprefix("calls=").partition(",")[0])
        for command, _, figures in lines
        if not wanted or command in wanted
    )


async def names_under(core: Core, prefix: str) -> list[bytes]:
    """Every key under a prefix, on all servers, sorted."""
    link = core.runner.link
    clients = [link.client] if isinstance(link, SingleLink) else [node.client for node in link.primaries()]
    names: list[bytes] = []
    for client in clients:
        cursor = b"0"
        while True:
            page = ("SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", 10_000)
            cursor, found = await client.execute(*page)
            names += found
            if cursor == b"0":
                break
    return sorted(names)


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
