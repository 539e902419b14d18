"""Redis's own history: what its append-only file says of the leases and counters of one resource.

Independent of what any worker believes: it holds every change that a script made, in the order in which they were
made, also those whose reply never arrived. A script's writes stand between MULTI and EXEC; together they tell what it
did with a message. ``auto-aof-rewrite-percentage 0`` keeps the file whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import hiredis

from broker.records import Facts
from broker.store.keys import ResourceKeys

Why: TypeAlias = Literal["ended", "finished", "deferred"]


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease was given."""

    entry: str
    token: str
    at_ms: int
    ends_ms: int
    fence: int


@dataclass(frozen=True, slots=True)
class Extended:
    """A lease was renewed."""

    entry: str
    token: str
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Removed:
    """A lease is over: it ran out and was taken away (``at_ms`` tells when), or its holder settled."""

    entry: str
    token: str
    why: Why
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of a message were written."""

    entry: str
    receives: int
    tries: int
    crashes: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A message ended for good."""

    entry: str


Step: TypeAlias = Granted | Extended | Removed | Counted | Gone
_Command: TypeAlias = list[bytes]


def read_ledger(directory: Path, keys: ResourceKeys, *, lease_ms: int) -> list[Step]:
    """Every step of one resource, from the append-only file of the server that keeps its data in ``directory``."""
    steps: list[Step] = []
    for block in _blocks(_commands(directory)):
        steps += _Block(keys, lease_ms).read(block)
    return steps


def _commands(directory: Path) -> Iterator[_Command]:
    # Redis 7 and later keep a folder of files; the first is an empty snapshot.
    parts = sorted((directory / "appendonlydir").glob("*.incr.aof")) or [directory / "appendonly.aof"]
    for path in parts:
        reader = hiredis.Reader()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                reader.feed(chunk)
                while (command := reader.gets()) is not False:
                    yield command


def _blocks(commands: Iterable[_Command]) -> Iterator[list[_Command]]:
    """The writes of one script each."""
    block: list[_Command] | None = None
    for command in commands:
        match command[0].upper():
            case b"MULTI":
                block = []
            case b"EXEC":
                if block:
                    yield block
                block = None
            case _ if block is None:
                yield [command]
            case _:
                block.append(command)


@dataclass
class _Block:
    """Reads the writes of one script."""

    keys: ResourceKeys
    lease_ms: int
    fence: int = 0
    taken: list[tuple[str, str]] = field(default_factory=list)
    scored: list[tuple[str, str, int]] = field(default_factory=list)
    renewed: list[Step] = field(default_factory=list)
    counted: dict[str, Step] = field(default_factory=dict)
    set_apart: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    trimmed: tuple[int, int] = (0, 0)
    kept: set[str] = field(default_factory=set)

    def read(self, block: list[_Command]) -> list[Step]:
        for command in block:
            if len(command) > 1:
                self._take(command[0].upper(), command[1].decode(), command[2:])
        self.dropped |= {entry for entry, _ in self.taken if _position(entry) < self.trimmed}
        granted = {entry: ends_ms - self.lease_ms for entry, _, ends_ms in self.scored}
        steps: list[Step] = [*self.renewed]
        for entry, token in self.taken:
            if entry in self.set_apart:
                steps.append(Removed(entry, token, "ended", self.set_apart[entry]))
            elif entry in granted:
                steps.append(Removed(entry, token, "ended", granted[entry]))
            else:
                steps.append(Removed(entry, token, "deferred" if entry in self.waiting else "finished"))
        steps += [
            Granted(entry, token, ends_ms - self.lease_ms, ends_ms, self.fence) for entry, token, ends_ms in self.scored
        ]
        steps += self.counted.values()  # as the script left them
        steps += [Gone(entry) for entry in sorted(self.dropped - self.kept)]
        return steps

    def _take(self, word: bytes, key: str, arguments: _Command) -> None:
        if key == self.keys.leases:
            self._take_lease(word, arguments)
            return
        match word:
            case b"ZADD" if key == self.keys.suspects:
                self.set_apart |= {entry.decode(): int(float(score)) for score, entry in _pairs(arguments)}
            case b"ZADD" if key == self.keys.waiting:
                self.waiting |= {entry.decode() for _, entry in _pairs(arguments)}
            case b"HSET" if key == self.keys.facts:
                self.counted |= {entry.decode(): _counted(entry.decode(), facts) for entry, facts in _pairs(arguments)}
            case b"HSET" if key == self.keys.bodies:
                self.kept |= {entry.decode() for entry, _ in _pairs(arguments)}
            case b"HSET" if key == self.keys.meta:
                self.fence = int(dict(_pairs(arguments)).get(b"fence", self.fence))
            case b"XDEL" | b"HDEL" if key in {self.keys.ready, self.keys.bodies}:
                self.dropped |= {entry.decode() for entry in arguments}
            case b"XTRIM" if key == self.keys.ready:  # what has ended and stood in front of this
                self.trimmed = _position(arguments[-1].decode())
            case _:
                pass

    def _take_lease(self, word: bytes, arguments: _Command) -> None:
        match word:
            case b"ZADD" if arguments[0] == b"XX":
                self.renewed += [Extended(*_lease(name), int(float(score))) for score, name in _pairs(arguments[1:])]
            case b"ZADD":
                self.scored += [(*_lease(name), int(float(score))) for score, name in _pairs(arguments)]
            case b"ZREM":
                self.taken += [_lease(name) for name in arguments]
            case _:
                pass


_PAIR: Final = 2


def _pairs(flat: _Command) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::_PAIR], flat[1::_PAIR], strict=True)


def _position(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)


def _lease(member: bytes) -> tuple[str, str]:
    entry, _, token = member.decode().partition("|")
    return entry, token


def _counted(entry: str, text: bytes) -> Counted:
    facts = Facts.parse(text)
    return Counted(entry, facts.receives, facts.tries, facts.crashes)


def grants_by_entry(steps: Iterable[Step]) -> dict[str, list[Granted]]:
    """The leases of each message in the order in which they were given."""
    found: defaultdict[str, list[Granted]] = defaultdict(list)
    for step in steps:
        if isinstance(step, Granted):
            found[step.entry].append(step)
    return found
