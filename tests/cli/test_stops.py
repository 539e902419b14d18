"""How `penstock runtime` ends, and what becomes of what it was running."""

from __future__ import annotations

import signal

import pytest

from broker import Broker
from tests.cli.shell import Shell, eventually, started

APP = """
import asyncio

from runtime import App

app = App()

@app.function(timeout=900)
async def wait(event, context):
    await asyncio.sleep(900)
"""


@pytest.mark.parametrize(("grace", "signals"), [("3600", 2), ("0", 1)], ids=["second signal", "no grace"])
async def test_what_is_cut_off_is_given_back_and_the_status_is_0(
    shell: Shell, broker: Broker, grace: str, signals: int
) -> None:
    (shell.folder / "app.py").write_text(APP)

    async def runs() -> bool:
        return (await broker.function("wait").counts()).in_flight == 1

    with started(shell, "runtime", "app:app", "--grace", grace, "--log-format", "json") as running:
        await running.said("worker_ready")
        await broker.invoke("wait", {})
        await eventually(runs)
        if signals > 1:
            running.process.send_signal(signal.SIGTERM)
            await running.said("worker_stopping")
        assert await running.ended(signal.SIGTERM) == 0
    counts = await broker.function("wait").counts()
    assert (counts.visible, counts.in_flight, counts.set_apart) == (1, 0, 0)
    assert '"handed_back":1' in running.err.read_text()


LAST_WORDS = """
import atexit, pathlib, time

def linger():
    pathlib.Path("ending").touch()
    time.sleep(3)

atexit.register(linger)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(
    ("command", "ready"), [(("runtime", "app:app"), "worker_ready"), (("broker", "--port", "0"), "gateway_listening")]
)
async def test_a_signal_more_while_it_ends_changes_nothing(
    shell: Shell, command: tuple[str, ...], ready: str, number: signal.Signals
) -> None:
    (shell.folder / "app.py").write_text(APP)
    (shell.folder / "sitecustomize.py").write_text(LAST_WORDS)
    shell.environment["PYTHONPATH"] = f"{shell.folder}:{shell.environment.get('PYTHONPATH', '')}"

    async def ends() -> bool:
        return (shell.folder / "ending").exists()

    with started(shell, *command, "--log-format", "json") as running:
        await running.said(ready)
        running.process.send_signal(number)
        await eventually(ends)
        assert await running.ended(number) == 0


CLOSES = """
import sys

from runtime import App

app = App()

@app.function()
async def close(event, context):
    sys.stdout.close()
"""


async def test_a_worker_whose_output_was_closed_by_a_handler_drains_all_the_same(shell: Shell, broker: Broker) -> None:
    (shell.folder / "app.py").write_text(CLOSES)
    with started(shell, "runtime", "app:app", "--log-format", "json") as running:
        await running.said("worker_ready")
        await broker.call("close", {}, timeout=10)
        assert await running.ended(signal.SIGTERM) == 0
    said = running.err.read_text()
    assert "worker_stopped" in said
    assert "Traceback" not in said
    assert "worker_died" not in said
