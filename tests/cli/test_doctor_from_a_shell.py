"""doctor: lines for people, JSON for programs, an exit status by the worst."""

from __future__ import annotations

import re
from pathlib import Path

from broker import Broker
from broker.embedded import EmbeddedRedis
from tests.cli.shell import Shell, eventually


async def test_the_doctor_says_a_line_a_matter_and_ends_by_the_worst(shell: Shell, broker: Broker) -> None:
    await broker.queue("orders").create()
    done = await shell.run("doctor", "--watch", "0", status=3)  # without a limit for its memory
    assert done.out.startswith("Redis at unix://")
    assert done.out.count("Redis at ") == 1
    assert "WARNING memory: " in done.out
    assert re.search(r"^0 errors, \d+ warnings?, \d+ notes?, \d+ ok$", done.err, re.MULTILINE)
    assert "          -> set maxmemory" in done.out
    assert 'ok      backlog: queue "orders": 0 wait, 0 in flight' in done.out
    assert "asking the server" in done.err
    listed = await shell.run("doctor", "--watch", "0", "--json", status=3)
    assert listed.err == ""
    assert listed.json_lines[0]["subject"].startswith("Redis at unix://")
    assert {"severity", "check", "subject", "text", "advice"} == listed.json_lines[0].keys()


async def test_an_error_is_status_4_and_a_server_that_cannot_be_asked_1(tmp_path: Path) -> None:
    options = {"maxmemory-policy": "allkeys-lru"}
    with EmbeddedRedis(tmp_path / "r", append_only=False, options=options) as server:
        done = await Shell(tmp_path, url=server.url).run("doctor", "--watch", "0", status=4)
        assert "ERROR   eviction" in done.out
    gone = await Shell(tmp_path, url="unix:///nowhere/redis.sock").run("doctor", "--json", status=1)
    assert gone.json["error"] == "StoreUnavailable"


async def test_a_server_whose_disk_refuses_writes_is_looked_at_all_the_same(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with EmbeddedRedis(tmp_path / "r", append_only=False, options={"save": "900 1"}) as server:
        shell = Shell(tmp_path, url=server.url)
        await shell.run("create", "orders")
        async with Broker(server.url) as broker:
            fetch = broker.core.runner.fetch
            await fetch("CONFIG", "SET", "dir", str(gone))
            gone.rmdir()
            await fetch("BGSAVE")

            async def failed() -> bool:
                return b"rdb_last_bgsave_status:err" in await fetch("INFO", "persistence")

            await eventually(failed)
        sent = await shell.run("send", "orders", "x", status=1)
        assert "cannot serve at the moment: MISCONF " in sent.err
        assert sent.err.endswith("; make room on its disk, or look into its log\n")
        done = await shell.run("doctor", "--watch", "0", status=4)
        assert "ERROR   disk: the last attempt failed: rdb_last_bgsave_status" in done.out
        assert 'ok      backlog: queue "orders": 0 wait, 0 in flight' in done.out
