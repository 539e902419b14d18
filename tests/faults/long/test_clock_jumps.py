"""R10: Redis's clock jumps, and stands still. Workers never decide by their own."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import SERVER_VARIABLE, EmbeddedRedis, find_server
from broker.settings import Settings
from tests.faults import checker
from tests.faults.ledger import Granted
from tests.faults.scene import SEED, assert_nothing_left, judge, read_all, report, sized, wait_until_empty
from tests.faults.service import Service
from tests.faults.tools import libfaketime

EVENTS = sized(2_000, 20_000)
CALLS = 200
HOUR_S = 3_600


class FakeClock:
    """The clock of a redis-server: ahead or behind by so many seconds, or standing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shift(0)

    def shift(self, seconds: int) -> None:
        """From now on the server's clock goes so many seconds ahead."""
        self._write(f"{seconds:+d}s\n")

    def stand(self) -> None:
        """It shows this moment until it is shifted."""
        self._write(time.strftime("%Y-%m-%d %H:%M:%S\n", time.localtime()))

    def _write(self, text: str) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(text)
        part.replace(self._file)


@pytest.fixture
def fake_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Comes before the server: its program is replaced by one that loads the library."""
    library = libfaketime()
    if library is None:
        pytest.skip("libfaketime is not installed (Debian, Ubuntu: apt install faketime)")
    clock, program = FakeClock(tmp_path / "clock"), tmp_path / "redis-server"
    settings = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(tmp_path / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    program.write_text(f'#!/bin/sh\nexec env {words} {shlex.quote(str(find_server()))} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv(SERVER_VARIABLE, str(program))
    return clock


@pytest.fixture
def drifting(fake_clock: FakeClock, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    options = {"auto-aof-rewrite-percentage": "0"}
    with EmbeddedRedis(tmp_path / "redis", fsync="always", options=options) as server:
        yield server


async def server_ahead_s(broker: Broker) -> float:
    seconds, micros = await broker.core.runner.fetch("TIME")
    return int(seconds) + int(micros) / 1e6 - time.time()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("jump", ["forward", "back", "stands"])
async def test_a_jumping_clock_loses_nothing_and_fences_whom_it_overtakes(
    fake_clock: FakeClock, drifting: EmbeddedRedis, short_leases: Settings, tmp_path: Path, jump: str
) -> None:
    started = time.monotonic()
    if jump == "back":
        fake_clock.shift(HOUR_S)
    async with (
        Broker(drifting.url, settings=short_leases) as broker,
        Service("steady", url=drifting.url, settings=short_leases, folder=tmp_path, processes=2, max_calls=CALLS),
    ):
        before_s = await server_ahead_s(broker)
        ids = await broker.invoke_many("work", ({"ms": 200 + number % 5} for number in range(EVENTS)))
        await asyncio.sleep(0.3)  # in the middle of the work
        match jump:
            case "forward":
                fake_clock.shift(HOUR_S)
            case "back":
                fake_clock.shift(0)
            case _:
                fake_clock.stand()
                await asyncio.sleep(5 * short_leases.lease_ms / 1000)
                fake_clock.shift(0)
        after_s = await server_ahead_s(broker)
        ids += await broker.invoke_many("work", [{"ms": 1}] * 100)
        resource = broker.core.resource("function", "work")
        await wait_until_empty(broker, "work", timeout_s=100)
        await assert_nothing_left(broker, resource)
    async with Broker(drifting.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, drifting, tmp_path, ids=ids)
    report(
        f"R10 {jump}",
        seed=SEED,
        events=len(ids),
        server_ahead_before_s=before_s,
        server_ahead_after_s=after_s,
        redelivered=found.redelivered,
        leases=sum(isinstance(step, Granted) for step in found.steps),
        seconds=time.monotonic() - started,
    )
    # After a jump forward every lease has ended: what runs goes on beside its successor, and is refused at its end.
    # A clock that stood jumps forward when it goes again.
    judge(found, stopped={run.pid for run in found.runs} if jump != "back" else ())
    if jump == "forward":
        assert found.redelivered
    assert checker.lost(ids, found.runs) == []
