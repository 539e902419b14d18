"""R22: workers of the release before and of this one, one after the other and side by side, with events in flight.

The release before is a git worktree of the commit that last had other scripts, or of ``PENSTOCK_FAULT_PREVIOUS``.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.history import read_histories
from tests.faults.scenarios import ROOT, previous_commit
from tests.faults.scene import (
    SEED,
    assert_nothing_left,
    judge,
    read_all,
    report,
    sized,
    wait_until_empty,
)
from tests.faults.service import Service
from tests.faults.test_restarted_redis import Producers

ROUNDS = sized(1, 5)
STAGE_S = 2.0


@pytest.fixture
def previous(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The tree of the release before, and its commit."""
    commit = previous_commit()
    if commit is None:
        pytest.skip("no git history here")
    tree = tmp_path / "previous"
    subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=ROOT, check=True, capture_output=True)
    try:
        named = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=tree, check=True, capture_output=True)
        yield tree, named.stdout.decode().strip()
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.timeout(240)
async def test_events_survive_an_upgrade_and_the_way_back(
    previous: tuple[Path, str], durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    tree, commit = previous
    started = time.monotonic()
    (old_folder := tmp_path / "old").mkdir()
    (new_folder := tmp_path / "new").mkdir()

    def service(*, old: bool) -> Service:
        folder = old_folder if old else new_folder
        root = tree if old else ROOT
        return Service(
            "steady", url=durable.url, settings=short_leases, folder=folder, processes=1, max_calls=100, root=root
        )

    old, new = service(old=True), service(old=False)
    async with Broker(durable.url, settings=short_leases) as broker:
        await old.start()
        producers = Producers(broker)
        producing = asyncio.create_task(producers.run())
        try:
            for _ in range(ROUNDS):
                await asyncio.sleep(STAGE_S)  # the old one alone, then both, then the new one alone, and back
                await new.start()
                await asyncio.sleep(STAGE_S)
                assert await old.stop() == 0, old.log_text()
                await asyncio.sleep(STAGE_S)
                await old.start()
                await asyncio.sleep(STAGE_S)
                assert await new.stop() == 0, new.log_text()
            producers.stopping = True
            await producing
            await wait_until_empty(broker, "work", timeout_s=60)
            resource = broker.core.resource("function", "work")
            await assert_nothing_left(broker, resource)
        finally:
            await old.end()
            await new.end()
    by_old, by_new = len(read_histories(old_folder)) // 2, len(read_histories(new_folder)) // 2
    for path in (*old_folder.glob("*.history"), *new_folder.glob("*.history")):
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=producers.accepted)
    log = old.log_text() + new.log_text()
    report(
        "R22",
        seed=SEED,
        previous_commit=commit,
        events=len(producers.accepted),
        rounds=ROUNDS,
        handled_by_previous=by_old,
        handled_by_this=by_new,
        redelivered=found.redelivered,
        seconds=time.monotonic() - started,
    )
    judge(found)
    assert by_old
    assert by_new
    assert "Traceback" not in log
