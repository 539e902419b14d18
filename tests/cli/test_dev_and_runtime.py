"""`penstock dev` and `penstock runtime` as real processes, with a Redis that is theirs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread

from broker import Broker
from broker.dev_directory import running_dev_url
from broker.settings import Settings
from broker.workers import live_workers
from tests.cli.shell import Shell, eventually

APP = """
from broker import Queue
from runtime import App

app = App()

@app.function(on_success=Queue("done"))
async def version(event, context):
    return VERSION
"""


class Dev:
    """A running `penstock dev` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.shell = Shell(folder)
        self.folder = folder
        self.out, self.err = folder / "dev.out", folder / "dev.err"
        self.process = self.shell.start(["dev", "app:app", "--log-format", "json"], out=self.out, err=self.err)

    async def ready(self) -> None:
        async def said() -> bool:
            assert self.process.poll() is None, self.err.read_text()
            return "penstock invoke" in self.out.read_text()

        await eventually(said)

    async def printed(self) -> str:
        async def said() -> str:
            assert self.process.poll() is None, self.err.read_text()
            return self.out.read_text()

        return str(await eventually(said))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(15)

    async def logged(self, words: str) -> None:
        async def said() -> bool:
            assert self.process.poll() is None, self.err.read_text()
            return words in self.err.read_text()

        await eventually(said)

    async def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return await anyio.to_thread.run_sync(self.process.wait, 15)


@asynccontextmanager
async def dev_in(folder: Path) -> AsyncIterator[Dev]:
    dev = Dev(folder)
    try:
        await dev.ready()
        yield dev
    finally:
        if dev.process.poll() is None:
            dev.process.terminate()
            dev.process.wait(15)


def write_app(folder: Path, version: int) -> None:
    (folder / "app.py").write_text(f"VERSION = {version}\n{APP}")


async def test_dev_serves_this_folder_and_those_below_and_refuses_a_second_one(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    below = tmp_path / "below"
    below.mkdir()
    async with dev_in(tmp_path) as dev:
        screen = dev.out.read_text()
        assert "app:app is running: version" in screen
        assert "penstock invoke version '{}'" in screen
        assert (await Shell(below).run("call", "version", "{}")).json == 1
        second = await dev.shell.run("dev", "app:app", status=1)
        assert "already running" in second.err
        assert str(dev.process.pid) in second.err
        assert await dev.interrupt() == 0
        assert "Traceback" not in dev.err.read_text()
    assert running_dev_url(tmp_path) is None
    assert not list((tmp_path / ".penstock").rglob("*.sock"))


async def test_what_dev_holds_survives_a_restart(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    for run in range(2):
        async with dev_in(tmp_path) as dev:
            async with Broker(running_dev_url(tmp_path)) as broker:
                if run == 0:
                    await broker.queue("kept").create()
                    await broker.queue("kept").send("still here")
                (message,) = await broker.queue("kept").peek()
                assert message.body == "still here"
            assert await dev.interrupt() == 0


async def test_dev_starts_its_redis_again_when_that_died(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    async with dev_in(tmp_path) as dev:
        (pid_file,) = (tmp_path / ".penstock").rglob("*.pid")
        before = int(pid_file.read_text())
        os.kill(before, signal.SIGKILL)

        async def another() -> bool:
            return pid_file.is_file() and pid_file.read_text().strip() not in {"", str(before)}

        await eventually(another)

        async def serves_again() -> bool:
            return (await dev.shell.run("call", "version", "{}", status=None)).out == "1\n"

        await eventually(serves_again)
        assert await dev.interrupt() == 0


async def test_dev_does_not_take_a_worker_that_died_with_its_predecessor_for_its_own(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    async with dev_in(tmp_path) as dev:
        async with Broker(running_dev_url(tmp_path)) as broker:
            (worker,) = await live_workers(broker.core)
        os.kill(worker.pid, signal.SIGSTOP)
        dev.kill()
        os.kill(worker.pid, signal.SIGKILL)
    (tmp_path / "app.py").write_text("this is no Python\n")
    broken = Dev(tmp_path)
    try:
        assert "app:app could not be started: see above" in await broken.printed()
    finally:
        broken.kill()


async def test_dev_says_of_an_app_without_functions_that_it_has_none(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from runtime import App\n\napp = App()\n")
    dev = Dev(tmp_path)
    try:
        assert "app:app is running, and has no functions" in await dev.printed()
        assert await dev.interrupt() == 0
    finally:
        dev.kill()


async def test_dev_replaces_its_worker_when_a_file_changes_and_keeps_it_when_that_is_broken(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    async with dev_in(tmp_path) as dev:
        (tmp_path / "app.py").write_text("this is no Python\n")
        await dev.logged("worker_not_replaced")
        assert "SyntaxError" in dev.err.read_text()
        assert (await dev.shell.run("call", "version", "{}")).json == 1
        write_app(tmp_path, 2)
        await dev.logged("worker_replaced")

        async def new_version() -> bool:
            done = await dev.shell.run("call", "version", "{}", status=None)
            return done.status == 0 and done.json == 2

        await eventually(new_version)
        assert await dev.interrupt() == 0


async def test_runtime_serves_until_it_is_told_to_stop(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    write_app(shell.folder, 7)
    out, err = shell.folder / "out", shell.folder / "err"
    process = shell.start(
        ["runtime", "app:app", "--processes", "2", "--grace", "3", "--url", redis_url], out=out, err=err
    )
    try:

        async def both_live() -> bool:
            assert process.poll() is None, err.read_text()
            return len(await broker.core.directory.live_workers()) == 2

        await eventually(both_live)
        assert (await shell.run("call", "version", "{}")).json == 7
        assert (await shell.run("functions", "version", "--json")).json["live_workers"] == 2
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, 15) == 0
    finally:
        stop(process)
    assert out.read_text() == ""
    assert await broker.core.directory.live_workers() == {}


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(15)
