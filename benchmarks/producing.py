"""Events a second that one producer can store: many a call, one by one, and one by one from many tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

from benchmarks import apps, bare
from benchmarks.harness import Bed, Stage, event, packed
from benchmarks.records import Figure, Round, Target, figure
from broker.names import Resource

_EVENTS: Final = 100_000
_SINGLES: Final = 4_000
_CONCURRENT: Final = 20_000
_TASKS: Final = 50
_TARGET: Final = Target(of="ratio", at_least=1 / 2)


async def measure(stage: Stage) -> list[Figure]:
    """`invoke_many` and `invoke` beside the bare send script."""
    many: list[Round] = []
    single: list[Round] = []
    concurrent: list[Round] = []
    async with stage.bed() as bed:
        await bed.register(apps.noop_app())
        producer = _Producer(bed)
        for number in range(stage.rounds):
            stage.say(f"invoke_many, round {number + 1} of {stage.rounds}")
            many.append(await producer.many(stage.size(_EVENTS)))
            stage.say(f"invoke, round {number + 1} of {stage.rounds}")
            single.append(await producer.one_by_one(stage.size(_SINGLES), tasks=1))
            stage.say(f"invoke from {_TASKS} tasks, round {number + 1} of {stage.rounds}")
            concurrent.append(await producer.one_by_one(stage.size(_CONCURRENT), tasks=_TASKS))
            await bed.broker.function(apps.NOOP).purge()
    made = (
        ("invoke_many, 100,000 events", many, _TARGET),
        ("invoke, one at a time", single, None),
        (f"invoke, from {_TASKS} tasks", concurrent, None),
    )
    return [
        figure("producing", name, unit="events/s", aof=stage.aof, rounds=rounds, target=target)
        for name, rounds, target in made
    ]


class _Producer:
    def __init__(self, bed: Bed) -> None:
        self._bed: Final = bed
        self._function: Final[Resource] = bed.broker.core.resource("function", apps.NOOP)
        self._numbers: Final = count()

    async def many(self, total: int) -> Round:
        """A list of so many events in one call, beside ready-packed thousands."""
        ceiling = await self._bare_many(total)  # its messages are gone before: the collector would walk through them
        events = [event(index) for index in range(total)]
        return Round(await _rate(lambda: self._bed.broker.invoke_many(apps.NOOP, events), total), ceiling)

    async def _bare_many(self, total: int) -> float:
        messages = [packed(index) for index in range(total)]

        async def loop() -> None:
            for start in range(0, total, bare.PAGE):
                page = messages[start : start + bare.PAGE]
                await bare.send(self._bed.broker.core, self._function, page, self._token())

        return await _rate(loop, total)

    async def one_by_one(self, total: int, *, tasks: int) -> Round:
        """Each event awaited before the task's next one."""
        core, broker = self._bed.broker.core, self._bed.broker
        message, sent = [packed(0)], event(0)

        async def bare_loop() -> None:
            for _ in range(total // tasks):
                await bare.send(core, self._function, message, self._token())

        async def product_loop() -> None:
            for _ in range(total // tasks):
                await broker.invoke(apps.NOOP, sent)

        ceiling = await _rate(lambda: asyncio.gather(*(bare_loop() for _ in range(tasks))), total)
        value = await _rate(lambda: asyncio.gather(*(product_loop() for _ in range(tasks))), total)
        return Round(value, ceiling)

    def _token(self) -> str:
        return f"bare{next(self._numbers)}"


async def _rate(work: Callable[[], Awaitable[object]], total: int) -> float:
    started = time.perf_counter()
    await work()
    return total / (time.perf_counter() - started)
