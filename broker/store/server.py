"""What a server says of itself: the replies of INFO and CONFIG GET, read. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from broker.durability import ServerLevel

PERSISTENCE_SETTINGS: Final = "*append*"
"""The pattern of CONFIG GET that brings what :func:`level_in_force` needs."""
CANNOT_SAVE: Final = "MISCONF"
"""How an error begins of a server that refuses writes, as its disk has refused some."""
_WAITAOF_SINCE: Final = (7, 2)
_MULTI_PART_SINCE: Final = 7


class Software(msgspec.Struct, frozen=True):
    """Which server it is, and its own version; Valkey's ``redis_version`` is only what it is compatible with."""

    name: Literal["redis", "valkey"]
    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return _numbers(self.version)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class InForce(msgspec.Struct, frozen=True):
    """What a server's settings give at the moment; ``level`` is None where they cannot be read, and ``why`` says so."""

    level: ServerLevel | None
    why: str


class Memory(msgspec.Struct, frozen=True):
    """How much is used of what a server may use (0: without limit), as its ``maxmemory`` counts it."""

    used_bytes: int
    limit_bytes: int

    @property
    def percent(self) -> float:
        """How full it is; 0 where there is no limit."""
        return 100 * self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


def read_info(reply: bytes) -> dict[str, str]:
    """The fields of INFO."""
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


def read_config(reply: Sequence[bytes]) -> dict[str, str]:
    """The settings that CONFIG GET answered."""
    return {reply[i].decode(): reply[i + 1].decode() for i in range(0, len(reply), 2)}


def software_of(info: dict[str, str]) -> Software:
    """What the server is."""
    if "valkey_version" in info:
        return Software("valkey", info["valkey_version"])
    return Software("redis", info.get("redis_version", "?"))


def mode_of(info: dict[str, str]) -> str:
    """``standalone``, ``cluster`` or ``sentinel``; Valkey from 8 on has another name for the field."""
    return info.get("redis_mode") or info.get("server_mode") or "standalone"


def compatible_with(info: dict[str, str]) -> tuple[int, ...]:
    """The version of Redis whose commands and files the server has; every Valkey says 7.2.4."""
    return _numbers(info.get("redis_version", "0"))


def has_waitaof(info: dict[str, str]) -> bool:
    """Whether the server knows WAITAOF (7.2)."""
    return compatible_with(info) >= _WAITAOF_SINCE


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def level_in_force(info: dict[str, str], config: dict[str, str]) -> InForce:
    """What is on disk when a write is answered, by the settings in force now and not those of a file."""
    if why := _why_not_on_disk(info, config):
        return InForce("memory", why)
    fsync = config.get("appendfsync")
    if fsync is None:
        return InForce(None, "the server does not show its setting appendfsync")
    return InForce("fsync" if fsync == "always" else "everysec", f"appendfsync is {fsync}")


def _why_not_on_disk(info: dict[str, str], config: dict[str, str]) -> str | None:
    if info.get("aof_enabled") != "1":
        return "there is no append-only file (appendonly is no)"
    rewriting = "1" in {info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled")}
    unwritten = info.get("aof_current_size") == "0" or compatible_with(info)[:1] >= (_MULTI_PART_SINCE,)
    if rewriting and info.get("aof_base_size") == "0" and unwritten:
        return "the append-only file has just been switched on and is still being written"
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the last write to the append-only file failed"
    if config.get("appendfsync") == "no":
        return "appendfsync is no: the system writes when it likes"
    if config.get("no-appendfsync-on-rewrite") == "yes":
        return "no-appendfsync-on-rewrite is yes: nothing is synced while a file is rewritten"
    return None


def online_replicas(info: dict[str, str]) -> int:
    """How many replicas are in step."""
    return sum(re.fullmatch(r"slave\d+", name) is not None and "state=online" in info[name] for name in info)


def memory_of(info: dict[str, str]) -> Memory:
    """What counts against ``maxmemory``: not the buffers of replicas and of the append-only file."""
    used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    return Memory(max(0, used), int(info.get("maxmemory", 0)))
