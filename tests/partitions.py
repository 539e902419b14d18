"""What is seen of partitions from outside: which one an id tells, or picks, and what a look at them costs."""

from __future__ import annotations

from typing import Final

from broker import Broker
from broker.ids import id_mark, partition_of
from broker.store.partitions import partition_of_id

PARTITIONS: Final = 4
"""Over how many of them the tests split a queue or function."""


def of(message_id: str) -> int:
    """The partition that an id tells."""
    mark = id_mark(message_id)
    assert mark is not None
    return partition_of(mark)


def named(partition: int, count: int = PARTITIONS) -> str:
    """An id of a caller that picks this partition."""
    return next(f"n{number}" for number in range(1_000) if partition_of_id(f"n{number}", count) == partition)


async def commands(broker: Broker) -> int:
    """How many scripts the server, or all of a cluster, has run."""
    total = 0
    for _, fetch in broker.core.runner.servers():
        info: bytes = await fetch("INFO", "commandstats")
        stats = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        total += int(stats["cmdstat_evalsha"].split(",")[0].removeprefix("calls=")) if "cmdstat_evalsha" in stats else 0
    return total
