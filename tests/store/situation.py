"""A queue in which every state that a message can be in occurs, and a copy of it to go back to."""

from __future__ import annotations

import re
from typing import Final

from broker import Broker
from broker.ids import random_token
from broker.names import Resource
from broker.records import Facts, pack, unpack
from broker.store.values import Claim, ClaimMode, Deferral, NewMessage, Onward, member_of
from tests.conftest import clock_offset_ms, move_clock, set_clock
from tests.store.audit import at_once, names_under

LIMIT: Final = 100
MAX_RECEIVES: Final = 3
MAX_CRASHES: Final = 3
LONG_MS: Final = 3_600_000
SHORT_MS: Final = 60_000
_TOLERANCE_MS: Final = 5_000
_TIME: Final = re.compile(rb"\b\d{13}\b")
FIELDS: Final = {
    "limit": str(LIMIT),
    "max_receives": str(MAX_RECEIVES),
    "max_crashes": str(MAX_CRASHES),
    "retention_ms": str(14 * 86_400_000),
    "keep_ms": str(LONG_MS),
}
TOO_OLD: Final = {"too old", "too old, delayed", "too old, of a group"}
"""Their time of sending is past the retention: whoever meets them drops them."""


def message(
    label: str, *, delay_ms: int | None = None, own_id: str = "", facts: str = "", group: str = ""
) -> NewMessage:
    """A message whose body is its label."""
    return NewMessage(pack(label.encode()), len(label), delay_ms, own_id, facts, group, named=bool(own_id))


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    """Whether the contents of two moments are alike, but for times that moved on by a little."""
    return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())


def _alike(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < _TOLERANCE_MS
    if isinstance(one, bytes) and isinstance(other, bytes) and _TIME.sub(b"", one) == _TIME.sub(b"", other):
        times = zip(_TIME.findall(one), _TIME.findall(other), strict=True)
        return all(abs(int(time) - int(later)) < _TOLERANCE_MS for time, later in times)
    return one == other


def label_of(blob: bytes) -> str:
    """The label that a packed message, or an outbox record of a used-up one, carries."""
    if blob.startswith((b"result", b"failure")):
        return blob.partition(b"\x00")[2].decode()
    return unpack(blob[blob.index(b"\x00") :])[1].decode()


class Situation:
    """The queue, its leases by label, and everything that was accepted into it."""

    def __init__(self, broker: Broker, name: str = "orders") -> None:
        self.core: Final = broker.core
        self.queue: Final = self.core.resource("queue", name)
        self.stream: Final = self.core.resource("stream", "done")
        self.keys: Final = self.core.keys.of(self.queue)
        self.labels: Final[set[str]] = set()
        self.held: dict[str, str] = {}
        self.notices: Final[list[bytes]] = []
        self._held_at_first: dict[str, str] = {}
        self._dumps: dict[bytes, tuple[bytes, int]] = {}
        self._offset = b"0"

    # -- single steps -------------------------------------------------------------------------------------------------

    async def send(self, *messages: NewMessage, token: str = "") -> None:
        """Accepts messages."""
        await self.core.messages.send(self.queue, messages, token=token or random_token(), bucket="1")
        self.labels.update(label_of(item.blob) for item in messages)

    async def claim(self, token: str, *, mode: ClaimMode, lease_ms: int = LONG_MS, room: int = 1) -> Claim:
        """Leases what is next, and remembers the leases by label."""
        claim = await self.core.messages.claim(
            self.queue, token=token, lease_ms=lease_ms, room=room, mode=mode, wake=True
        )
        for item in claim.messages:
            self.held[label_of(item.blob)] = member_of(item.entry, token)
        return claim

    async def lease(self, label: str, token: str, *, lease_ms: int = LONG_MS, from_hash: bool = False) -> None:
        """Sends a message and leases it, at once or after it was given back."""
        mode: ClaimMode = "receive" if token.startswith("r") else "work"
        await self.send(message(label))
        await self.claim(token, mode=mode, lease_ms=lease_ms)
        if from_hash:
            await self.core.messages.defer(self.queue, [Deferral(self.held[label], 0, note=b"note")])
            await self.claim(token, mode=mode, lease_ms=lease_ms)
        assert label in self.held

    async def wait(self, label: str, delay_ms: int) -> None:
        """Sends a message, leases it and gives it back for a while."""
        await self.lease(label, "wgiver")
        await self.core.messages.defer(self.queue, [Deferral(self.held.pop(label), delay_ms, adds_try=True)])

    async def entry(self, label: str) -> str:
        """The entry of a message in the hash of bodies; "0-0" where there is none."""
        flat = await self.core.runner.fetch("HGETALL", self.keys.bodies)
        found = [flat[i].decode() for i in range(0, len(flat), 2) if label_of(flat[i + 1]) == label]
        return found[0] if found else "0-0"

    async def entry_anywhere(self, label: str) -> str:
        """The same, also where its body is in the stream."""
        for entry, fields in await self.core.runner.fetch("XRANGE", self.keys.ready, "-", "+"):
            if label_of(fields[1]) == label:
                return str(entry.decode())
        return await self.entry(label)

    async def advance(self, seconds: float) -> None:
        """Lets time pass."""
        await move_clock(self.core.runner, round(seconds * 1000))

    # -- the whole ----------------------------------------------------------------------------------------------------

    async def build(self) -> None:
        """Brings about every state; nothing is due before the clock moves at the end."""
        await self.core.directory.configure(self.queue, b"{}", FIELDS, mode="create")
        await self._use_up()
        for place, from_hash in (("stream", False), ("hash", True)):
            await self.lease(f"received from {place}", "rlive", from_hash=from_hash)
            await self.lease(f"working from {place}", "wlive", from_hash=from_hash)
            await self.lease(f"asked for from {place}", "wlost", from_hash=from_hash)
            await self.lease(f"left by receiver, {place}", "rgone", lease_ms=SHORT_MS, from_hash=from_hash)
            await self.lease(f"left by worker, {place}", "wgone", lease_ms=SHORT_MS, from_hash=from_hash)
        await self._fill_outbox()
        await self.wait("retry due", SHORT_MS)
        await self.wait("retry not due", LONG_MS)
        await self.send(message("delayed due", delay_ms=SHORT_MS), message("delayed not due", delay_ms=LONG_MS))
        await self._lease_of_groups()
        await self._set_apart()
        old = Facts(sent_ms=1).stored()
        await self.send(message("fresh"), message("own id", own_id="known"), message("moved", facts=Facts().stored()))
        await self.send(
            message("too old", facts=old), message("too old, delayed", facts=old, delay_ms=SHORT_MS), message("last")
        )
        await self.core.permits.take_of_function(self.queue, ["pgone"], permit_ms=SHORT_MS)
        await self.core.permits.take_of_function(self.queue, ["plive"], permit_ms=LONG_MS)
        await self._serve()
        await self._take_turns()
        await self.advance(SHORT_MS / 1000 + 1)
        await self._remember()

    async def _take_turns(self) -> None:
        """Groups of a standard queue that wait for their turn."""
        await self.send(
            *(message(label, group="noisy") for label in ("in turn 1", "in turn 2", "in turn 3")),
            message("in another turn", group="quiet"),
            message("delayed, of a group", group="quiet", delay_ms=SHORT_MS),
            message("too old, of a group", group="old", facts=Facts(sent_ms=1).stored()),
        )

    async def _lease_of_groups(self) -> None:
        for label, token, lease_ms in (
            ("received, of a group", "rlive", LONG_MS),
            ("working, of a group", "wlive", LONG_MS),
            ("asked for, of a group", "wlost", LONG_MS),
            ("left by receiver, of a group", "rgone", SHORT_MS),
            ("left by worker, of a group", "wgone", SHORT_MS),
            ("retry due, of a group", "wgiver", LONG_MS),
        ):
            await self.send(message(label, group="held"))
            await self.claim(token, mode="receive" if token.startswith("r") else "work", lease_ms=lease_ms)
            assert label in self.held
        retry = self.held.pop("retry due, of a group")
        await self.core.messages.defer(self.queue, [Deferral(retry, SHORT_MS, adds_try=True)])

    async def strand(self) -> None:
        """Takes two messages out of every set, as a script that is broken off might."""
        for label in ("working from stream", "working from hash"):
            await self.core.runner.fetch("ZREM", self.keys.leases, self.held[label])

    async def _use_up(self) -> None:
        for label, last_ms in (("used up, left", SHORT_MS), ("used up, given back", 0)):
            await self.send(message(label))
            for lease_ms in (0,) * (MAX_RECEIVES - 1) + (last_ms or SHORT_MS,):
                await self.claim("rgone", mode="receive", lease_ms=lease_ms)
            if not last_ms:
                await self.core.messages.defer(self.queue, [Deferral(self.held[label], SHORT_MS)])

    async def _fill_outbox(self) -> None:
        await self.lease("done", "wdone")
        await self.lease("done later", "wdone")
        members = [self.held.pop("done"), self.held.pop("done later")]
        onward = [Onward(0, "s", b"result\x00done"), Onward(1, "s", b"result\x00done later")]
        await self.core.messages.finish(self.queue, members, counter="done", onward=onward)

    async def _set_apart(self) -> None:
        await self.lease("set apart", "wcrash", lease_ms=1_000)
        await self.advance(2)
        claim = await self.claim("wother", mode="work")
        assert (claim.suspects, claim.messages) == (1, [])

    async def _serve(self) -> None:
        fields = {"max_length": "1000000", "retention_ms": str(7 * 86_400_000)}
        await self.core.directory.configure(self.stream, b"{}", fields, mode="create")
        await self.core.directory.heartbeat("gone", b"{}", ttl_ms=SHORT_MS)
        await self.core.directory.heartbeat("here", b"{}", ttl_ms=LONG_MS)
        await self.core.channels.listen({self.core.keys.inbox("here"): self._hear})

    def _hear(self, notice: bytes | None) -> None:
        if notice is not None:
            self.notices.append(notice)

    # -- going back ---------------------------------------------------------------------------------------------------

    async def _remember(self) -> None:
        names = await self._names()
        replies = await at_once(self.core, *(("DUMP", name) for name in names), *(("PTTL", name) for name in names))
        for index, name in enumerate(names):
            self._dumps[name] = replies[index], max(0, replies[index + len(names)])
        self._held_at_first = dict(self.held)
        self._offset_ms = await clock_offset_ms(self.core.runner)

    async def go_back(self) -> None:
        """Makes everything as it was when the situation was built, the clock included."""
        self.held = dict(self._held_at_first)
        commands: list[tuple[str | bytes | int, ...]] = [("DEL", name) for name in await self._names()]
        commands += [("RESTORE", name, ttl_ms, dump) for name, (dump, ttl_ms) in self._dumps.items()]
        await at_once(self.core, *commands)
        await set_clock(self.core.runner, self._offset_ms)

    async def _names(self) -> list[bytes]:
        return await names_under(self.core, self.core.settings.prefix)

    async def contents(self) -> dict[str, object]:
        """Every key of the test with its contents in plain form: to compare two moments."""
        found: dict[str, object] = {}
        for name in sorted(await self._names()):
            kind = (await self.core.runner.fetch("TYPE", name)).decode()
            text = name.decode()
            match kind:
                case "zset":
                    flat = await self.core.runner.fetch("ZRANGE", name, 0, -1, "WITHSCORES")
                    found |= {f"{text} {flat[i].decode()}": float(flat[i + 1]) for i in range(0, len(flat), 2)}
                case "hash":
                    flat = await self.core.runner.fetch("HGETALL", name)
                    found |= {f"{text} {flat[i].decode()}": flat[i + 1] for i in range(0, len(flat), 2)}
                case "stream":
                    for entry, fields in await self.core.runner.fetch("XRANGE", name, "-", "+"):
                        found[f"{text} {entry.decode()}"] = fields
                case _:
                    found[text] = await self.core.runner.fetch("GET", name)
        return found

    def resource_key(self, resource: Resource) -> str:
        """The settings key of a resource."""
        return self.core.keys.of(resource).meta
