"""What is said of the server, from what it tells of itself. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Final

import msgspec

from broker.doctor.advisories import open_advisories
from broker.doctor.findings import Finding
from broker.store.server import InForce, Memory, memory_of, online_replicas, software_of

_MIB: Final = 1024 * 1024
_OLDEST: Final = (6, 2)
_SLOW_MS: Final = 10.0
_VERY_SLOW_MS: Final = 100.0
_CLOCK_WARNING_S: Final = 1.0
_CLOCK_ERROR_S: Final = 60.0
_SLOW_FORK_US: Final = 500_000
_DEFAULT_USER: Final = "default"


class Rights(msgspec.Struct, frozen=True):
    """What our user may do; ``user`` is None where it may not even ask who it is."""

    user: str | None = None
    lacking: tuple[str, ...] = ()
    too_much: tuple[str, ...] = ()


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was asked of a server."""

    place: str
    info: dict[str, str]
    in_force: InForce
    rights: Rights
    clock_off_s: float
    answers_ms: tuple[float, ...]
    scripts_loaded: int | None
    scripts: int
    full_at_percent: int


def server_findings(facts: ServerFacts) -> Iterator[Finding]:
    """One finding a matter, in the order in which to read them."""
    yield _version(facts)
    yield _vulnerabilities(facts)
    yield _role(facts)
    yield _eviction(facts)
    yield _memory(facts, memory_of(facts.info))
    yield _persistence(facts)
    yield _disk(facts)
    yield _replicas(facts)
    yield _latency(facts)
    yield _clock(facts)
    yield _lacking(facts)
    yield _too_much(facts)
    yield _scripts(facts)


def _version(facts: ServerFacts) -> Finding:
    software = software_of(facts.info)
    if software.name == "redis" and software.numbers[:2] < _OLDEST:
        return Finding("error", "version", facts.place, f"{software} is too old", "upgrade to 6.2 or newer")
    return Finding("ok", "version", facts.place, str(software))


def _vulnerabilities(facts: ServerFacts) -> Finding:
    software = software_of(facts.info)
    found = open_advisories(software.name, software.numbers)
    if not found:
        return Finding("ok", "vulnerabilities", facts.place, f"none known of {software} (as of 2026-08)")
    listed = "; ".join(f"{advisory.name}: {advisory.what}" for advisory in found)
    advice = "upgrade; a distribution's package may have the fixes under its old number: look into its changelog"
    return Finding("warning", "vulnerabilities", facts.place, f"by its number, {software} has {listed}", advice)


def _role(facts: ServerFacts) -> Finding:
    if facts.info.get("role") == "slave":
        advice = "give the address of the primary (PENSTOCK_REDIS_URL)"
        return Finding("error", "role", facts.place, "it is a replica and takes no writes", advice)
    return Finding("ok", "role", facts.place, "it takes writes")


def _eviction(facts: ServerFacts) -> Finding:
    policy = facts.info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        return Finding("error", "eviction", facts.place, f"{policy} throws events away when memory is short", advice)
    return Finding("ok", "eviction", facts.place, "noeviction")


def _memory(facts: ServerFacts, memory: Memory) -> Finding:
    used = f"{memory.used_bytes / _MIB:.1f} MiB used"
    if not memory.limit_bytes:
        advice = "set maxmemory: without it the system's out-of-memory killer decides, and no producer is told to wait"
        return Finding("warning", "memory", facts.place, f"{used}, without limit", advice)
    text = f"{used} of {memory.limit_bytes / _MIB:.1f} MiB ({memory.percent:.1f} %)"
    advice = "let workers catch up, purge what is not needed, raise maxmemory"
    if memory.percent >= facts.full_at_percent:
        return Finding("error", "memory", facts.place, f"{text}: producers have to wait", advice)
    if memory.percent >= facts.full_at_percent * 0.8:
        return Finding("warning", "memory", facts.place, f"{text}: producers soon have to wait", advice)
    return Finding("ok", "memory", facts.place, text)


def _persistence(facts: ServerFacts) -> Finding:
    level, why = facts.in_force.level, facts.in_force.why
    if level == "memory":
        advice = "appendonly yes, appendfsync always (or everysec); what is required of a queue: --durability"
        return Finding("warning", "durability", facts.place, f"memory: {why}", advice)
    if level is None:
        return Finding("note", "durability", facts.place, f"not known: {why}", "allow the user +config|get")
    return Finding("ok", "durability", facts.place, f"{level}: {why}")


def _disk(facts: ServerFacts) -> Finding:
    info = facts.info
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        advice = "look into Redis's log and at the room on its disk"
        return Finding("error", "disk", facts.place, f"the last attempt failed: {', '.join(failed)}", advice)
    late, fork_us = int(info.get("aof_delayed_fsync", 0)), int(info.get("latest_fork_usec", 0))
    if late or fork_us > _SLOW_FORK_US:
        text = f"{late} writes waited for a sync since the start; the last fork took {fork_us / 1000:.0f} ms"
        return Finding("note", "disk", facts.place, text, "a faster disk, or another machine for its neighbours")
    return Finding("ok", "disk", facts.place, "no failed save or sync")


def _replicas(facts: ServerFacts) -> Finding:
    connected, online = int(facts.info.get("connected_slaves", 0)), online_replicas(facts.info)
    if online < connected:
        text = f"{online} of {connected} replicas are in step"
        return Finding("warning", "replicas", facts.place, text, "look into the replicas' logs")
    if not online:
        return Finding("note", "replicas", facts.place, "none", "this server's disk is the only copy: back it up")
    return Finding("ok", "replicas", facts.place, f"{online} in step")


def _latency(facts: ServerFacts) -> Finding:
    middle, most = statistics.median(facts.answers_ms), max(facts.answers_ms)
    text = f"an answer takes {middle:.1f} ms, at most {most:.1f} ms of {len(facts.answers_ms)}"
    if middle > _SLOW_MS or most > _VERY_SLOW_MS:
        advice = "bring it nearer; look for its load, slow commands of others (SLOWLOG GET), swapping"
        return Finding("warning", "latency", facts.place, text, advice)
    return Finding("ok", "latency", facts.place, text)


def _clock(facts: ServerFacts) -> Finding:
    off_s = facts.clock_off_s
    text = f"{abs(off_s):.2f} s {'ahead of' if off_s > 0 else 'behind'} this machine"
    advice = "synchronise both (NTP): leases and delays go by Redis's clock, signatures by the gateway's"
    if abs(off_s) > _CLOCK_ERROR_S:
        return Finding("error", "clock", facts.place, text, advice)
    if abs(off_s) > _CLOCK_WARNING_S:
        return Finding("warning", "clock", facts.place, text, advice)
    return Finding("ok", "clock", facts.place, text)


def _lacking(facts: ServerFacts) -> Finding:
    if facts.rights.lacking:
        text = f"the user lacks {', '.join(facts.rights.lacking)}"
        advice = "ACL SETUSER as docs/operations/redis.md has it"
        return Finding("error", "rights", facts.place, text, advice)
    return Finding("ok", "rights", facts.place, "the user may do what Penstock needs")


def _too_much(facts: ServerFacts) -> Finding:
    rights = facts.rights
    if rights.too_much:
        who = "the default user" if rights.user == _DEFAULT_USER else f'the user "{rights.user}"'
        text = f"{who} may do more than Penstock needs: {', '.join(rights.too_much)}"
        return Finding("note", "access", facts.place, text, "give Penstock a user of its own: docs/operations/redis.md")
    return Finding("ok", "access", facts.place, "the user may not administer the server")


def _scripts(facts: ServerFacts) -> Finding:
    if facts.scripts_loaded is None:
        return Finding("ok", "scripts", facts.place, "not known: the user may not ask, and need not")
    text = f"{facts.scripts_loaded} of this release's {facts.scripts} scripts are loaded; the others will be when used"
    return Finding("ok", "scripts", facts.place, text)
