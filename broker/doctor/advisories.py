"""Known vulnerabilities of Redis and Valkey, and the releases that mend them. Pure; a table as of 2026-08."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Server: TypeAlias = Literal["redis", "valkey"]
Version: TypeAlias = tuple[int, ...]


class Advisory(msgspec.Struct, frozen=True):
    """One vulnerability: in which release of each line it is mended; lines that are not listed and older have it."""

    name: str
    what: str
    redis: tuple[Version, ...] = ()
    valkey: tuple[Version, ...] = ()
    since: Version = ()
    """The first Redis that has it; all where empty."""


ADVISORIES: Final = (
    Advisory(
        "CVE-2025-49844, CVE-2025-46817, -46818, -46819",
        "whoever may run scripts can run code on the server",
        redis=((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
        valkey=((7, 2, 11), (8, 0, 6), (8, 1, 4)),
    ),
    Advisory(
        "CVE-2024-46981",
        "whoever may run scripts can run code on the server",
        redis=((6, 2, 17), (7, 2, 7), (7, 4, 2)),
    ),
    Advisory(
        "CVE-2025-21605",
        "clients that have not signed in can fill the server's memory",
        redis=((6, 2, 18), (7, 2, 8), (7, 4, 3)),
        valkey=((7, 2, 9), (8, 0, 3), (8, 1, 1)),
    ),
    Advisory(
        "CVE-2025-32023",
        "whoever may use HyperLogLog can write where they should not",
        redis=((6, 2, 19), (7, 2, 10), (7, 4, 5), (8, 0, 3)),
    ),
    Advisory("CVE-2024-31228", "a long pattern ends the server", redis=((6, 2, 16), (7, 2, 6), (7, 4, 1))),
    Advisory("CVE-2025-62507", "XACKDEL writes where it should not", redis=((8, 2, 3),), since=(8, 2)),
    Advisory(
        "CVE-2026-23479",
        "use of freed memory when blocked clients go on",
        redis=((8, 6, 3),),
        valkey=((8, 0, 8), (8, 1, 7)),
        since=(7, 2),
    ),
)


def open_advisories(server: Server, version: Version) -> list[Advisory]:
    """What is known of a release and not mended in it, by its number alone."""
    return [advisory for advisory in ADVISORIES if _is_open(advisory, server, version)]


def _is_open(advisory: Advisory, server: Server, version: Version) -> bool:
    mended: tuple[Version, ...] = getattr(advisory, server)
    if not mended or (server == "redis" and version < advisory.since):
        return False
    for first in mended:
        if version[:2] == first[:2]:
            return version < first
    return version < mended[-1]
