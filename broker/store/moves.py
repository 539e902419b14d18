"""Move tasks in Redis: each in its source queue's own slot, and a list of the queues on which one runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker.names import Resource
from broker.store.keys import Keyspace
from broker.store.scripts import ScriptRunner

MoveStatus: TypeAlias = Literal["RUNNING", "COMPLETED", "CANCELLING", "CANCELLED", "FAILED"]
_ENDED_KEPT: Final = 10
_SCANNED_AT_ONCE: Final = 1_000
_LISTED: Final = "moves"


class MoveState(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is kept. Times are Redis's, in milliseconds."""

    id: str
    status: MoveStatus
    number: int
    """Counts the tasks of its queue."""
    started_ms: int
    newest_ms: int
    """When the newest message of the start had come; what comes later has a higher number of milliseconds."""
    to_move: int
    """Messages that there were at the start."""
    moved: int
    reason: str
    """Why it failed; '' where it did not."""
    details: bytes
    """What whoever started it wrote down, as JSON."""


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this process runs the task of a queue now. ``other``: somebody else does, for ``left_ms`` at least."""

    status: Literal["lead", "other", "none"]
    left_ms: int = 0
    now_ms: int = 0
    state: MoveState | None = None


class MoveStore:
    """Starts, leads, ends and lists tasks. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def start(
        self, source: Resource, task_id: str, details: bytes, *, to_move: int
    ) -> MoveState | Literal["busy", "unknown"]:
        """Starts a task, once under its id, and tells whoever may run it."""
        k = self._keys.of(source)
        arguments = (task_id, details, to_move, self._keys.hints, source.arn)
        status, *rest = await self._runner.run("start_move", (k.meta, k.moves), arguments)
        if status == b"started":
            return _state(task_id, *rest)
        return "busy" if status == b"busy" else "unknown"

    async def cancel(self, source: Resource, task_id: str) -> MoveState | None:
        """Asks for its end; None where no such task runs."""
        k = self._keys.of(source)
        arguments = (task_id, self._keys.hints, source.arn)
        status, *rest = await self._runner.run("cancel_move", (k.meta, k.moves), arguments)
        return _state(task_id, *rest) if status == b"cancelling" else None

    async def lead(self, source: Resource, owner: str, *, lease_ms: int) -> Lead:
        """Runs the task of a queue from now on, or goes on to, for so long; 0 leaves it to others."""
        k = self._keys.of(source)
        status, *rest = await self._runner.run("lead_move", (k.meta, k.moves), (owner, lease_ms))
        match status:
            case b"lead":
                now_ms, counter, task_id, task = rest
                return Lead(status="lead", now_ms=int(now_ms), state=_state(task_id.decode(), counter, task))
            case b"other":
                return Lead(status="other", left_ms=int(rest[0]))
            case _:
                return Lead(status="none")

    async def end(
        self, source: Resource, owner: str, task_id: str, *, status: MoveStatus, reason: str, elsewhere: int = 0
    ) -> int | None:
        """Ends a task; answers how many it has moved, None where it has ended, or is somebody else's to end.

        ``elsewhere`` is how many of them the other partitions of the source count.
        """
        k = self._keys.of(source)
        arguments = (owner, task_id, status, reason, _ENDED_KEPT, elsewhere)
        moved = int(await self._runner.run("end_move", (k.meta, k.moves), arguments))
        return None if moved < 0 else moved

    async def counted(self, parts: Sequence[Resource]) -> tuple[int, int]:
        """How many messages were ever moved out of these partitions, and when the newest of them all had come (ms)."""
        moved = newest_ms = 0
        for part in parts:
            count, last_ms = await self._runner.fetch("HMGET", self._keys.of(part).meta, "moved", "last_ms")
            moved, newest_ms = moved + int(count or 0), max(newest_ms, int(last_ms or 0))
        return moved, newest_ms

    async def all(self, source: Resource) -> list[MoveState] | None:
        """The task that runs and the ten that ended last, newest first; None where there is no such queue."""
        k = self._keys.of(source)
        reply: Sequence[Any] = await self._runner.run("moves", (k.meta, k.moves), ())
        if not reply:
            return None
        counter, *flat = reply
        pairs = [(flat[i].decode(), flat[i + 1]) for i in range(0, len(flat), 2)]
        found = [_state(name, counter, value) for name, value in pairs if not name.startswith("-")]
        return sorted(found, key=lambda state: state.number, reverse=True)

    async def under_way(self, source: Resource, suffix: str) -> bool:
        """Whether the outbox holds something whose name ends so."""
        k = self._keys.of(source)
        cursor = b"0"
        while True:
            page = ("ZSCAN", k.outbox, cursor, "MATCH", f"*:{suffix}", "COUNT", _SCANNED_AT_ONCE)
            cursor, found = await self._runner.fetch(*page)
            if found:
                return True
            if cursor == b"0":
                return False

    # -- the list of queues on which a task runs ----------------------------------------------------------------------

    async def running(self) -> dict[Resource, str]:
        """Queues of all accounts and regions on which a task runs, or did lately, with the id of one."""
        flat = await self._runner.fetch("HGETALL", self._keys.upkeep(_LISTED))
        return {Resource.from_arn(flat[i].decode()): flat[i + 1].decode() for i in range(0, len(flat), 2)}

    async def enlist(self, source: Resource, task_id: str) -> None:
        """Lists a queue. Before its task starts: one that is listed and runs nothing is harmless."""
        await self._runner.run("enlist", (self._keys.upkeep(_LISTED),), (source.arn, task_id, "", ""))

    async def delist(self, source: Resource, task_id: str) -> None:
        """Takes a queue from the list, unless another task has been listed since."""
        await self._runner.run("delist", (self._keys.upkeep(_LISTED),), (source.arn, task_id))


def _state(task_id: str, counter: bytes, task: bytes) -> MoveState:
    head, _, details = task.partition(b"\n")
    status, number, started_ms, newest_ms, before, to_move, moved, reason = head.decode().split(",", 7)
    return MoveState(
        id=task_id,
        status=status,  # type: ignore[arg-type]  # the scripts write no others
        number=int(number),
        started_ms=int(started_ms),
        newest_ms=int(newest_ms),
        to_move=int(to_move),
        moved=int(moved) if moved else int(counter) - int(before),
        reason=reason,
        details=details,
    )
