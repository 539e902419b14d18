"""Messages a second from a queue through a mapping to a batch handler, in one worker process."""

from __future__ import annotations

from typing import Final

from benchmarks import apps
from benchmarks.harness import Stage, rate
from benchmarks.records import Figure, Round, figure

_MESSAGES: Final = {1: 12_000, 10: 40_000, 100: 50_000, 1_000: 50_000}
_BARE: Final = 50_000
_ROUNDS: Final = 3


async def measure(stage: Stage) -> list[Figure]:
    """The worker's rate at each batch size beside that of the bare claim and finish on a queue."""
    rounds: dict[int, list[Round]] = {batch_size: [] for batch_size in _MESSAGES}
    async with stage.bed() as bed:
        core = bed.broker.core
        for batch_size in _MESSAGES:
            await bed.register(apps.batch_app(batch_size))
        total = min(stage.rounds, _ROUNDS)
        for number in range(total):
            for batch_size, full in _MESSAGES.items():
                stage.say(f"batch size {batch_size}, round {number + 1} of {total}")
                name = apps.batch_queue(batch_size)
                queue = core.resource("queue", name)
                ceiling = await rate(bed, queue, stage.size(_BARE), "bare", "drain", "queue", name)
                value = await rate(bed, queue, stage.size(full), "worker_process", "batch", str(batch_size))
                rounds[batch_size].append(Round(value, ceiling))
    return [
        figure(
            "mappings",
            f"queue mapping, batch size {batch_size:,}",
            unit="messages/s",
            aof=stage.aof,
            rounds=of_size,
            target=None,
        )
        for batch_size, of_size in rounds.items()
    ]
