"""A FIFO queue in which every state that a message and a group can be in occurs, and what the scripts do to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from broker import Broker
from broker.records import Facts, pack
from broker.store.values import ClaimMode, Deferral, NewMessage, Onward, member_of
from tests.store.operations import Operation
from tests.store.situation import FIELDS, LONG_MS, MAX_RECEIVES, SHORT_MS, Situation

DELAY_MS: Final = 1_000
DAYS: Final = 15
TOO_OLD: Final = {"too old 1", "too old 2"}


def message(label: str, group: str, *, deduplication_id: str = "", own_id: str = "", facts: str = "") -> NewMessage:
    """A message whose body is its label; a deduplication id of its own where none is given."""
    return NewMessage(
        pack(label.encode()),
        len(label),
        None,
        own_id,
        facts,
        group,
        "" if own_id else deduplication_id or label.replace(" ", "-"),
    )


class FifoSituation(Situation):
    """The queue; every label ends in its number within its group."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, "orders.fifo")
        self.groups: Final[dict[str, str]] = {}

    async def put(self, group: str, *labels: str) -> None:
        """Accepts messages of a group, and waits until the queue's delay is over."""
        await self.send(*(message(label, group) for label in labels))
        self.groups.update(dict.fromkeys(labels, group))
        await self.advance(DELAY_MS / 1000 + 1)

    async def hold(self, group: str, token: str, *labels: str, lease_ms: int = LONG_MS) -> None:
        """Accepts messages and leases them; one more is behind them."""
        await self.put(group, *labels)
        mode: ClaimMode = "receive" if token.startswith("r") else "work"
        await self.claim(token, mode=mode, lease_ms=lease_ms, room=10)
        assert set(labels) <= self.held.keys()
        await self.put(group, f"behind {group} 9")

    async def build(self) -> None:
        """Brings about every state; what is due is so only after the clock moved at the end."""
        fields = FIELDS | {"limit": "", "delay_ms": str(DELAY_MS)}
        await self.core.directory.configure(self.queue, b"{}", fields, mode="create")
        await self.put("aging", "too old 1", "too old 2")
        await self.claim("rlong", mode="receive", lease_ms=LONG_MS, room=10)
        await self.core.messages.defer(self.queue, [Deferral(self.held.pop(label), 0) for label in sorted(TOO_OLD)])
        await self.advance(DAYS * 86_400)
        keys = self.keys
        for key in (keys.open, keys.blocked):  # nothing may look at the old ones while the rest is built
            await self.core.runner.fetch("ZREM", key, "aging")
        await self.hold("received", "rlive", "received 1", "received 2")
        await self.hold("working", "wlive", "working 1", "working 2")
        await self.hold("asked", "wlost", "asked for 1", "asked for 2")
        await self.hold("left-r", "rgone", "left by receiver 1", "left by receiver 2", lease_ms=SHORT_MS)
        await self.hold("left-w", "wgone", "left by worker 1", "left by worker 2", lease_ms=SHORT_MS)
        await self._give_back()
        await self._finish_some()
        await self._set_apart()
        await self._use_up()
        await self.put("free", "free 1", "free 2")
        await self.send(message("known 1", "known", deduplication_id="known"))
        self.groups["known 1"] = "known"
        await self.core.runner.fetch("ZADD", keys.open, await self._first_ms(), "aging")
        await self.advance(SHORT_MS / 1000 + 1)
        await self._remember()

    async def _first_ms(self) -> int:
        entries = await self.core.runner.fetch("ZRANGEBYLEX", self.keys.order, "[aging ", "(aging!")
        return int(entries[0].split(b" ")[1].partition(b"-")[0])

    async def _give_back(self) -> None:
        await self.hold("retry", "wgiver", "retry due 1", "retry due 2")
        await self.hold("later", "wgiver", "retry not due 1", "retry not due 2")
        for label, delay_ms in (
            *(("retry due 1", SHORT_MS), ("retry due 2", SHORT_MS)),
            *(("retry not due 1", LONG_MS), ("retry not due 2", SHORT_MS)),
        ):
            deferral = Deferral(self.held.pop(label), delay_ms, adds_try=True, note=b"note")
            await self.core.messages.defer(self.queue, [deferral])

    async def _finish_some(self) -> None:
        await self.put("done", "done 1", "done 2")
        await self.claim("wdone", mode="work", room=10)
        members = [self.held.pop("done 1"), self.held.pop("done 2")]
        onward = [Onward(0, "s", b"result\x00done 1"), Onward(1, "s", b"result\x00done 2")]
        await self.core.messages.finish(self.queue, members, counter="done", onward=onward)

    async def _set_apart(self) -> None:
        for group in ("apart", "alone"):
            await self.put(group, f"set {group} 1", f"set {group} 2")
        await self.claim("wcrash", mode="work", lease_ms=1_000, room=10)
        await self.advance(2)
        claim = await self.claim("wother", mode="work", room=10)
        assert (claim.suspects, claim.messages) == (2, [])

    async def _use_up(self) -> None:
        await self.put("used", "used up 1", "not used up 2")
        for number in range(MAX_RECEIVES):
            last = number == MAX_RECEIVES - 1
            await self.claim("rgone", mode="receive", lease_ms=SHORT_MS if last else 0)
            if not last:
                await self.core.messages.release_claim(self.queue, "rgone")

    async def strand(self) -> None:
        """Leaves bodies without a place, a name without a body and groups in no set or in two."""
        fetch, keys = self.core.runner.fetch, self.keys
        for label in ("working 1", "received 2"):
            entry = self.held[label].partition("|")[0]
            await fetch("ZREM", keys.order, f"{self.groups[label]} {entry}")
        await fetch("ZREM", keys.blocked, "later")
        await fetch("ZREM", keys.open, "free")
        await fetch("ZADD", keys.open, 1, "received")
        await fetch("HSET", keys.groups, "1-000000000", "free")
        await fetch("ZADD", keys.order, 0, "nobody 1-000000001")


# -- operations -------------------------------------------------------------------------------------------------------


async def _send(s: Situation) -> object:
    return await s.core.messages.send(
        s.queue,
        [
            message("new 1", "new"),
            message("again 1", "known", deduplication_id="known"),
            message("free 3", "free"),
            message("new 2", "new", facts=Facts(receives=2).stored()),
            message("relayed 3", "new", own_id="relayed"),
            message("new 1", "new"),
        ],
        token="",
        bucket="1",
    )


def _claim(token: str, mode: ClaimMode, attempt: str | None = None) -> Callable[[Situation], Awaitable[object]]:
    async def run(s: Situation) -> object:
        claim = await s.core.messages.claim(
            s.queue, token=token, lease_ms=LONG_MS, room=1_000, mode=mode, wake=True, attempt=attempt
        )
        return [item.entry for item in claim.messages]

    return run


_LIVE: Final = ("received 1", "received 2", "working 1", "working 2")


async def _finish(s: Situation) -> object:
    members = [s.held[label] for label in _LIVE]
    stale = [member_of(members[0].partition("|")[0], "wsomebody"), member_of("1-1", "wlive")]
    onward = [Onward(2, "s", b"result\x00working 1"), Onward(4, "s", b"result\x00nobody's")]
    return await s.core.messages.finish(s.queue, [*members, *stale], counter="done", onward=onward)


async def _defer(s: Situation) -> object:
    deferrals = [
        Deferral(s.held["received 1"], LONG_MS, adds_try=True, note=b"why"),
        Deferral(s.held["working 1"], 0),
        Deferral(s.held["working 2"], LONG_MS, adds_try=True),
    ]
    return await s.core.messages.defer(s.queue, deferrals, counter="retried")


async def _extend(s: Situation) -> object:
    members = [s.held[label] for label in ("received 1", "working 1", "left by worker 1", "left by receiver 1")]
    return await s.core.messages.extend(s.queue, members, lease_ms=LONG_MS // 2)


async def _release_claim(s: Situation) -> object:
    return await s.core.messages.release_claim(s.queue, "wlost")


async def _expire(s: Situation) -> object:
    return await s.core.messages.expire(s.queue)


async def _restore(s: Situation) -> object:
    return await s.core.repairs.repair(s.queue)


async def _purge(s: Situation) -> object:
    return await s.core.messages.purge(s.queue)


async def _delete(s: Situation) -> object:
    return await s.core.directory.delete(s.queue, force=True)


_SENT: Final = frozenset({"new 1", "new 2", "relayed 3", "free 3"})
_EVERYTHING: Final = frozenset({"*"})

FIFO_OPERATIONS: Final[dict[str, Operation]] = {
    "claim to work": Operation(command="fifo_claim", run=_claim("wnew", "work")),
    "claim to run alone": Operation(command="fifo_claim", run=_claim("snew", "alone")),
    "claim to receive": Operation(command="fifo_claim", run=_claim("rnew", "receive")),
    "claim as an attempt": Operation(command="fifo_claim", run=_claim("rnew", "receive", "attempt")),
    "defer": Operation(command="fifo_defer", run=_defer),
    "delete": Operation(command="delete", run=_delete, ends=_EVERYTHING),
    "expire": Operation(command="fifo_expire", run=_expire, ends=frozenset(TOO_OLD)),
    "extend": Operation(command="fifo_extend", run=_extend),
    "finish": Operation(command="fifo_finish", run=_finish, ends=frozenset(_LIVE)),
    "purge": Operation(command="purge", run=_purge, ends=_EVERYTHING),
    "release_claim": Operation(command="fifo_release_claim", run=_release_claim),
    "restore": Operation(command="fifo_restore", run=_restore),
    "send": Operation(command="fifo_send", run=_send, adds=_SENT),
}
"""Every script that writes to FIFO queues."""


def numbered(label: str) -> int:
    """Where a label says that its message stands in its group."""
    return int(label.rpartition(" ")[2])
