"""The apps that the worker process of a measurement runs: handlers that do nothing, so that only Penstock is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from runtime import App, Context

NOOP: Final = "noop"
KEPT: Final = "kept"
STAMP: Final = "stamp"
STRAGGLERS: Final = "stragglers"
NAP: Final = "nap"
NAP_S: Final = 0.005
NAPS: Final = 10
"""How many of them run at a time in a process."""
FAIL_EVERY: Final = 33  # about 3 %
_LATER_S: Final = 3_600.0

_latencies_ns: list[int] = []


def take_latencies_ns() -> list[int]:
    """What `stamp` has measured since the last time."""
    taken = list(_latencies_ns)
    _latencies_ns.clear()
    return taken


async def noop(event: dict[str, Any], context: Context) -> None:
    """One event a call."""


async def swallow(event: dict[str, Any], context: Context) -> None:
    """One batch a call."""


async def stamp(event: dict[str, Any], context: Context) -> None:
    """Notes how long ago its event was sent, on the clock that all processes of a machine share."""
    _latencies_ns.append(time.monotonic_ns() - event["sent_ns"])


async def straggle(event: dict[str, Any], context: Context) -> None:
    """Fails for 3 % of its events, which then wait for a retry."""
    if event["n"] % FAIL_EVERY == 0:
        raise ValueError("not now")


async def nap(event: dict[str, Any], context: Context) -> None:
    """Waits, as for a database."""
    await asyncio.sleep(NAP_S)


def noop_app(functions: int = 1) -> App:
    """So many functions that do nothing, and keep nothing of it."""
    app = App()
    for index in range(functions):
        app.function(name=NOOP if index == 0 else f"{NOOP}-{index}", keep_status=0)(noop)
    return app


def kept_app() -> App:
    """A function that does nothing; how its events ended is kept for the usual hour."""
    app = App()
    app.function(name=KEPT)(noop)
    return app


def batch_app(batch_size: int) -> App:
    """A batch handler that does nothing, on a queue of its own, without a window."""
    app = App()
    app.queue(batch_queue(batch_size), name=f"swallow-{batch_size}", batch_size=batch_size)(swallow)
    return app


def batch_queue(batch_size: int) -> str:
    """The queue of that batch handler."""
    return f"batches-of-{batch_size}"


def stamp_app() -> App:
    """A function that measures how late it is."""
    app = App()
    app.function(name=STAMP)(stamp)
    return app


def stragglers_app() -> App:
    """A function of which a few events fail and wait for an hour."""
    app = App()
    app.function(name=STRAGGLERS, retries=1, retry_delays=(_LATER_S,))(straggle)
    return app


def nap_app() -> App:
    """A function that waits."""
    app = App()
    app.function(name=NAP, keep_status=0)(nap)
    return app


_APPS: Final[dict[str, Callable[..., App]]] = {
    NOOP: noop_app,
    KEPT: kept_app,
    "batch": batch_app,
    STAMP: stamp_app,
    STRAGGLERS: stragglers_app,
    NAP: nap_app,
}


def build(name: str, *numbers: int) -> App:
    """An app by the name that the command line of the worker process gives."""
    return _APPS[name](*numbers)
