"""A shell as a reader of the pages has it: `penstock` and `python` on PATH, a folder, a `penstock dev` beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from broker.embedded import find_server
from tests.docs.pages import ROOT, Block

_PATIENCE_S: Final = 30.0
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_LOOKS: Final = ("penstock queues", "penstock functions", "penstock stream")


@dataclass(frozen=True)
class Step:
    """One command of a `console` block and what it prints."""

    command: str
    output: list[str]
    place: str

    @property
    def only_looks(self) -> bool:
        """Whether it may be typed again until it shows what is awaited."""
        return self.command.startswith(_LOOKS) or "--peek" in self.command


def steps_of(block: Block) -> list[Step]:
    steps: list[Step] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], [], block.place))
        else:
            steps[-1].output.append(line)
    return steps


class Terminal:
    """Runs what a reader would type, in one folder, and ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        programs = folder.with_name(f"{folder.name}-bin")
        programs.mkdir()
        _put_command_on_path(programs)
        self.environment: Final = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PENSTOCK_REDIS_SERVER": str(find_server()),
            "COLUMNS": "200",
        }
        self._services: Final[list[Service]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for service in self._services:
            service.stop()

    def start(self, command: str) -> Service:
        """Starts what goes on until it is stopped."""
        service = Service(command, self)
        self._services.append(service)
        return service

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def follow(self, step: Step) -> None:
        """Types a command and compares what it prints; one that only looks is typed until it fits."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            done = self.type(step.command)
            if fits(step.output, done.stdout):
                return
            if not step.only_looks or time.monotonic() > deadline:
                raise AssertionError(
                    f"{step.place}: `{step.command}` printed\n{done.stdout}{done.stderr}\ninstead of\n"
                    + "\n".join(step.output)
                )
            time.sleep(0.2)


class Service:
    """A command that goes on; its output is in files."""

    def __init__(self, command: str, terminal: Terminal) -> None:
        self._out: Final = terminal.folder.with_name(f"{terminal.folder.name}-{len(command)}.log")
        self.command: Final = command
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                command.split(),
                cwd=terminal.folder,
                env={**terminal.environment, "PENSTOCK_LOG_FORMAT": "json"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def await_line(self, part: str, *, times: int = 1) -> None:
        """Returns when so many lines of its output hold the text."""
        deadline = time.monotonic() + _PATIENCE_S
        while sum(part in line for line in self.output.splitlines()) < times:
            assert self._process.poll() is None, f"`{self.command}` ended:\n{self.output}"
            assert time.monotonic() < deadline, f"no line of `{self.command}` has {part!r}:\n{self.output}"
            time.sleep(0.05)

    def stop(self) -> int:
        """Ctrl-C, as a reader stops it; answers the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def fits(expected: list[str], printed: str) -> bool:
    """Whether the lines are those of the page: ids, times and ages may differ, `…` stands for anything."""
    lines = [line.rstrip() for line in printed.rstrip("\n").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return len(lines) == len(expected) and all(
        re.fullmatch(_pattern(wanted), line) for wanted, line in zip(expected, lines, strict=True)
    )


def _pattern(line: str) -> str:
    pattern = ""
    for piece in re.split(rf"({_UUID}|{_TIME}|\s+|…|\b\d+ s\b)", line.rstrip()):
        if re.fullmatch(_UUID, piece):
            pattern += _UUID
        elif re.fullmatch(_TIME, piece):
            pattern += _TIME
        elif piece == "…":
            pattern += ".*"
        elif re.fullmatch(r"\d+ s", piece):
            pattern += r"\d+ s"
        elif piece.isspace():
            pattern += r"\s+"
        else:
            pattern += re.escape(piece)
    return pattern


def _put_command_on_path(folder: Path) -> None:
    """The installed command; where only its packages are there, the same call."""
    installed = Path(sys.executable).with_name("penstock")
    module = f'"{sys.executable}" -P -c "from runtime.cli import main; main()"'
    calls = {"penstock": f'"{installed}"' if installed.exists() else module, "python": f'"{sys.executable}"'}
    for name, call in calls.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (folder / name).chmod(0o755)
