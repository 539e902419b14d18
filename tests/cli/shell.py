"""The command as a real process, with its output taken apart."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from broker.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "runtime")
_END_S = 15


@dataclass(frozen=True)
class Ended:
    """What one run of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout; anything else there is an error."""
        return msgspec.json.decode(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """One document a line."""
        return [msgspec.json.decode(line) for line in self.out.splitlines()]

    def cells(self, first: str) -> list[str]:
        """The words of the table's row that begins so."""
        return next(line for line in self.out.splitlines() if line.startswith(first)).split()


class Shell:
    """Runs `penstock` in a folder, against one Redis and prefix."""

    def __init__(self, folder: Path, *, url: str | None = None, settings: Settings | None = None) -> None:
        self.folder = folder
        self.environment = environment(url, settings)

    async def run(self, *words: str, stdin: bytes = b"", status: int | None = 0) -> Ended:
        """Runs to the end; fails the test on another exit status than this (None: any)."""
        done = await anyio.run_process(
            [*COMMAND, *words],
            input=stdin,
            cwd=self.folder,
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert status is None or ended.status == status, ended
        return ended

    def start(self, words: Sequence[str], *, out: Path, err: Path) -> subprocess.Popen[bytes]:
        """Starts one that goes on; its output in files."""
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return self.start_into(words, stdout.fileno(), stderr.fileno())

    def start_into(self, words: Sequence[str], stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        """The same; its output in files that are open."""
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


class Running:
    """A command that goes on, and what it has said: on stdout in the file ``out`` of the shell's folder, on stderr in
    ``err``."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self.out, self.err = shell.folder / "out", shell.folder / "err"
        self.process = shell.start(words, out=self.out, err=self.err)

    async def said(self, words: str) -> str:
        """What is on stdout as soon as these words are there or on stderr; fails the test where it ends before."""

        async def look() -> bool:
            assert self.process.poll() is None, self.err.read_text()
            return words in self.out.read_text() + self.err.read_text()

        await eventually(look)
        return self.out.read_text()

    async def ended(self, number: signal.Signals | None = None) -> int:
        """The exit status, as soon as there is one; after this signal."""
        if number is not None:
            self.process.send_signal(number)
        return await anyio.to_thread.run_sync(self.process.wait, _END_S)

    def close(self) -> None:
        """Ends it where the test has not."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def started(shell: Shell, *words: str) -> Iterator[Running]:
    """A command that goes on until it ends, or the test does."""
    running = Running(shell, *words)
    try:
        yield running
    finally:
        running.close()


def environment(url: str | None, settings: Settings | None) -> dict[str, str]:
    """This process's environment without its own PENSTOCK_ settings, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PENSTOCK_") or name == "PENSTOCK_REDIS_SERVER"
    }
    kept["PYTHONPATH"] = str(PROJECT)
    if url is not None:
        kept["PENSTOCK_REDIS_URL"] = url
    if settings is not None:
        kept |= {"PENSTOCK_PREFIX": settings.prefix, "PENSTOCK_TEST_CLOCK": "1"}
    return kept


async def eventually(check: Any, *, within_s: float = 15.0) -> Any:
    """The first truth that a (coroutine) function answers; fails the test when there is none in time."""
    with anyio.fail_after(within_s):
        while not (found := await check()):  # noqa: ASYNC110 - what it waits for is in another process
            await anyio.sleep(0.05)
        return found


def on_terminal(shell: Shell, words: tuple[str, ...], typed: bytes) -> tuple[int, str]:
    """Runs the command on a pseudo-terminal, with these keys pressed."""
    ours, theirs = pty.openpty()
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen([*COMMAND, *words], cwd=shell.folder, env=shell.environment, **streams) as process:
        os.close(theirs)
        os.write(ours, typed)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the other end is closed
            pass
        status = process.wait(20)
    os.close(ours)
    return status, said.decode()
