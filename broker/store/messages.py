"""Messages of a queue or a function in Redis: packs the arguments of the message scripts and reads their replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from broker import limits
from broker.endings import End
from broker.names import Resource
from broker.records import Facts
from broker.store.fifo import ClaimOfGroups, FifoStore
from broker.store.keys import Keyspace, ResourceKeys
from broker.store.lanes import RunsScripts
from broker.store.scripts import Argument, Command, ScriptRunner
from broker.store.splits import Splits
from broker.store.values import (
    Claim,
    ClaimMode,
    Counts,
    Deferral,
    NewMessage,
    Onward,
    Peeked,
    Settlement,
    Stored,
    not_sent,
    read_claim,
    read_settlement,
)

_TOO_SOON: Final = -2
_COUNTED: Final = 9
_NO_ENDS: Final[Mapping[int, End]] = {}
_MEMBERS_A_CALL: Final = 1_000
_LOOKED_AT_TO_EXPIRE: Final = 500


class MessageStore:
    """The messages of every resource. Errors: the StoreError family; methods answer None for an unknown resource."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace, splits: Splits | None = None) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace
        self._splits: Final = Splits() if splits is None else splits
        self._fifo: Final = FifoStore(runner, keyspace)

    async def send(
        self,
        resource: Resource,
        messages: Sequence[NewMessage],
        *,
        token: str,
        bucket: str,
        urgent: bool = False,
        made_sure_of: str = "",
        runs: RunsScripts | None = None,
    ) -> Stored | Literal["split"] | None:
        """Stores up to 1,000 messages in one step. The same token in the same bucket stores them once; in a FIFO queue
        their deduplication ids see to that. ``split`` where the resource has another number of partitions than was
        known, so that own ids may belong elsewhere. Raises DurabilityRequired unless what the caller has
        ``made_sure_of`` is what the resource requires; ``runs`` is what confirms it, where something does."""
        runs = runs or self._runner
        if resource.fifo:
            return await self._fifo.send(resource, messages, urgent=urgent, made_sure_of=made_sure_of, runs=runs)
        k = self._keys.of(resource)
        plain = all(message.plain for message in messages)
        arguments: list[Argument] = [
            *(token, k.wake, limits.SEND_TOKEN_MEMORY_S, limits.OWN_ID_MEMORY_MS),
            *("urgent" if urgent else "", "plain" if plain else self._full(resource), made_sure_of),
        ]
        if plain:
            arguments += [message.blob for message in messages]
        else:
            for message in messages:
                delay = "" if message.delay_ms is None else message.delay_ms
                arguments += (message.blob, delay, message.own_id, message.facts, message.size, message.group)
                arguments.append("1" if message.named else "")
        keys = (
            *(k.ready, k.meta, k.tokens(bucket), k.delayed, k.bodies, k.facts, k.seen),
            *(k.groups, k.order, k.open, k.named),
        )
        reply = await runs.run("send", keys, arguments)
        match reply[0]:
            case b"stored":
                if reply[4] is not None or self._splits.known:
                    self._splits.heard(resource, reply[4])
                return Stored(reply[1].decode(), int(reply[2]), int(reply[3]))
            case b"unknown":
                return None
            case b"split":
                self._splits.heard(resource, reply[1])
                return "split"
            case _:
                raise not_sent(resource, reply)

    def _full(self, resource: Resource) -> str:
        count = self._splits.known.get(resource.whole) if self._splits.known else None
        return f"full{count or ''}"

    async def claim(
        self,
        resource: Resource,
        *,
        token: str,
        lease_ms: int | None,
        room: int,
        mode: ClaimMode,
        max_bytes: int = limits.CLAIM_BYTES,
        sent_before_ms: int | None = None,
        wake: bool = False,
        max_crashes: int | None = None,
        max_in_flight: int | None = None,
        of_one_group: int | None = None,
        attempt: str | None = None,
        with_permits: bool = False,
    ) -> Claim:
        """Leases up to ``room`` messages under the token. ``wake`` asks for a wake-up when there is more; without
        ``lease_ms`` the queue's own visibility timeout holds. For FIFO queues alone: at most so many ``of_one_group``,
        and the id of an ``attempt`` that may be repeated. ``with_permits`` says
        that the caller has taken as many permits before, as it must where a function with a limit is split.
        """
        if resource.fifo:
            wanted = ClaimOfGroups(
                token, lease_ms, room, mode, max_bytes, wake, max_crashes, max_in_flight, of_one_group, attempt
            )
            return await self._fifo.claim(resource, wanted)
        k = self._keys.of(resource)
        keys = (
            *(k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.meta),
            *(k.outbox, k.outgoing, k.permits, k.groups, k.order, k.open),
        )
        arguments = (
            *(token, "" if lease_ms is None else lease_ms, room, max_bytes, mode),
            *("" if sent_before_ms is None else sent_before_ms, "1" if wake else "0"),
            *(k.wake, "" if max_crashes is None else max_crashes, "" if max_in_flight is None else max_in_flight),
            "1" if with_permits else "",
        )
        claim = read_claim(await self._runner.run("claim", keys, arguments), token)
        if (claim.partitions > 1 or self._splits.known) and claim.status != "unknown":
            self._splits.heard(resource, claim.partitions)
        return claim

    async def release_claim(self, resource: Resource, token: str) -> int:
        """After a claim whose reply was lost: gives back whatever it leased. Answers how many."""
        k = self._keys.of(resource)
        command: Command = "fifo_release_claim" if resource.fifo else "release_claim"
        keys = k.fifo() if resource.fifo else (k.ready, k.leases, k.waiting, k.bodies, k.facts, k.permits, k.meta)
        released = 0
        behind: tuple[Argument, Argument] = ("", "")
        while True:
            page = (token, _MEMBERS_A_CALL, k.wake, *behind)
            found, seen, *place = await self._runner.run(command, keys, page)
            released += int(found)
            behind = (place[0], place[1])
            if int(seen) < _MEMBERS_A_CALL:
                return released

    async def finish(
        self,
        resource: Resource,
        members: Sequence[str],
        *,
        counter: str,
        onward: Iterable[Onward] = (),
        keep_permits: bool = False,
        ends: Mapping[int, End] = _NO_ENDS,
    ) -> Settlement:
        """Ends up to 1,000 leased messages for good, with what is to be sent on because of it.

        With ``keep_permits`` their permits stay taken: code that does not stop at its timeout still runs. ``ends`` says
        by index how they ended, where it is kept; what is counted as ``done`` succeeded at the first try otherwise.
        """
        k = self._keys.of(resource)
        command: Command = "finish"
        keys: tuple[str, ...] = (
            k.ready,
            k.leases,
            k.bodies,
            k.facts,
            k.notes,
            k.meta,
            k.outbox,
            k.outgoing,
            k.permits,
            k.groups,
            k.ended_1,
            k.ended_2,
            k.named,
            k.awaited,
        )
        if resource.fifo:
            command, keys = "fifo_finish", (*k.fifo(), k.outbox, k.outgoing)
        entries = [member.partition("|")[0] for member in members]
        arguments: list[Argument] = [k.wake, _counted(counter, keep_permits), len(members)]
        if not resource.fifo:
            arguments += (k.ended, len(ends))
        arguments += (*members, *entries)
        for index, end in ends.items():
            arguments += (index + 1, end.own_id, end.letter, end.rest)
        for item in onward:
            arguments += (item.index + 1, item.suffix, item.record)
        return read_settlement(await self._runner.run(command, keys, arguments))

    async def defer(
        self, resource: Resource, deferrals: Sequence[Deferral], *, counter: str = "", keep_permits: bool = False
    ) -> Settlement:
        """Gives up to 1,000 leased messages back, each to be handed out when its delay is over."""
        k = self._keys.of(resource)
        command: Command = "fifo_defer" if resource.fifo else "defer"
        keys: tuple[str, ...] = (k.ready, k.leases, k.waiting, k.bodies, k.facts, k.notes, k.meta, k.permits)
        if resource.fifo:
            keys = k.fifo()
        arguments: list[Argument] = [k.wake, _counted(counter, keep_permits)]
        for item in deferrals:
            arguments += (item.member, item.delay_ms, 1 if item.adds_try else 0, item.note)
        return read_settlement(await self._runner.run(command, keys, arguments))

    async def extend(self, resource: Resource, members: Sequence[str], *, lease_ms: int) -> list[int]:
        """Moves the end of up to 1,000 leases to so long from now; answers the indexes of those that are lost."""
        lost = await self._runner.run(*extension(self._keys.of(resource), resource, members, lease_ms=lease_ms))
        return [index - 1 for index in lost]

    async def notes(self, resource: Resource, entries: Sequence[str]) -> list[bytes | None]:
        """What the last try of each message answered, where it is kept."""
        k = self._keys.of(resource)
        return await self._runner.fetch("HMGET", k.notes, *entries)  # type: ignore[no-any-return]  # redis reply

    async def now_ms(self) -> int:
        """Redis's clock in milliseconds, as all scripts see it."""
        return int(await self._runner.run("now", (), ()))

    async def counts(self, resource: Resource) -> Counts | None:
        """Exact numbers at this moment."""
        k = self._keys.of(resource)
        if resource.fifo:
            keys = (k.meta, k.bodies, k.leases, k.waiting, k.open, k.delayed, k.suspects, k.outbox)
            reply = await self._runner.run("fifo_counts", keys, ())
        else:
            places = (k.ready, k.leases, k.waiting, k.delayed, k.suspects, k.bodies, k.outbox, k.permits, k.meta)
            reply = await self._runner.run("counts", (*places, k.order, k.open), ())
        if reply[0] == b"unknown":
            return None
        fresh, due, in_flight, retrying, delayed, suspects, outbox, running, oldest = reply[:9]
        if len(reply) > _COUNTED:  # not of a FIFO queue
            self._splits.heard(resource, reply[_COUNTED])
        return Counts(
            visible=fresh + due,
            in_flight=in_flight,
            retrying=retrying,
            delayed=delayed,
            set_apart=suspects,
            outbox=outbox,
            running=running,
            oldest_ms=None if int(oldest) < 0 else int(oldest),
        )

    async def peek(self, resource: Resource, count: int, *, max_bytes: int = limits.CLAIM_BYTES) -> list[Peeked]:
        """Up to ``count`` (at most 1,000) messages, without leasing them."""
        k = self._keys.of(resource)
        if resource.fifo:
            flat = await self._runner.run("fifo_peek", k.fifo(), (count, max_bytes))
        else:
            keys = (k.ready, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.meta, k.leases, k.order)
            flat = await self._runner.run("peek", keys, (count, max_bytes))
        return [
            Peeked(
                flat[i].decode(), int(float(flat[i + 1])), flat[i + 2].decode(), flat[i + 3], Facts.parse(flat[i + 4])
            )
            for i in range(0, len(flat), 5)
        ]

    async def expire(self, resource: Resource, *, calls: int = 10) -> int:
        """Removes messages past the retention wherever they wait, not leased ones; answers how many.

        Each of at most ``calls`` script calls looks at the first 500 of each place: only a longer queue keeps some.
        """
        k = self._keys.of(resource)
        places = (k.ready, k.waiting, k.delayed, k.suspects, k.bodies, k.facts, k.notes, k.meta)
        command: Command = "fifo_expire" if resource.fifo else "expire"
        keys = (*k.fifo(), k.delayed) if resource.fifo else (*places, k.groups, k.order)
        arguments = (_LOOKED_AT_TO_EXPIRE, k.wake if resource.fifo else limits.MIB)
        removed = 0
        for _ in range(calls):
            page, status = await self._runner.run(command, keys, arguments)
            removed += int(page)
            if status == b"through":
                break
        return removed

    async def purge(self, resource: Resource, *, not_within_ms: int | None = None) -> int | Literal["too soon"] | None:
        """Throws all messages away, in flight too; answers how many. With ``not_within_ms`` only if that long has
        passed since it was done last."""
        k = self._keys.of(resource)
        arguments = ("" if not_within_ms is None else not_within_ms,)
        held = int(await self._runner.run("purge", (k.meta, *k.held()), arguments))
        if held == _TOO_SOON:
            return "too soon"
        return None if held < 0 else held

    async def exists(self, resource: Resource, entry: str) -> bool:
        """Whether a message is still there, wherever it is."""
        k = self._keys.of(resource)
        if await self._runner.fetch("HEXISTS", k.bodies, entry):
            return True
        return not resource.fifo and bool(await self._runner.fetch("XRANGE", k.ready, entry, entry))

    async def lease_of(self, resource: Resource, entry: str) -> str | None:
        """The name of the lease that a message is under, whoever has it; None where it is under none. Looks through all
        leases, so it is for the rare case that somebody comes with an old one."""
        k = self._keys.of(resource)
        cursor = b"0"
        while True:
            cursor, found = await self._runner.fetch("ZSCAN", k.leases, cursor, "MATCH", f"{entry}|*", "COUNT", 1_000)
            if found:
                return str(found[0].decode())
            if cursor == b"0":
                return None

    async def discard(self, resource: Resource, entry: str) -> bool:
        """Removes a message of a standard queue that waits, under no lease; False where it is not there (any more)."""
        k = self._keys.of(resource)
        keys = (k.ready, k.waiting, k.open, k.suspects, k.bodies, k.facts, k.notes, k.meta, k.groups, k.order)
        return bool(await self._runner.run("discard", keys, (entry,)))


def _counted(counter: str, keep_permits: bool) -> str:  # noqa: FBT001 - spells one script argument
    return counter + ("+" if keep_permits else "")


def extension(
    k: ResourceKeys, resource: Resource, members: Sequence[str], *, lease_ms: int
) -> tuple[Command, tuple[str, ...], tuple[Argument, ...]]:
    """The script call that extends leases, also for the thread that has a connection of its own."""
    if resource.fifo:
        return "fifo_extend", k.fifo(), (lease_ms, k.wake, *members)
    return "extend", (k.leases, k.permits, k.meta, k.wake), (lease_ms, *members)
