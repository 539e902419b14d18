"""How safe a write must be before it is answered: the levels that a queue, function or stream can require. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from broker.errors import InvalidOption

ServerLevel: TypeAlias = Literal["memory", "everysec", "fsync"]
"""What a server's settings give, weakest first: nothing on disk for certain; on disk within about a second; on disk
before the answer."""

_SERVER_LEVELS: Final[tuple[ServerLevel, ...]] = get_args(ServerLevel)
_REPLICAS: Final = re.compile(r"replica(-fsync)?:([1-9][0-9]?)")
_RULE: Final = "memory, everysec, fsync, replica:N or replica-fsync:N, with N from 1 to 99"


class Durability(msgspec.Struct, frozen=True, kw_only=True):
    """A required level, read."""

    text: str
    server: ServerLevel = "memory"
    """What the settings of the primary must give."""
    replicas: int = 0
    """How many replicas must have confirmed a write before it is answered."""
    replicas_on_disk: bool = False
    """They, and the primary, confirm that it is on disk; else that they have it."""


def parse_durability(text: object) -> Durability:
    """The level that a text names. Raises InvalidOption."""
    if isinstance(text, str):
        if text in _SERVER_LEVELS:
            return Durability(text=text, server=next(level for level in _SERVER_LEVELS if level == text))
        if found := _REPLICAS.fullmatch(text):
            on_disk = bool(found[1])
            # WAITAOF waits for the primary's own disk, too, which needs an append-only file of whatever kind.
            server: ServerLevel = "everysec" if on_disk else "memory"
            return Durability(text=text, server=server, replicas=int(found[2]), replicas_on_disk=on_disk)
    raise InvalidOption("durability", text, _RULE)


def check_durability(text: object) -> None:
    """Raises InvalidOption unless it is '' (nothing is required) or names a level."""
    if text != "":
        parse_durability(text)


def gives(in_force: ServerLevel, required: ServerLevel) -> bool:
    """Whether a server's level is at least the required one."""
    return strength(in_force) >= strength(required)


def strength(level: ServerLevel) -> int:
    """A number that is larger for what keeps more."""
    return _SERVER_LEVELS.index(level)
