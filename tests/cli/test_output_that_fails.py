"""What long-running commands write: at once, and where nobody can take it, they go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from broker import Broker
from broker.errors import CallError
from tests.cli.shell import Shell, eventually

APP = """
import os

from runtime import App

app = App()

@app.function(retries=0, keep_result=100)
async def tell(event, context):
    if event.get("die"):
        os._exit(7)
    print(event, flush=True)
    return "told"
"""


@pytest.fixture
def nobody() -> Iterator[int]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture
def full_disk() -> Iterator[int]:
    """A file on a disk without room."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full, which Linux has")
    file = os.open("/dev/full", os.O_WRONLY)
    yield file
    os.close(file)


@pytest.mark.parametrize("output", ["nobody", "full_disk"])
async def test_a_worker_goes_on_and_is_started_again_when_its_output_cannot_be_written(
    shell: Shell, broker: Broker, output: str, request: pytest.FixtureRequest
) -> None:
    (shell.folder / "app.py").write_text(APP)
    broken = request.getfixturevalue(output)
    process = shell.start_into(("runtime", "app:app"), broken, broken)

    async def registered() -> bool:
        assert process.poll() is None, process.poll()
        return bool(await broker.functions())

    try:
        await eventually(registered)
        for _ in range(2):
            request_id = await broker.invoke("tell", {})
            assert await broker.result(request_id, wait=15) == "told"
            with pytest.raises(CallError):
                await broker.call("tell", {"die": True}, timeout=1)
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, 15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(15)


async def test_what_a_handler_prints_is_written_before_its_process_ends(shell: Shell, broker: Broker) -> None:
    (shell.folder / "app.py").write_text(APP.replace("print(event, flush=True)", "print(event)"))
    shell.environment.pop("PYTHONUNBUFFERED", None)
    out = shell.folder / "out"
    with out.open("wb") as file:
        process = shell.start_into(("runtime", "app:app"), file.fileno(), file.fileno())

    async def registered() -> bool:
        assert process.poll() is None, out.read_text()
        return bool(await broker.functions())

    async def printed() -> bool:
        return "{'id': 1}" in out.read_text().splitlines()

    try:
        await eventually(registered)
        await broker.invoke("tell", {"id": 1})
        await eventually(printed)
    finally:
        process.kill()
        process.wait(15)
