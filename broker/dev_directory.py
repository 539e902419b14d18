"""The `.penstock/` folder of a project, by which commands find the `penstock dev` that runs there.

Everything here blocks for a short while: call it before the event loop starts, or from a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final, Self

import msgspec

from broker.errors import PenstockError
from broker.locks import try_lock

# A look by `running_dev_url` holds the lock, shared, for microseconds; an owner outlasts these tries.
LOCK_TRIES: Final = 20
LOCK_RETRY_S: Final = 0.01


class DevAlreadyRunning(PenstockError):
    """Another `penstock dev` holds this folder; `pid` is its process, None where it has not said yet."""

    code = "DevAlreadyRunning"

    def __init__(self, folder: Path, pid: int | None) -> None:
        process = f"process {pid}" if pid is not None else "its process is not known"
        super().__init__(f"penstock dev is already running in {folder} ({process}): one a folder; stop that one first")
        self.folder, self.pid = folder, pid


class DevDirectoryUnusable(PenstockError):
    """The folder cannot be made or written to; ``reason`` is what the system says."""

    code = "DevDirectoryUnusable"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}; make room there, or start in another folder")
        self.path, self.reason = path, reason


class DevDirectory:
    """The `.penstock/` folder of a project while its `penstock dev` runs; also a context manager around `acquire`.

    A lock, not a file's presence, says that it runs: the kernel drops it however the process ends. Children made by a
    bare `fork` share the lock; those that `exec` do not.
    """

    def __init__(self, project: Path) -> None:
        self.project = project.absolute()
        self.path = self.project / ".penstock"
        self._lock: int | None = None

    def acquire(self) -> None:
        """Makes the folder, which version control is told to ignore, and takes it until `release`.

        Raises `DevAlreadyRunning` with the folder and the other one's process id, `DevDirectoryUnusable`.
        """
        try:
            self._acquire()
        except OSError as error:
            raise DevDirectoryUnusable(self.path, error.strerror or str(error)) from error

    def _acquire(self) -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)
        (self.path / ".gitignore").write_text("*\n")
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(lock)
            _published_file(self.path).unlink(missing_ok=True)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock

    def publish(self, url: str) -> None:
        """Makes `url` what `running_dev_url` answers below this project; call it once the server answers."""
        if self._lock is None:
            raise RuntimeError(f"{self.path}: acquire() it before publish()")
        target = _published_file(self.path)
        new = target.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(_Published(url=url, pid=os.getpid())))
        new.replace(target)

    def release(self) -> None:
        """Withdraws the URL and gives the folder back; data stays. May be called twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            _published_file(self.path).unlink(missing_ok=True)
            os.ftruncate(lock, 0)
            os.close(lock)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, lock: int) -> None:
        for _ in range(LOCK_TRIES):
            if try_lock(lock, fcntl.LOCK_EX):
                os.ftruncate(lock, 0)
                os.pwrite(lock, b"%d" % os.getpid(), 0)
                return
            time.sleep(LOCK_RETRY_S)
        owner = os.pread(lock, 20, 0)
        raise DevAlreadyRunning(self.project, int(owner) if owner.isdigit() else None)


def running_dev_url(start: Path) -> str | None:
    """The URL of the nearest live `penstock dev` of `start` or a folder above it; None where none runs.

    What a killed one left behind, and files that cannot be read, count as nothing.
    """
    folder = start.absolute()
    for project in (folder, *folder.parents):
        path = project / ".penstock"
        if _is_held(path / "lock"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                return msgspec.json.decode(_published_file(path).read_bytes(), type=_Published).url
    return None


class _Published(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    pid: int


def _published_file(folder: Path) -> Path:
    return folder / "dev.json"


def _is_held(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two who look at the same time do not take each other for the owner.
        return not try_lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)
