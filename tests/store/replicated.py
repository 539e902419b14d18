"""A primary with a replica, both private; the replica can be stopped and continued."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis, find_server
from broker.settings import Settings

_ATTEMPTS = 400
CONFIRM_MS = 3_000  # a replica on a busy machine may need some of it
SETTINGS = Settings(confirm_ms=CONFIRM_MS)


class Replicated:
    """The two servers. Replication needs TCP: the primary listens on a free port of the loopback besides its socket."""

    def __init__(self, primary: EmbeddedRedis, replica: EmbeddedRedis) -> None:
        self.primary = primary
        self.replica = replica

    @property
    def url(self) -> str:
        """The primary's."""
        return self.primary.url

    def stop_replica(self) -> None:
        """It stands still: its connection stays, and it confirms nothing."""
        os.kill(self.replica.pid, signal.SIGSTOP)

    def continue_replica(self) -> None:
        """It catches up."""
        os.kill(self.replica.pid, signal.SIGCONT)

    async def in_step(self, broker: Broker, *, replicas: int = 1) -> None:
        """Returns when the primary has so many replicas."""
        for _ in range(_ATTEMPTS):
            if (await broker.core.durable.look()).replicas == replicas:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"there never were {replicas} replicas")


@contextlib.asynccontextmanager
async def replicated(
    folder: Path, *, append_only: bool = False, fsync: Literal["always", "everysec"] = "everysec"
) -> AsyncIterator[Replicated]:
    """Both, started, the replica in step."""
    port = _free_port()
    usual = {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}
    primary = EmbeddedRedis(
        folder / "primary",
        append_only=append_only,
        fsync=fsync,
        options={**usual, "port": str(port), "bind": "127.0.0.1"},
    )
    replica = EmbeddedRedis(
        folder / "replica",
        append_only=append_only,
        fsync=fsync,
        options={**usual, "replicaof": f"127.0.0.1 {port}"},
    )
    with primary, replica:
        pair = Replicated(primary, replica)
        async with Broker(primary.url) as broker:
            await pair.in_step(broker)
        try:
            yield pair
        finally:
            if replica.running:
                pair.continue_replica()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def skip_without_waitaof() -> None:
    """For tests that need it; no server has to run for that."""
    told = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", told)
    assert found is not None
    if "Valkey" not in told and (int(found[1]), int(found[2])) < (7, 2):
        pytest.skip(f"WAITAOF is new in Redis 7.2; this is {found[0].removeprefix('v=')}")
