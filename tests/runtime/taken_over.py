"""An existing Lambda handler, run as a user would: `penstock runtime --handler` in its folder, in another process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread
import pytest

from broker import Broker
from broker.settings import Settings
from tests.cli.shell import Shell, eventually

_STOP_S = 15
_OF_OUR_SURROUNDINGS = ("AWS_", "LAMBDA_", "POWERTOOLS_", "TZ")
"""What the variables of the machine that runs the tests begin with, so that handlers see none of them."""


class TakenOver:
    """The running command, with what its handlers have printed."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def printed(self) -> list[dict[str, Any]]:
        """The lines that are JSON objects."""
        lines = [line for line in self.out.splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in lines]


class TakeOver(Protocol):
    """Writes a file and runs a handler of it: ``async with take_over("app.handler", text, "--queue", "in") as run``."""

    def __call__(
        self, handler: str, text: str, *words: str, **environment: str
    ) -> AbstractAsyncContextManager[TakenOver]: ...


@pytest.fixture
def take_over(tmp_path: Path, broker: Broker, redis_url: str, settings: Settings) -> TakeOver:
    @asynccontextmanager
    async def run(handler: str, text: str, *words: str, **environment: str) -> AsyncIterator[TakenOver]:
        module = handler.rpartition(".")[0].replace(".", "/")
        file = tmp_path / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        shell = Shell(tmp_path, url=redis_url, settings=settings)
        for name in [name for name in shell.environment if name.startswith(_OF_OUR_SURROUNDINGS)]:
            del shell.environment[name]
        shell.environment |= {"PYTHONUNBUFFERED": "1", **environment}
        command = ["runtime", "--handler", handler, "--function", "orders", "--grace", "1", "--log-format", "json"]
        process = shell.start([*command, *words], out=tmp_path / "out", err=tmp_path / "err")
        running = TakenOver(tmp_path, process)

        async def live() -> bool:
            assert process.poll() is None, running.err
            return "worker_ready" in running.err

        try:
            await eventually(live)
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
            await anyio.to_thread.run_sync(process.wait, _STOP_S)

    return run
