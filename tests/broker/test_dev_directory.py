"""The folder by which commands find a running `penstock dev`: one owner, found from below, nothing stale believed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest

from broker.dev_directory import DevAlreadyRunning, DevDirectory, DevDirectoryUnusable, running_dev_url
from tests.broker.children import child

DEV_CHILD = """
import signal, sys
from pathlib import Path
from broker.dev_directory import DevDirectory

dev = DevDirectory(Path(sys.argv[1]))
dev.acquire()
dev.publish("unix:///of/the/child.sock")
print("ready", flush=True)
signal.pause()
"""


def test_a_second_one_is_refused_by_name(tmp_path: Path) -> None:
    with child(DEV_CHILD, tmp_path) as (process, _):
        with pytest.raises(DevAlreadyRunning, match=rf"{tmp_path} \(process {process.pid}\)") as refused:
            DevDirectory(tmp_path).acquire()
        assert (refused.value.folder, refused.value.pid) == (tmp_path, process.pid)
        assert running_dev_url(tmp_path) == "unix:///of/the/child.sock"


def test_what_a_killed_one_left_is_ignored(tmp_path: Path) -> None:
    with child(DEV_CHILD, tmp_path) as (process, _):
        process.kill()
        process.wait()
    assert (tmp_path / ".penstock" / "dev.json").exists()
    assert running_dev_url(tmp_path) is None
    with DevDirectory(tmp_path):
        assert running_dev_url(tmp_path) is None


def test_it_is_found_from_below_until_it_ends(tmp_path: Path) -> None:
    below = tmp_path / "inner" / "deeper"
    below.mkdir(parents=True)
    with DevDirectory(tmp_path) as outer:
        outer.publish("unix:///outer.sock")
        with DevDirectory(tmp_path / "inner") as inner:
            # Locked, but not yet to be used: the outer one still serves.
            assert running_dev_url(below) == "unix:///outer.sock"
            inner.publish("unix:///inner.sock")
            assert running_dev_url(below) == "unix:///inner.sock"
            assert running_dev_url(tmp_path) == "unix:///outer.sock"
        assert running_dev_url(below) == "unix:///outer.sock"
    assert running_dev_url(below) is None


def test_its_files(tmp_path: Path) -> None:
    folder = tmp_path / ".penstock"
    with DevDirectory(tmp_path) as dev:
        dev.publish("unix:///first.sock")
        dev.publish("unix:///second.sock")
        assert json.loads((folder / "dev.json").read_text()) == {"url": "unix:///second.sock", "pid": os.getpid()}
        assert (folder / ".gitignore").read_text() == "*\n"
        dev.release()
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "lock"]


def test_a_damaged_file_counts_as_nothing(tmp_path: Path) -> None:
    with DevDirectory(tmp_path):
        (tmp_path / ".penstock" / "dev.json").write_text('{"url": 7')
        assert running_dev_url(tmp_path) is None


def test_a_process_that_it_started_does_not_keep_the_folder(tmp_path: Path) -> None:
    with DevDirectory(tmp_path):
        started = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with started, DevDirectory(tmp_path):
        assert started.poll() is None


def test_a_look_at_the_lock_does_not_hinder_an_owner(tmp_path: Path) -> None:
    with DevDirectory(tmp_path):
        pass
    with (tmp_path / ".penstock" / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        release = subprocess.Popen(["sleep", "0.05"], pass_fds=[looking.fileno()])
    with release, DevDirectory(tmp_path) as dev:
        dev.publish("unix:///own.sock")
        assert running_dev_url(tmp_path) == "unix:///own.sock"


def test_nothing_is_published_without_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="acquire"):
        DevDirectory(tmp_path).publish("unix:///early.sock")


def test_a_folder_that_cannot_be_written_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / ".penstock").write_text("a file")
    with pytest.raises(DevDirectoryUnusable, match=rf"^{tmp_path}/.penstock cannot be written: File exists; make room"):
        DevDirectory(tmp_path).acquire()
