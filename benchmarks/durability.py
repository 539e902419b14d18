"""What each durability level costs a producer: single sends from 50 tasks to a queue that requires it."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from benchmarks.harness import Stage, event
from benchmarks.records import Figure, Round, Target, figure
from broker import Broker
from broker.embedded import EmbeddedRedis

_TASKS: Final = 50
_SENDS: Final = 30_000
_QUEUE: Final = "orders"
_LEVELS: Final = ("memory", "everysec", "fsync", "replica:1")
_ON_DISKS: Final = "replica-fsync:1"
"""Measured where the server has WAITAOF (Redis from 7.2 on, Valkey); all files are synced before every answer."""
_PATIENCE_S: Final = 30.0
_TARGETS: Final = {"fsync": Target(of="ratio", at_least=1 / 3)}


async def measure(stage: Stage) -> list[Figure]:
    """The rate at each level beside that at ``everysec``, in the same round."""
    async with AsyncExitStack() as stack:
        brokers = {level: await stack.enter_async_context(_broker(level)) for level in _LEVELS}
        if (await brokers["memory"].core.durable.look()).waitaof:
            brokers[_ON_DISKS] = await stack.enter_async_context(_broker(_ON_DISKS))
        rounds: dict[str, list[Round]] = {level: [] for level in brokers}
        for level, broker in brokers.items():
            await broker.queue(_QUEUE).create(durability=level)
        for number in range(stage.rounds):
            stage.say(f"round {number + 1} of {stage.rounds}")
            rates = {level: await _rate(broker, stage.size(_SENDS)) for level, broker in brokers.items()}
            for level, rate in rates.items():
                rounds[level].append(Round(rate, None if level == "everysec" else rates["everysec"]))
    return [
        figure(
            "durability",
            f"send from {_TASKS} tasks, {level}{'' if level == 'everysec' else ', beside everysec'}",
            unit="messages/s",
            aof=level not in {"memory", "replica:1"},
            rounds=rounds[level],
            target=_TARGETS.get(level),
        )
        for level in rounds
    ]


async def _rate(broker: Broker, sends: int) -> float:
    queue, numbers = broker.queue(_QUEUE), iter(range(sends))

    async def sender() -> None:
        for number in numbers:
            await queue.send(event(number))

    started = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(_TASKS)))
    rate = sends / (time.perf_counter() - started)
    await queue.purge()
    return rate


@asynccontextmanager
async def _broker(level: str) -> AsyncIterator[Broker]:
    """An open broker on a private server that gives the level; with a replica in step where one is needed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        port = _free_port()
        listens = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
        on_disk = level in {"everysec", "fsync", _ON_DISKS}
        fsync: Literal["always", "everysec"] = "always" if level in {"fsync", _ON_DISKS} else "everysec"
        primary = EmbeddedRedis(
            folder / "primary",
            append_only=on_disk,
            fsync=fsync,
            options=listens if level.startswith("replica") else None,
        )
        stack.enter_context(primary)
        if level.startswith("replica"):
            replica = EmbeddedRedis(
                folder / "replica",
                append_only=on_disk,
                fsync=fsync,
                options={"replicaof": f"127.0.0.1 {port}"},
            )
            stack.enter_context(replica)
        broker = await stack.enter_async_context(Broker(primary.url))
        if level.startswith("replica"):
            async with asyncio.timeout(_PATIENCE_S):
                while not (await broker.core.durable.look()).replicas:  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(0.05)
        yield broker


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
