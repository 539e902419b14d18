"""Which slot of a cluster a name belongs to, which name decides about a command, and which nodes have which slots."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from broker.store.addresses import Place

SLOTS: Final = 16_384
Word: TypeAlias = str | bytes | int

_FOR_ANY_NODE: Final = frozenset({"PING", "INFO", "TIME", "CONFIG", "SCRIPT", "CLUSTER", "COMMAND", "CLIENT", "ACL"})
_SCRIPT_KEY: Final = 3


class Shard(msgspec.Struct, frozen=True):
    """Slots from ``first`` to ``last``, who serves them, and who follows that server."""

    first: int
    last: int
    primary: Place
    replicas: tuple[Place, ...]


def slot_of(name: str | bytes) -> int:
    """The slot of a key or channel: of its hash tag where it has one (Redis Cluster specification, "Hash tags")."""
    text = name.encode() if isinstance(name, str) else name
    start = text.find(b"{")
    if start >= 0:
        end = text.find(b"}", start + 1)
        if end > start + 1:
            text = text[start + 1 : end]
    return binascii.crc_hqx(text, 0) % SLOTS


def name_in(command: Sequence[Word]) -> str | bytes | None:
    """The key or channel that decides where a command goes; None where any node will do."""
    word = command[0]
    if word in {"EVALSHA", "EVAL"}:
        return _name(command[_SCRIPT_KEY]) if int(command[2]) else None
    if word in _FOR_ANY_NODE:
        return None
    return _name(command[2] if word == "PUBSUB" else command[1])


def _name(word: Word) -> str | bytes:
    return str(word) if isinstance(word, int) else word


def read_slots(reply: Sequence[Any], asked: Place) -> list[Shard]:
    """The answer of CLUSTER SLOTS. A node that does not know its own name is at the host that was asked."""
    return [
        Shard(int(first), int(last), _place(primary, asked), tuple(_place(replica, asked) for replica in replicas))
        for first, last, primary, *replicas in reply
    ]


def read_place(host: str, port: int, asked: Place) -> Place:
    """The place that a redirection names; an empty host is the one that was asked."""
    return (host if host and host != "?" else asked[0], port)


def _place(node: Sequence[Any], asked: Place) -> Place:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return read_place(host or "", int(node[1]), asked)


def uncovered(shards: Sequence[Shard]) -> str:
    """The slots that nobody serves, as ranges: ``0-99, 5000``; '' where there are none."""
    missing, expected = [], 0
    for shard in sorted(shards, key=lambda found: found.first):
        if shard.first > expected:
            missing.append((expected, shard.first - 1))
        expected = max(expected, shard.last + 1)
    if expected < SLOTS:
        missing.append((expected, SLOTS - 1))
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in missing)
