"""R23: everything starts over a million queued events and many dead letters."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import msgspec
import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.limits import MAX_SEND_MESSAGES
from broker.outgoing import event_message
from broker.records import FunctionSettings
from broker.settings import Settings
from tests.faults.history import newest_lines
from tests.faults.scene import SEED, report, sized, until
from tests.faults.service import Service

EVENTS = sized(50_000, 1_000_000)
DEAD = sized(5_000, 100_000)
DELAYED = sized(5_000, 100_000)
READY_S = 15.0
PLACES = "ready|leases|delayed|waiting|suspects|bodies|facts|notes|outbox|outgoing|order|groups|holders|ended-[12]"
EVERY_KEY = re.compile(r'"(KEYS|FLUSHALL|FLUSHDB)"', re.IGNORECASE)
PLACES = "ready|leases|delayed|waiting|suspects|bodies|facts|notes|outbox|outgoing|order|groups|holders"
WHOLE = re.compile(
    rf'"((?:HGETALL|HKEYS|HVALS|ZRANGE)" "[^"]*:(?:{PLACES}))"(?: "0" "-1"| "-inf" "\\+inf" "BYSCORE")?\s*$',
    re.IGNORECASE,
)
"""Reads a place where messages are as a whole: told in the report, with how long Redis was held."""


async def fill(broker: Broker) -> None:
    """As a producer would, only faster."""
    await register_function(broker.core, "work", FunctionSettings(max_crashes=1_000))
    await broker.queue("dead").create()
    soon = event_message("x", {"ms": 0})
    late = msgspec.structs.replace(soon, delay_ms=3_600_000)
    core = broker.core
    work, dead = core.resource("function", "work"), core.resource("queue", "dead")
    for resource, message, count in ((work, soon, EVENTS), (work, late, DELAYED), (dead, soon, DEAD)):
        for start in range(0, count, MAX_SEND_MESSAGES):
            step = [message] * min(MAX_SEND_MESSAGES, count - start)
            await broker.core.messages.send(
                resource, step, token=f"fill-{resource.name}-{message is late}-{start}", bucket="fill"
            )


class Monitor:
    """Every command that Redis is given, from scripts, too."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.every_key: list[str] = []
        self.whole: set[str] = set()
        self.commands = 0

    async def watch(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=2**26)
        writer.write(b"MONITOR\r\n")
        try:
            while line := await reader.readline():
                self.commands += 1
                text = line.decode(errors="replace")
                if EVERY_KEY.search(text):
                    self.every_key.append(text[:200])
                if found := WHOLE.search(text):
                    self.whole.add(found[1].replace('"', "").partition(" ")[0] + " " + found[1].rpartition(":")[2])
        finally:
            writer.close()


@pytest.mark.timeout(240)
async def test_a_start_over_a_full_house_is_quick_and_looks_at_little(short_leases: Settings, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    with server:
        async with Broker(server.url, settings=short_leases) as broker:
            await fill(broker)
        await asyncio.to_thread(server.stop)
        started = time.monotonic()
        await asyncio.to_thread(server.start)
        redis_s = time.monotonic() - started
        monitor = Monitor(tmp_path / "redis" / "redis.sock")
        watching = asyncio.create_task(monitor.watch())
        started = time.monotonic()
        async with (
            Broker(server.url, settings=short_leases) as broker,
            Service("steady", url=server.url, settings=short_leases, folder=tmp_path, processes=2),
        ):
            ready_s = time.monotonic() - started
            await until(lambda: any(newest_lines(tmp_path)), timeout_s=30, what="the first event is handled")
            first_s = time.monotonic() - started
            before = time.monotonic()
            counts = await broker.queue("dead").counts()
            counted_s = time.monotonic() - before
            before = time.monotonic()
            looked = await broker.queue("dead").peek(100)
            peeked_s = time.monotonic() - before
            watching.cancel()
            held_us = max(entry[2] for entry in await broker.core.runner.fetch("SLOWLOG", "GET", 1_000))
            await broker.function("work").pause()
    report(
        "R23",
        seed=SEED,
        events=EVENTS,
        delayed=DELAYED,
        dead_letters=counts.total,
        redis_loaded_s=redis_s,
        workers_ready_s=ready_s,
        first_event_s=first_s,
        count_ms=1000 * counted_s,
        look_at_100_ms=1000 * peeked_s,
        commands_seen=monitor.commands,
        reads_of_a_whole_place=", ".join(sorted(monitor.whole)) or "none",
        redis_held_at_most_ms=held_us / 1000,
    )
    assert counts.total == DEAD
    assert len(looked) == 100
    assert not monitor.every_key, monitor.every_key[:5]
    assert ready_s < READY_S
