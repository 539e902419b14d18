"""The example's photographs, sent to workers that run already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from broker import Broker
from broker.settings import Settings
from examples.thumbnails.app import app
from examples.thumbnails.pictures import THUMBNAIL_SUFFIX, photos_in
from examples.thumbnails.send import PHOTOS
from runtime.worker import Worker
from tests.cli.shell import PROJECT, environment


async def test_the_photographs_become_thumbnails_where_the_workers_see_the_folder(
    broker: Broker, redis_url: str, settings: Settings, tmp_path: Path
) -> None:
    worker = Worker(app, redis_url, settings=settings, grace=1)
    command = [sys.executable, "-m", "examples.thumbnails.send", "--target-dir", str(tmp_path)]
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(
                command,
                cwd=PROJECT,
                env=environment(redis_url, settings),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        )
        worker.stop()
    count = len(photos_in(PHOTOS))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{count} thumbnails are made" in done.stdout
    assert len(list(tmp_path.glob(f"*{THUMBNAIL_SUFFIX}"))) == count


def test_without_redis_it_says_so_in_a_line(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    done = subprocess.run(
        [sys.executable, "-m", "examples.thumbnails.send", "--target-dir", str(tmp_path)],
        cwd=PROJECT,
        env=environment(url, None),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("send: no answer from Redis")
