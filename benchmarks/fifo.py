"""FIFO queues through the SDK beside a standard queue: sending a thousand a call, sending from many tasks, receiving
ten and deleting them. With few groups and with many, which must not cost more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import msgspec

from benchmarks.harness import Stage, event
from benchmarks.records import Figure, Round, Target, figure
from broker import Broker
from broker.limits import MAX_SEND_MESSAGES
from broker.queues import Entry

_GROUPS: Final = (10, 10_000)
_MESSAGES: Final = 20_000
_SINGLES: Final = 10_000
_TASKS: Final = 50
_RECEIVED: Final = 10
_STANDARD: Final = "standard"
_TARGET: Final = Target(of="ratio", at_least=1 / 2)


class _Rates(msgspec.Struct, frozen=True):
    """Messages a second of one queue."""

    batches: float
    singles: float
    received: float


_FIGURES: Final = {
    "batches": "send_batch of 1,000",
    "singles": f"send from {_TASKS} tasks",
    "received": "receive of 10 and delete_many",
}


async def measure(stage: Stage) -> list[Figure]:
    """Each way of each number of groups beside the same on a standard queue."""
    rounds: dict[tuple[str, int], list[Round]] = {(name, groups): [] for name in _FIGURES for groups in _GROUPS}
    async with stage.bed() as bed:
        lanes = {groups: _Lane(bed.broker, f"groups-{groups}.fifo", groups) for groups in _GROUPS}
        standard = _Lane(bed.broker, _STANDARD, 0)
        for lane in (standard, *lanes.values()):
            await lane.prepare()
        for number in range(stage.rounds):
            stage.say(f"standard queue, round {number + 1} of {stage.rounds}")
            beside = await standard.rates(stage)
            for groups, lane in lanes.items():
                stage.say(f"{groups:,} groups, round {number + 1} of {stage.rounds}")
                found = await lane.rates(stage)
                for name in _FIGURES:
                    rounds[name, groups].append(Round(getattr(found, name), getattr(beside, name)))
    return [
        figure(
            "fifo",
            f"{_FIGURES[name]}, {groups:,} groups",
            unit="messages/s",
            aof=stage.aof,
            rounds=rounds[name, groups],
            target=_TARGET,
        )
        for name in _FIGURES
        for groups in _GROUPS
    ]


class _Lane:
    """One queue; with a number of groups it is a FIFO queue."""

    def __init__(self, broker: Broker, name: str, groups: int) -> None:
        self._queue: Final = broker.queue(name)
        self._groups: Final = groups
        self._numbers: Final = count()

    async def prepare(self) -> None:
        """Creates the queue, and sends through it once, so that what is made once is made."""
        await self._queue.create()
        await self._queue.send_batch([self._entry() for _ in range(_RECEIVED)])
        await self._receive_all()

    async def rates(self, stage: Stage) -> _Rates:
        """One round. It ends with an empty queue."""
        messages, singles = stage.size(_MESSAGES), stage.size(_SINGLES)
        entries = [self._entry() for _ in range(messages)]
        batches = await _rate(lambda: self._send_all(entries), messages)
        received = await _rate(self._receive_all, messages)
        one_by_one = [self._entry() for _ in range(singles)]
        single = await _rate(lambda: self._send_from_tasks(one_by_one), singles)
        await self._queue.purge()
        return _Rates(batches, single, received)

    def _entry(self) -> Entry:
        number = next(self._numbers)
        entry: Entry = {"body": event(number)}
        if self._groups:
            entry["group"] = f"group-{number % self._groups}"
            entry["deduplication_id"] = str(number)
        return entry

    async def _send_all(self, entries: list[Entry]) -> None:
        for start in range(0, len(entries), MAX_SEND_MESSAGES):
            await self._queue.send_batch(entries[start : start + MAX_SEND_MESSAGES])

    async def _send_from_tasks(self, entries: list[Entry]) -> None:
        async def each(mine: list[Entry]) -> None:
            for entry in mine:
                await self._queue.send(**entry)

        await asyncio.gather(*(each(entries[start::_TASKS]) for start in range(_TASKS)))

    async def _receive_all(self) -> None:
        while messages := await self._queue.receive(_RECEIVED):
            if await self._queue.delete_many(messages):
                raise RuntimeError("a message was received by somebody else")


async def _rate(work: Callable[[], Awaitable[object]], total: int) -> float:
    started = time.perf_counter()
    await work()
    return total / (time.perf_counter() - started)
