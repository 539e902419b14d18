"""The apps that the fault tests run: handlers that write down what they do, and handlers that do what no one should."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sqlite3
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from broker import Function, Queue
from runtime import App, Context
from tests.faults.history import Kind, Recorder

HISTORY_VARIABLE: Final = "FAULTS_HISTORY"


@cache
def _folder() -> Path:
    return Path(os.environ[HISTORY_VARIABLE])


@cache
def _recorder() -> Recorder:
    return Recorder(_folder())


def _note(kind: Kind, context: Context) -> None:
    _recorder().write(kind, context.aws_request_id, fence=context.fencing_token, attempt=context.attempt)


# -- short work, for crashes and restarts: the killer's hits are not the events' fault, so none is quarantined ---------

steady = App()


@steady.function(max_crashes=1_000)
async def work(event: dict[str, int], context: Context) -> None:
    """Takes as many milliseconds as the event says."""
    _note("start", context)
    await asyncio.sleep(event["ms"] / 1000)
    _note("end", context)


@steady.function(max_crashes=1_000)
async def trickle(event: dict[str, int], context: Context) -> None:
    """Runs beside, and does nothing."""
    _note("start", context)
    _note("end", context)


# -- side effects with the token, for workers that are stopped and go on later ----------------------------------------

zombies = App()


@cache
def _store() -> sqlite3.Connection:
    return open_effects(_folder())


def open_effects(folder: Path) -> sqlite3.Connection:
    """The store of side effects: keeps for each event the one with the greatest token, and every attempt to write."""
    store = sqlite3.connect(folder / "effects.sqlite", isolation_level=None, timeout=30)
    store.execute("PRAGMA journal_mode=WAL")
    store.execute("CREATE TABLE IF NOT EXISTS effects (event TEXT PRIMARY KEY, token INTEGER, pid INTEGER)")
    store.execute("CREATE TABLE IF NOT EXISTS attempts (event TEXT, token INTEGER, pid INTEGER, kept INTEGER)")
    return store


@zombies.function(max_crashes=1_000, concurrency=4, timeout=60)
async def charge(event: dict[str, float], context: Context) -> None:
    """Writes its side effect at the end, unless a newer lease has."""
    _note("start", context)
    await asyncio.sleep(event["s"])
    row = (context.aws_request_id, context.fencing_token, os.getpid())
    kept = _store().execute(
        "INSERT INTO effects VALUES (?, ?, ?) ON CONFLICT (event) DO UPDATE"
        " SET token = excluded.token, pid = excluded.pid WHERE excluded.token > token",
        row,
    )
    _store().execute("INSERT INTO attempts VALUES (?, ?, ?, ?)", (*row, kept.rowcount))
    _note("effect", context)
    _note("end", context)


# -- events that end their process, or try to -------------------------------------------------------------------------

poison = App()


@poison.function(retries=0, on_failure=Queue("failed"), dead_letter=Queue("dead"))
async def swallow(event: dict[str, str], context: Context) -> object:
    """Does what the event says."""
    _note("start", context)
    answer = _do(event["do"])
    _note("end", context)
    return answer


@poison.function(max_crashes=1_000)
async def graze(event: int, context: Context) -> None:
    """A neighbour, which waits for something else as most handlers do."""
    await asyncio.sleep(0.02)


class _Unprintable(Exception):
    def __str__(self) -> str:
        return "x" * 100_000_000


def _recurse(depth: int) -> int:
    return _recurse(depth + 1) + 1


def _do(what: str) -> object:
    match what:
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "sys.exit":
            sys.exit(4)
        case "memory":
            return bytearray(1 << 60)
        case "recurse":
            return _recurse(0)
        case "loud":
            raise _Unprintable
        case "unencodable":
            return object()
        case _:
            pass
    return "well"


stubborn = App()


@stubborn.function(retries=0, timeout=1)
def cling(event: dict[str, float], context: Context) -> None:
    """In a thread, which nobody can end. The first run of all ends the process."""
    _note("start", context)
    mark = _folder() / "has-died"
    if not mark.exists():
        time.sleep(0.3)  # until the others run too
        mark.touch()
        os._exit(9)
    time.sleep(event["s"])
    _note("end", context)


# -- handlers that hold the loop --------------------------------------------------------------------------------------

blocking = App()


@blocking.function(timeout=60)
async def block(event: dict[str, Any], context: Context) -> None:
    """Holds the event loop so long, in one of three ways."""
    _note("start", context)
    seconds = float(event["s"])
    match event["how"]:
        case "sleep":
            time.sleep(seconds)  # noqa: ASYNC251 - that is the point
        case "python":
            _count_for(seconds)
        case "c":
            mark = _folder() / "has-held"
            if not mark.exists():  # the first time only
                mark.touch()
                _hold_interpreter(seconds)
        case _:
            await asyncio.sleep(seconds)
    _note("end", context)


def _count_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def _hold_interpreter(seconds: float) -> None:
    """One C call that never lets another thread run."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


# -- work that a stop meets in all its stages -------------------------------------------------------------------------

draining = App()


@draining.function(timeout=600)
async def mixed(event: dict[str, int], context: Context) -> None:
    """Most are done in no time; the others would take longer than any grace period, until the test lets them end."""
    _note("start", context)
    try:
        await asyncio.sleep(event["ms"] / 1000)
        while event["long"] and not (_folder() / "let-them-end").exists():  # noqa: ASYNC110 - another process's event
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        _note("cut", context)
        raise
    _note("end", context)


# -- large events, some of which fail for good: for a Redis that is full ----------------------------------------------

heavy = App()


@heavy.function(retries=0, max_crashes=1_000, dead_letter=Queue("dead"))
async def carry(event: dict[str, Any], context: Context) -> None:
    """Takes as many milliseconds as the event says, and fails if it says so."""
    _note("start", context)
    await asyncio.sleep(event["ms"] / 1000)
    if event["fails"]:
        raise ValueError("no")
    _note("end", context)


# -- groups whose order counts ----------------------------------------------------------------------------------------

ordered = App()


@ordered.queue("steps.fifo", name="step", batch_size=10, partial_failures=True, max_crashes=1_000)
async def step(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Notes each record as `group:number`; one that says so fails, and with it what stands behind it in its group."""
    failed: set[str] = set()
    names = []
    for record in event["Records"]:
        group, _, number = record["body"].partition(":")
        attempt = int(record["attributes"]["ApproximateReceiveCount"])
        if group in failed:
            names.append(record["messageId"])
            continue
        _recorder().write("start", record["body"], fence=context.fencing_token, attempt=attempt)
        await asyncio.sleep(0.001)
        if number.endswith("!") or (number.endswith("?") and attempt == 1):
            failed.add(group)
            names.append(record["messageId"])
        _recorder().write(
            "cut" if group in failed else "end", record["body"], fence=context.fencing_token, attempt=attempt
        )
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


# -- an app that loads and cannot be registered -----------------------------------------------------------------------

impossible = App()


@impossible.function(on_success=Function("circle"))
async def circle(event: object, context: Context) -> None:
    """Would call itself for ever."""


# -- processes that are to be exchanged -------------------------------------------------------------------------------

hoarding = App()
_hoard: Final[list[bytearray]] = []


@hoarding.function()
async def hoard(event: dict[str, int], context: Context) -> int:
    """Never lets go of so many MB; answers whose they are."""
    _hoard.append(bytearray(os.urandom(1024) * 1024 * event["mb"]))
    return os.getpid()


needy = App()
_needed: Final[list[bytearray]] = []


@needy.function()
async def need(event: dict[str, int], context: Context) -> int:
    """Takes so many MB at its first call and no more later; answers whose they are."""
    if not _needed:
        _needed.append(bytearray(os.urandom(1024) * 1024 * event["mb"]))
    return os.getpid()


once_only = App()


@once_only.function()
async def whoami(event: dict[str, int], context: Context) -> int:
    """Answers the process; there is only one that can start."""
    return os.getpid()


if "FAULTS_ONCE" in os.environ and HISTORY_VARIABLE in os.environ:
    (_folder() / "started").touch(exist_ok=False)


# -- what ends the loop itself, beside a handler that nothing stops ----------------------------------------------------

leaving = App()


@leaving.function(timeout=600)
async def stay(event: object, context: Context) -> None:
    """Swallows every cancellation."""
    _note("start", context)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(600)


@leaving.function()
async def leave(event: str, context: Context) -> str:
    """Ends the loop in which all calls run."""
    loop = asyncio.get_running_loop()
    if event == "exit":
        loop.call_soon(sys.exit, 3)
    else:
        loop.call_soon(loop.stop)
    return event
