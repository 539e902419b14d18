"""Every script that writes, as operations on the situation: what they do, and what may be gone or new afterwards."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

import msgspec

from broker.endings import End
from broker.records import Facts
from broker.store.logs import NewRecord
from broker.store.outbox import OutboxSettlement
from broker.store.scripts import Command
from broker.store.statuses import EventKey, Standing
from broker.store.values import ClaimMode, Deferral, Onward, member_of
from tests.store.situation import FIELDS, LIMIT, LONG_MS, TOO_OLD, Situation, message

WRITES: Final = frozenset(
    {"DEL", "EXPIRE", "HDEL", "HINCRBY", "HSET", "SET", "UNLINK", "XADD", "XDEL", "XTRIM", "ZADD", "ZREM"}
    | {"ZREMRANGEBYSCORE"}
)
"""Redis's writing commands as far as the scripts use them."""
_READS: Final = frozenset(
    {"EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "HSCAN", "PUBLISH", "TIME", "TYPE", "XLEN"}
    | {"XRANGE", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANK", "ZSCORE"}
)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a script. Repeated after a failure it must do the rest; repeated after success it must do nothing."""

    command: Command
    run: Callable[[Situation], Awaitable[object]]
    ends: frozenset[str] = frozenset()
    """Labels of messages, or names of outbox entries, that it ends."""
    adds: frozenset[str] = frozenset()
    """Labels of messages that it accepts."""


def mutating_scripts() -> set[str]:
    """The names of the scripts that contain a writing command; fails on a command that this file does not know."""
    found = set()
    for file in resources.files("broker.store").joinpath("lua").iterdir():
        if file.name.startswith("_"):
            continue  # put before others
        commands = set(re.findall(r"redis\.call\('([A-Z]+)'", file.read_text()))
        assert commands <= WRITES | _READS, f"{file.name} uses {commands - WRITES - _READS}: sort it in here"
        if commands & WRITES:
            found.add(file.name.removesuffix(".lua"))
    return found


# -- messages ---------------------------------------------------------------------------------------------------------


async def _send_plain(s: Situation) -> object:
    await s.send(message("new 1"), message("new 2"), message("new 3"), token="plain")
    return None


async def _send_full(s: Situation) -> object:
    await s.send(
        message("new"),
        message("new delayed", delay_ms=LONG_MS),
        message("own id", own_id="known"),
        message("new own id", own_id="unknown until now"),
        message("new own id, delayed", own_id="the same, later", delay_ms=LONG_MS),
        message("new moved", facts=Facts(receives=2, sent_ms=5_000_000_000_000).stored()),
        message("new moved, delayed", facts=Facts(receives=2, sent_ms=5_000_000_000_000).stored(), delay_ms=LONG_MS),
        message("new, of a group", group="noisy"),
        message("new, of a new group", group="new"),
        message("new, of a group, delayed", group="new", delay_ms=LONG_MS),
        token="full",
    )
    return None


def _claim(token: str, mode: ClaimMode) -> Callable[[Situation], Awaitable[object]]:
    async def run(s: Situation) -> object:
        before_ms = await s.core.messages.now_ms() + 2 * LONG_MS if mode == "aged" else None
        claim = await s.core.messages.claim(
            s.queue, token=token, lease_ms=LONG_MS, room=1_000, mode=mode, sent_before_ms=before_ms, wake=True
        )
        return [item.entry for item in claim.messages]

    return run


async def _release_claim(s: Situation) -> object:
    return await s.core.messages.release_claim(s.queue, "wlost")


_LIVE: Final = (
    *("working from stream", "working from hash", "received from stream", "received from hash"),
    *("working, of a group", "received, of a group"),
)


async def _finish(s: Situation) -> object:
    members = [s.held[label] for label in _LIVE]
    stale = [member_of(members[0].partition("|")[0], "wsomebody"), member_of("1-1", "wlive")]
    onward = [
        Onward(0, "s", b"result\x00working from stream"),
        Onward(0, "f", b"failure\x00working from stream"),
        Onward(3, "s", b"result\x00received from hash"),
        Onward(len(_LIVE), "s", b"result\x00nobody's"),
    ]
    ends = {1: End("known", "R", b"3-{}"), 2: End("", "S", b"2"), len(_LIVE): End("", "R", b"1")}
    await s.core.messages.finish(s.queue, [*members, *stale], counter="done", onward=onward, ends=ends)
    return None


async def _defer(s: Situation) -> object:
    deferrals = [
        Deferral(s.held[label], delay_ms, adds_try=adds_try, note=note)
        for label, delay_ms, adds_try, note in zip(
            _LIVE,
            (0, LONG_MS, 0, LONG_MS, 0, LONG_MS),
            (True, True, False, False, True, False),
            (b"why", b"", b"", b"why", b"why", b""),
            strict=True,
        )
    ]
    await s.core.messages.defer(s.queue, deferrals, counter="retried")
    return None


async def _extend(s: Situation) -> object:
    return await s.core.messages.extend(s.queue, [s.held[label] for label in _LIVE], lease_ms=2 * LONG_MS)


async def _discard(s: Situation) -> object:
    """Whoever had received them deletes them with an old receipt."""
    for label in _DISCARDED:
        await s.core.messages.discard(s.queue, await s.entry(label))
    return None


def _cancel(label: str) -> Callable[[Situation], Awaitable[object]]:
    async def run(s: Situation) -> object:
        entry = await s.entry_anywhere(label)
        seen = await s.core.statuses.look(s.queue, EventKey(entry))
        if isinstance(seen, Standing):
            lease = await s.core.statuses.lease_of(s.queue, entry)
            done = await s.core.statuses.cancel(
                s.queue,
                seen,
                member=lease[0] if lease else "",
                own_id="known" if label == "own id" else "",
                rest=b"0",
                onward=[("r", b"result\x00" + label.encode())],
            )
            assert done == "cancelled"
        return None

    return run


async def _await_end(s: Situation) -> object:
    await s.core.statuses.await_end(s.queue, "1-1", for_ms=LONG_MS)
    return None


def _forget_ends(periods: float) -> Callable[[Situation], Awaitable[object]]:
    """Ends in both hashes, the newer of which was begun so many periods ago."""

    async def run(s: Situation) -> object:
        now_ms = await s.core.messages.now_ms()
        await s.core.runner.fetch("HSET", s.keys.meta, "ended_turn", f"{now_ms - round(periods * LONG_MS)} 1")
        await s.core.runner.fetch("HSET", s.keys.ended_1, "1-1", "S000000000001")
        await s.core.runner.fetch("HSET", s.keys.ended_2, "2-2", "S000000000001")
        await s.core.statuses.forget(s.queue)
        return None

    return run


async def _purge(s: Situation) -> object:
    await s.core.messages.purge(s.queue)
    return None


async def _expire(s: Situation) -> object:
    return await s.core.messages.expire(s.queue)


async def _restore(s: Situation) -> object:
    return await s.core.repairs.repair(s.queue)


# -- permits ----------------------------------------------------------------------------------------------------------

_NAMES: Final = ["p1", "p2", "p3"]


async def _take_permits(s: Situation) -> object:
    await s.core.permits.take_of_mapping(s.queue, "f", ["other"], permit_ms=LONG_MS, limit=3)
    grant = await s.core.permits.take_of_mapping(s.queue, "f", _NAMES, permit_ms=LONG_MS, limit=3)
    assert grant.granted == 2
    return None


async def _release_permits(s: Situation) -> object:
    await s.core.runner.fetch("HSET", s.keys.meta, "starved", "1")
    await s.core.permits.release_of_function(s.queue, ["plive", "pgone"])
    await s.core.runner.fetch("HSET", s.keys.meta, "starved", "0")
    return None


async def _renew_permits(s: Situation) -> object:
    reply = await s.core.runner.run("renew_permits", (s.keys.permits,), (2 * LONG_MS, "plive", "nobody's"))
    assert reply == [2]
    return None


async def _call(s: Situation) -> object:
    return await s.core.permits.call(s.queue, call_id="c1", permit_ms=LONG_MS, process="here", notice=b"notice")


# -- what runs once --------------------------------------------------------------------------------------------------


async def _begin_once(s: Situation) -> object:
    function = s.core.resource("function", "f")
    begun = await s.core.once.begin(function, "key", owner="me", payload="p", lease_ms=LONG_MS)
    other = await s.core.once.begin(function, "key", owner="other", payload="p", lease_ms=LONG_MS)
    return begun.status, other.status


async def _end_once(s: Situation) -> object:
    function = s.core.resource("function", "f")
    for digest in ("kept", "freed"):
        await s.core.once.begin(function, digest, owner="me", payload="p", lease_ms=LONG_MS)
    await s.core.once.keep(function, "kept", owner="me", result=b"{}", size=2, keep_ms=LONG_MS)
    await s.core.once.free(function, "freed", owner="me")
    return None


# -- resources --------------------------------------------------------------------------------------------------------


async def _create(s: Situation) -> object:
    other = s.core.resource("queue", "other")
    await s.core.directory.configure(other, b'{"a":1}', {"delay_ms": "5", "max_receives": ""}, mode="ensure")
    return None


async def _reconfigure(s: Situation) -> object:
    fields = FIELDS | {"limit": str(LIMIT + 1), "max_receives": ""}
    await s.core.directory.configure(s.queue, b'{"changed":true}', fields, mode="replace")
    return None


async def _delete(s: Situation) -> object:
    await s.core.directory.delete(s.queue, force=True)
    return None


async def _mark(s: Situation) -> object:
    return await s.core.runner.run("mark", (s.keys.meta,), ())


async def _hold(s: Situation) -> object:
    return await s.core.directory.hold(s.queue, held=True)


async def _heartbeat(s: Situation) -> object:
    await s.core.directory.heartbeat("new", b'{"serves":1}', ttl_ms=LONG_MS)
    return None


async def _leave(s: Situation) -> object:
    await s.core.directory.heartbeat("here", b"{}", ttl_ms=0)
    return None


async def _enlist(s: Situation) -> object:
    await s.core.directory.put_mapping("orders->f", b"{}", queue=s.queue)
    return None


async def _rename(s: Situation) -> object:
    directory = s.core.directory
    if await directory.mapping("orders->g") is None:
        await directory.put_mapping("orders->f", b"{}", queue=s.queue)
    await directory.rename_mapping("orders->f", "orders->g", b'{"new":1}', queue=s.queue, instead_of=b"{}")
    return None


async def _adopt(s: Situation) -> object:
    other = s.core.resource("queue", "split")
    await s.core.directory.configure(other, b'{"split":true}', {"partitions": "2"}, mode="ensure")
    await s.core.partitions.adopt(other)
    copy = await s.core.directory.describe(other.part(1))
    assert copy is not None
    assert copy.settings == b'{"split":true}'
    return None


async def _adopt_left_over(s: Situation) -> object:
    """Whatever the partition of an earlier queue holds belongs to nobody."""
    k = s.core.keys.of(s.core.resource("queue", "split").part(1))
    await s.core.runner.run("configure", (k.meta, k.gone), ("ensure", "queue", "{}", 1 << 32, "0", k.wake, "", 0))
    return await _adopt(s)


async def _take_turn(s: Situation) -> object:
    await s.core.directory.take_turn("chore", for_ms=LONG_MS)
    return None


# -- move tasks -------------------------------------------------------------------------------------------------------


async def _start_move(s: Situation) -> object:
    return await s.core.moves.start(s.queue, "m1", b"{}", to_move=5)


async def _lead_move(s: Situation) -> object:
    await _start_move(s)
    lead = await s.core.moves.lead(s.queue, "me", lease_ms=LONG_MS)
    return lead.status


async def _cancel_move(s: Situation) -> object:
    await _start_move(s)
    return await s.core.moves.cancel(s.queue, "m1")


async def _end_move(s: Situation) -> object:
    await _lead_move(s)
    await s.core.moves.end(s.queue, "me", "m1", status="COMPLETED", reason="")
    return None


async def _delist(s: Situation) -> object:
    await s.core.moves.enlist(s.queue, "m1")
    await s.core.moves.enlist(s.stream, "m1")
    await s.core.moves.delist(s.stream, "m2")
    await s.core.moves.delist(s.queue, "m1")
    return None


# -- what is sent on --------------------------------------------------------------------------------------------------


async def _take_outbox(s: Situation) -> object:
    return len(await s.core.outbox.take(s.queue, room=100, hold_ms=LONG_MS)) * 0


async def _settle_outbox(s: Situation) -> object:
    names = [entry.name for entry in await s.core.outbox.entries(s.queue, 100) if entry.record.startswith(b"result")]
    settlements = [
        OutboxSettlement(names[0]),
        *(OutboxSettlement(name, LONG_MS, b"result\x00done later") for name in names[1:]),
    ]
    if len(names) == 2:
        await s.core.outbox.settle(s.queue, settlements)
    return None


async def _append(s: Situation) -> object:
    records = [NewRecord(f"r{number}", b"record", f"own {number}") for number in range(3)]
    await s.core.logs.append(s.stream, records, urgent=True)
    return None


_DISCARDED: Final = ("retry due", "retry not due", "set apart", "in turn 2", "retry due, of a group")
_CANCELLED: Final = (
    *("retry not due", "delayed not due", "set apart", "working from stream", "working from hash", "fresh", "own id"),
    *("in turn 2", "working, of a group"),
)
_SENT_PLAIN: Final = frozenset({"new 1", "new 2", "new 3"})
_SENT_FULL: Final = frozenset(
    {"new", "new delayed", "new own id", "new own id, delayed", "new moved", "new moved, delayed"}
    | {"new, of a group", "new, of a new group", "new, of a group, delayed"}
)
_EVERYTHING: Final = frozenset({"*"})

OPERATIONS: Final[dict[str, Operation]] = {
    "adopt, made": Operation(command="adopt", run=_adopt),
    "adopt, of another that had the name": Operation(command="adopt", run=_adopt_left_over),
    "append": Operation(command="append", run=_append),
    "begin_once": Operation(command="begin_once", run=_begin_once),
    "await_end": Operation(command="await_end", run=_await_end),
    "call": Operation(command="call", run=_call),
    **{
        f"cancel, {label}": Operation(command="cancel", run=_cancel(label), ends=frozenset({label}))
        for label in _CANCELLED
    },
    "cancel_move": Operation(command="cancel_move", run=_cancel_move),
    "claim to work": Operation(command="claim", run=_claim("wnew", "work")),
    "claim to run alone": Operation(command="claim", run=_claim("snew", "alone")),
    "claim to receive": Operation(command="claim", run=_claim("rnew", "receive")),
    "claim of aged": Operation(command="claim", run=_claim("wnew", "aged")),
    "configure, created": Operation(command="configure", run=_create),
    "configure, changed": Operation(command="configure", run=_reconfigure),
    "defer": Operation(command="defer", run=_defer),
    "delete": Operation(command="delete", run=_delete, ends=_EVERYTHING),
    "delist": Operation(command="delist", run=_delist),
    "discard": Operation(command="discard", run=_discard, ends=frozenset(_DISCARDED)),
    "end_move": Operation(command="end_move", run=_end_move),
    "end_once": Operation(command="end_once", run=_end_once),
    "enlist": Operation(command="enlist", run=_enlist),
    "rename": Operation(command="rename", run=_rename),
    "expire": Operation(command="expire", run=_expire, ends=frozenset(TOO_OLD)),
    "extend": Operation(command="extend", run=_extend),
    "finish": Operation(command="finish", run=_finish, ends=frozenset(_LIVE)),
    "forget_ends, the older": Operation(command="forget_ends", run=_forget_ends(1.5)),
    "forget_ends, all": Operation(command="forget_ends", run=_forget_ends(2.5)),
    "heartbeat": Operation(command="heartbeat", run=_heartbeat),
    "heartbeat, leaving": Operation(command="heartbeat", run=_leave),
    "hold": Operation(command="hold", run=_hold),
    "lead_move": Operation(command="lead_move", run=_lead_move),
    "mark": Operation(command="mark", run=_mark),
    "purge": Operation(command="purge", run=_purge, ends=_EVERYTHING),
    "release_claim": Operation(command="release_claim", run=_release_claim),
    "release_permits": Operation(command="release_permits", run=_release_permits),
    "renew_permits": Operation(command="renew_permits", run=_renew_permits),
    "restore": Operation(command="restore", run=_restore),
    "send, plain": Operation(command="send", run=_send_plain, adds=_SENT_PLAIN),
    "send, full": Operation(command="send", run=_send_full, adds=_SENT_FULL),
    "settle_outbox": Operation(command="settle_outbox", run=_settle_outbox, ends=frozenset({"done", "done later"})),
    "start_move": Operation(command="start_move", run=_start_move),
    "take_outbox": Operation(command="take_outbox", run=_take_outbox),
    "take_permits": Operation(command="take_permits", run=_take_permits),
    "take_turn": Operation(command="take_turn", run=_take_turn),
}
