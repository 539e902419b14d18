"""`penstock dev` and `penstock runtime` as real processes, with a Redis that is theirs."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from broker import Broker
from broker.dev_directory import running_dev_url
from broker.settings import Settings
from broker.workers import live_workers
from tests.cli.shell import Running, Shell, eventually, started

APP = """
from broker import Queue
from runtime import App

app = App()

@app.function(on_success=Queue("done"))
async def version(event, context):
    return VERSION
"""


class Dev(Running):
    """A running `penstock dev` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.shell = Shell(folder)
        super().__init__(self.shell, "dev", "app:app", "--log-format", "json")

    async def interrupt(self) -> int:
        return await self.ended(signal.SIGINT)


@asynccontextmanager
async def dev_in(folder: Path) -> AsyncIterator[Dev]:
    with closing(Dev(folder)) as dev:
        await dev.said("penstock invoke")
        yield dev


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
        dev.process.kill()
        await dev.ended()
        os.kill(worker.pid, signal.SIGKILL)
    (tmp_path / "app.py").write_text("this is no Python\n")
    with closing(Dev(tmp_path)) as broken:
        await broken.said("app:app could not be started: see above")


async def test_dev_says_of_an_app_without_functions_that_it_has_none(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from runtime import App\n\napp = App()\n")
    with closing(Dev(tmp_path)) as dev:
        await dev.said("app:app is running, and has no functions")
        assert await dev.interrupt() == 0


async def test_dev_replaces_its_worker_when_a_file_changes_and_keeps_it_when_that_is_broken(tmp_path: Path) -> None:
    write_app(tmp_path, 1)
    async with dev_in(tmp_path) as dev:
        (tmp_path / "app.py").write_text("this is no Python\n")
        await dev.said("worker_not_replaced")
        assert "SyntaxError" in dev.err.read_text()
        assert (await dev.shell.run("call", "version", "{}")).json == 1
        write_app(tmp_path, 2)
        await dev.said("worker_replaced")

        async def new_version() -> bool:
            done = await dev.shell.run("call", "version", "{}", status=None)
            return done.status == 0 and done.json == 2

        await eventually(new_version)
        assert await dev.interrupt() == 0


async def test_runtime_serves_until_it_is_told_to_stop(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    write_app(shell.folder, 7)
    options = ("--processes", "2", "--grace", "3", "--url", redis_url)
    with started(shell, "runtime", "app:app", *options) as running:

        async def both_live() -> bool:
            assert running.process.poll() is None, running.err.read_text()
            return len(await broker.core.directory.live_workers()) == 2

        await eventually(both_live)
        assert (await shell.run("call", "version", "{}")).json == 7
        assert (await shell.run("functions", "version", "--json")).json["live_workers"] == 2
        assert await running.ended(signal.SIGTERM) == 0
    assert running.out.read_text() == ""
    assert await broker.core.directory.live_workers() == {}
