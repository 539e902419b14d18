"""The least user of Redis's ACL, as docs/operations/redis.md has it: everything works under it, nothing is to spare."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from broker import Broker, Queue, Stream
from broker.doctor.checkup import Checkup
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from broker.store.rights import COMMANDS, SINCE_7_2, acl_rule
from broker.store.server import has_waitaof, read_info
from runtime import App, Context
from tests.docs.pages import ROOT
from tests.runtime.scene import eventually, received, serving
from tests.store.audit import check_state
from tests.store.fifo_situation import FIFO_OPERATIONS, FifoSituation
from tests.store.operations import OPERATIONS
from tests.store.situation import Situation

PREFIX = "penstock"
SETTINGS = Settings(prefix=PREFIX, test_clock=True)


class Guarded:
    """A server with two users: one that may do everything, and the least one."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.url = server.url
        self.least_url = server.url.replace("unix://", "unix://penstock:secret@")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    with EmbeddedRedis(tmp_path / "redis", append_only=True) as server:
        async with Broker(server.url, settings=SETTINGS) as admin:
            info = read_info(await admin.core.runner.fetch("INFO"))
            rule = acl_rule(PREFIX, waitaof=has_waitaof(info)).split()
            await admin.core.runner.fetch("ACL", "SETUSER", "penstock", "on", ">secret", *rule)
        yield Guarded(server)


def test_what_the_scripts_call_is_allowed() -> None:
    called = set()
    for file in resources.files("broker.store").joinpath("lua").iterdir():
        called |= {name.lower() for name in re.findall(r"redis\.call\('([A-Z]+)'", file.read_text())}
    assert called <= set(COMMANDS)


def test_the_page_has_the_rule_that_is_tested() -> None:
    text = (ROOT / "docs/operations/redis.md").read_text(encoding="utf-8")
    assert f"ACL SETUSER penstock on >PASSWORD {acl_rule(PREFIX)}" in " ".join(text.replace("\\\n", "").split())
    assert all(f"+{command}" in text for command in SINCE_7_2)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_every_script_runs(guarded: Guarded, name: str) -> None:
    operation = OPERATIONS[name]
    async with Broker(guarded.url, settings=SETTINGS) as admin, Broker(guarded.least_url, settings=SETTINGS) as least:
        situation = Situation(admin)
        await situation.build()
        if operation.command == "restore":
            await situation.strand()
        situation.core = least.core  # type: ignore[misc]  # from here on as the least user
        await operation.run(situation)
        if operation.command != "delete":
            await check_state(admin.core, situation.queue)


@pytest.mark.parametrize("name", FIFO_OPERATIONS)
async def test_every_script_of_fifo_queues_runs(guarded: Guarded, name: str) -> None:
    async with Broker(guarded.url, settings=SETTINGS) as admin, Broker(guarded.least_url, settings=SETTINGS) as least:
        situation = FifoSituation(admin)
        await situation.build()
        situation.core = least.core  # type: ignore[misc]  # from here on as the least user
        await FIFO_OPERATIONS[name].run(situation)


def app_of_all() -> App:
    app = App()

    @app.function(on_success=Stream("done"), dead_letter=Queue("dead"), retries=1, retry_delays=(0,), keep_result=100)
    async def work(event: Any, _: Context) -> Any:
        if event == "fail":
            raise ValueError(event)
        return event

    @app.queue("orders", batch_size=10)
    async def batch(event: Any, _: Context) -> None:
        assert event["Records"]

    return app


async def test_a_worker_and_the_sdk_run(guarded: Guarded) -> None:
    url = guarded.least_url
    async with Broker(url, settings=SETTINGS) as broker, serving(app_of_all(), url, SETTINGS):
        assert await broker.call("work", {"a": 1}, timeout=10) == {"a": 1}
        assert await broker.call("work", "x" * 200_000, timeout=10) == "x" * 200_000  # too large for a channel
        request_id = await broker.invoke("work", {"a": 2})
        assert await broker.result(request_id, wait=10) == {"a": 2}
        await broker.invoke("work", "fail")
        assert [message.json() for message in await received(broker, "dead")] == ["fail"]
        await eventually(broker.stream("done").length, what="a record")
        assert len(await broker.stream("done").read()) >= 1
        await broker.queue("orders").send_many([str(number) for number in range(30)])
        await eventually(lambda: _empty(broker, "orders"), what="the mapping empties its queue")
        fifo = broker.queue("pay.fifo")
        await fifo.create(content_deduplication=True)
        await fifo.send("a", group="g")
        (message,) = await fifo.receive(wait=5)
        await message.delete()
        await broker.queue("dead").redrive(to=Queue("orders"))
        await broker.queue("dead").start_move()
        await broker.queue("dead").purge()
        await broker.function("work").pause()
        await broker.function("work").resume()
        await broker.queue("orders").delete(force=True)


async def _empty(broker: Broker, queue: str) -> bool:
    return not (await broker.queue(queue).counts()).total


async def test_the_doctor_is_content_with_it(guarded: Guarded) -> None:
    async with Broker(guarded.least_url, settings=SETTINGS) as broker:
        await broker.queue("orders").create(durability="everysec")
        findings = [each async for each in Checkup(broker.core, watch_s=0, progress=lambda _: None).run()]
    by_check = {each.check: each for each in findings}
    assert (by_check["rights"].severity, by_check["access"].severity) == ("ok", "ok")


async def test_nothing_else_may_be_done(guarded: Guarded) -> None:
    async with Broker(guarded.least_url, settings=SETTINGS) as broker:
        for words in (
            ("CONFIG", "SET", "maxmemory", 0), ("KEYS", "*"), ("FLUSHALL",), ("DEBUG", "SLEEP", 0), ("ACL", "LIST"),
            ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("GET", "elsewhere"), ("PUBLISH", "elsewhere", ""),
            ("SCRIPT", "FLUSH"), ("CLIENT", "LIST"), ("MODULE", "LIST"), ("SAVE",), ("LPUSH", "penstock:x", "x"),
        ):  # fmt: skip
            # From Redis 7 on DEBUG is switched off for everybody, which is looked at before the rights.
            with pytest.raises(Exception, match=r"refused: .*permission|answered: DEBUG command not allowed"):
                await asyncio.wait_for(broker.core.runner.fetch(*words), 5)
