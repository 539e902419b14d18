"""A real `penstock runtime` in a process of its own, its workers' ids, and its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from broker import Broker
from broker.settings import Settings
from broker.workers import Serves

ROOT: Final = Path(__file__).parent.parent.parent
HISTORY_VARIABLE: Final = "FAULTS_HISTORY"
_READY_S: Final = 20.0


class Serve(Protocol):
    """A broker, and running workers: ``async with serve("steady", processes=2) as (broker, service)``."""

    def __call__(self, app: str, **options: Any) -> AbstractAsyncContextManager[tuple[Broker, Service]]: ...


class Service:
    """Started on entering, when its workers are ready; drained on leaving. ``root`` is the tree whose code it runs."""

    def __init__(
        self,
        app: str,
        *,
        url: str,
        settings: Settings,
        folder: Path,
        processes: int = 1,
        grace_s: float = 5.0,
        max_calls: int = 1_000,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        root: Path = ROOT,
    ) -> None:
        self._root: Final = root
        self.folder: Final = folder
        self._log: Final = folder / "log.jsonl"
        self._processes: Final = processes
        self._command: Final = [
            *(sys.executable, "-m", "runtime", "runtime", f"tests.faults.apps:{app}", "--url", url, "--json"),
            *("--processes", str(processes), "--grace", str(grace_s), "--max-calls", str(max_calls)),
            *options,
        ]
        self._environment: Final = {
            **os.environ,
            "PENSTOCK_PREFIX": settings.prefix,
            "PENSTOCK_LEASE_MS": str(settings.lease_ms),
            HISTORY_VARIABLE: str(folder),
            "PYTHONPATH": str(root),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            assert await self.stop() == 0, self.log_text()
        else:
            await self.end()

    async def start(self) -> None:
        """Returns when all its workers are ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._root, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        ready_before = len(list(self.lines("worker_ready")))
        deadline = time.monotonic() + _READY_S
        while len(list(self.lines("worker_ready"))) < ready_before + self._processes:
            assert self._process.poll() is None, self.log_text()
            assert time.monotonic() < deadline, self.log_text()
            await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """To the supervisor."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """The supervisor's exit status, once it has ended."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 60)

    async def stop(self) -> int:
        """Drains it; answers the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        return await self.wait()

    async def end(self) -> None:
        """Leaves no process behind, whatever state they are in."""
        assert self._process is not None
        children = self.children()
        self._process.kill()
        await self.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def children(self) -> list[int]:
        """The ids of its worker processes that are alive."""
        return [pid for pid in _pids() if _parent_of(pid) == self.pid]

    async def workers(self, broker: Broker) -> list[Serves]:
        """Its workers that are registered and alive."""
        alive = set(self.children())
        found = await broker.core.directory.live_workers()
        workers = [msgspec.json.decode(text, type=Serves) for text in found.values()]
        return [worker for worker in workers if worker.pid in alive]

    def lines(self, event: str) -> Iterator[dict[str, Any]]:
        """The log's lines of one kind."""
        for text in self.log_text().splitlines():
            if f'"{event}"' in text:
                with contextlib.suppress(ValueError):  # the last one is still being written
                    line = json.loads(text)
                    if line.get("event") == event:
                        yield line

    def log_text(self) -> str:
        """Everything that it and its workers have said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - numbers, not paths


def _parent_of(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])
