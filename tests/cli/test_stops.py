"""How `penstock runtime` ends, and what becomes of what it was running."""

from __future__ import annotations

import signal

import anyio.to_thread
import pytest

from broker import Broker
from tests.cli.shell import Shell, eventually

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
    out, err = shell.folder / "out", shell.folder / "err"
    process = shell.start(["runtime", "app:app", "--grace", grace, "--log-format", "json"], out=out, err=err)

    async def said(words: str) -> bool:
        assert process.poll() is None, err.read_text()
        return words in err.read_text()

    async def running() -> bool:
        return (await broker.function("wait").counts()).in_flight == 1

    try:
        await eventually(lambda: said("worker_ready"))
        await broker.invoke("wait", {})
        await eventually(running)
        process.send_signal(signal.SIGTERM)
        if signals > 1:
            await eventually(lambda: said("worker_stopping"))
            process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, 15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(15)
    counts = await broker.function("wait").counts()
    assert (counts.visible, counts.in_flight, counts.set_apart) == (1, 0, 0)
    assert '"handed_back":1' in err.read_text()


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
    out, err = shell.folder / "out", shell.folder / "err"
    process = shell.start([*command, "--log-format", "json"], out=out, err=err)
    try:
        await eventually(lambda: has(ready in err.read_text()))
        process.send_signal(number)
        await eventually(lambda: has((shell.folder / "ending").exists()))
        process.send_signal(number)
        assert await anyio.to_thread.run_sync(process.wait, 15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(15)


async def has(answer: bool) -> bool:  # noqa: FBT001 - what was looked at
    return answer


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
    out, err = shell.folder / "out", shell.folder / "err"
    process = shell.start(["runtime", "app:app", "--log-format", "json"], out=out, err=err)
    try:
        await eventually(lambda: has("worker_ready" in err.read_text()))
        await broker.call("close", {}, timeout=10)
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, 15) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(15)
    assert "worker_stopped" in err.read_text()
    assert "Traceback" not in err.read_text()
    assert "worker_died" not in err.read_text()
