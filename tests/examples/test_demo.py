"""`make demo` as it is run: a process without a terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from PIL import Image

from examples.thumbnails import demo

PROJECT = Path(demo.__file__).resolve().parents[2]
PHOTOS = PROJECT / "examples" / "thumbnails" / "photos"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.thumbnails.demo", *words],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def numbers_in(table: str) -> dict[str, str]:
    """The rows of the table: name to number, whatever it is drawn with."""
    rows = re.findall(r"^\W*([a-z][a-z ,-]*?)\W+([\d.]+)\W*$", table, flags=re.MULTILINE)
    return dict(rows)


def test_the_demo_ends_by_itself_with_a_table_and_a_contact_sheet(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.jpg.thumb.jpg").write_bytes(b"of an earlier run")
    done = run("--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = numbers_in(done.stdout)
    photos = len(list(PHOTOS.glob("*.jpg")))
    expected = {"sent": photos + 1, "succeeded": photos, "retried": 2, "dead-lettered": 1}
    assert {name: int(found[name]) for name in expected} == expected
    assert found["records in the failure queue"] == "1"
    assert float(found["events a second, up to the last success"]) > 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)

    for fact in ("condition: RetriesExhausted", "approximateInvokeCount: 3", "errorType: UnreadablePhotoError"):
        assert fact in done.stdout
    assert "ErrorCode: 200" in done.stdout
    assert '"source" is corrupt.jpg' in done.stdout

    assert str(out / "contact-sheet.jpg") in done.stdout
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert min(sheet.size) > 300
    assert len(list(out.glob("*.thumb.jpg"))) == photos
    log = [msgspec.json.decode(line) for line in (out / "runtime.log").read_text().splitlines()]
    assert {"worker_ready", "event_failed", "worker_stopped"} <= {line["event"] for line in log}


def test_the_demo_takes_any_folder_with_broken_photographs_among_them(tmp_path: Path) -> None:
    photos = tmp_path / "my photos [1]"
    photos.mkdir()
    for number in range(30):
        shutil.copy(PHOTOS / "clock.jpg", photos / f"clock {number}.jpg")
    (photos / "empty.png").touch()
    done = run("--photos", str(photos), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = numbers_in(done.stdout)
    assert (found["sent"], found["succeeded"], found["dead-lettered"]) == ("32", "30", "2")


def test_what_is_wrong_is_said_with_status_1(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, expected in ((tmp_path / "missing", "there is no such folder"), (empty, "no photographs")):
        done = run("--photos", str(folder), "--out", str(tmp_path / "out"))
        assert done.returncode == 1
        assert expected in done.stderr
    no_server = run("--out", str(tmp_path / "out"), PENSTOCK_REDIS_SERVER="/nowhere/redis-server")
    assert no_server.returncode == 1
    assert "Install one" in no_server.stderr
