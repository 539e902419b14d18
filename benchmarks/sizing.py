"""What the figures of a run mean for a machine: events a second and gigabytes of a node, with the arithmetic. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.records import Figure

QUEUED: Final = "a queued event of 100 bytes"
STORED_US: Final = "Redis CPU an event that is stored, a thousand at a time"
HANDLED_US: Final = "Redis CPU an event, one worker process"
WORKER_RATE: Final = "one worker process"
SPREAD_US: Final = "Redis CPU an event, 3 nodes, 16 partitions"
_EVENT_BYTES: Final = 100
_BUSY: Final = 0.7
_FULL_AT: Final = 0.9
_SIZES: Final = (100, 1_000, 10_000, 100_000)
_MEMORY_GB: Final = 8
_TEXT: Final = """
## Sizing

Extrapolated from the figures above, by this arithmetic:

- **A node** works on one core: {busy:.0%} of it / ({stored:.1f} us to store an event + {handled:.1f} us to claim and
  finish it) = **{node:,.0f} events/s**.
- **A worker process** got {worker:,.0f} events/s done whose handler does nothing, so {processes:.1f} of them keep a
  node busy. A handler that takes d ms of CPU needs events/s x d / 1,000 cores more.
- **Memory**: a queued event takes its own bytes and {beside:.0f} more, and a node with {gigabytes} GB of maxmemory
  takes events until {full_at:.0%} of it.
"""
_SPREAD: Final = """- **Three nodes** with 16 partitions: 3 x {node:,.0f} / {ratio:.2f} (what an event costs
  there, beside one node) = **{nodes:,.0f} events/s**.
"""


def sizing(figures: Sequence[Figure]) -> str:
    """A section in Markdown; '' where the run did not measure what it is made of."""
    found = {one.name: one for one in figures if not one.aof}
    if not {QUEUED, STORED_US, HANDLED_US, WORKER_RATE} <= found.keys():
        return ""
    beside = found[QUEUED].value - _EVENT_BYTES
    stored, handled, worker = found[STORED_US].value, found[HANDLED_US].value, found[WORKER_RATE].value
    node = _BUSY * 1e6 / (stored + handled)
    text = _TEXT.format(
        busy=_BUSY,
        stored=stored,
        handled=handled,
        node=node,
        worker=worker,
        processes=node / worker,
        beside=beside,
        gigabytes=_MEMORY_GB,
        full_at=_FULL_AT,
    )
    ratio = found[SPREAD_US].ratio if SPREAD_US in found else None
    if ratio:
        text += _SPREAD.format(node=node, ratio=ratio, nodes=3 * node / ratio)
    return text + "\n" + "\n".join(_table(beside, node)) + "\n"


def _table(beside: float, node: float) -> list[str]:
    lines = [
        f"| event | a million queued | fit into {_MEMORY_GB} GB | that is, at a node's rate |",
        "|---:|---:|---:|---:|",
    ]
    for size in _SIZES:
        fit = _FULL_AT * _MEMORY_GB * 1e9 / (size + beside)
        queued = (size + beside) / 1e3
        lines.append(f"| {size:,} bytes | {queued:,.2f} GB | {fit / 1e6:,.2f} million | {fit / node / 60:,.1f} min |")
    return lines
