"""Every Python block of the guides: whole files are run as programs or tests, snippets one after the other."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from broker import Broker, FunctionError
from broker.queue_settings import describe_queue
from broker.settings import Settings
from runtime import App, Context, Worker
from tests.docs.pages import ROOT, Block, blocks, name_of, page, pages

FILES = {"test_app.py", "test_with_a_worker.py", "app.py", "script.py"}
"""Whole files of the guides; the tests below run each of them."""
RUN_ELSEWHERE = {
    "README.md",
    "docs/tutorial.md",
    "docs/guides/from-sqs.md",
    "docs/guides/from-lambda.md",
    "docs/guides/from-celery.md",
}


@asynccontextmanager
async def serving(app: App, url: str, settings: Settings) -> AsyncIterator[None]:
    worker = Worker(app, url, settings=settings)
    running = asyncio.create_task(worker.run())
    try:
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        worker.stop()
        await running


async def run_snippets(snippets: list[Block], names: dict[str, Any]) -> None:
    """Executes the snippets of a page in one namespace; they may await."""
    for block in snippets:
        lines = "\n" * (block.line - 1)
        compiled: CodeType = compile(
            lines + block.text, block.place, "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        result = eval(compiled, names)  # noqa: S307 - the text of our own pages
        if inspect.iscoroutine(result):
            await result


def python_blocks(path: Path) -> list[Block]:
    return [block for block in blocks(path) if block.language == "python"]


def snippets_of(path: Path) -> list[Block]:
    return [block for block in python_blocks(path) if block.file_name is None]


def write_files(path: Path, folder: Path) -> None:
    for block in python_blocks(path):
        if block.file_name:
            (folder / block.file_name).write_text(block.text, encoding="utf-8")


def run_python(folder: Path, *arguments: str, url: str, settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "PYTEST_"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_REDIS_URL": url,
        "PENSTOCK_PREFIX": settings.prefix,
        "PENSTOCK_TEST_CLOCK": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_every_page_is_run_by_a_test() -> None:
    guides = {page(f"guides/{name}.md") for name in ("producing", "handlers", "fifo-queues", "dead-letters", "tracing")}
    for path in pages():
        for block in python_blocks(path):
            assert name_of(path) in RUN_ELSEWHERE or path in guides, f"{block.place}: no test runs this"
            assert block.file_name is None or name_of(path) in RUN_ELSEWHERE or block.file_name in FILES, block.place


async def test_producing(
    broker: Broker, redis_url: str, settings: Settings, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App()

    @app.function(name="order")
    async def order(event: dict[str, Any], context: Context) -> dict[str, Any]:
        return {"id": event["id"]}

    @app.function(name="tell")
    async def tell(event: dict[str, Any], context: Context) -> AsyncIterator[str]:
        for word in event["words"]:
            yield f"{word} "

    path = page("guides/producing.md")
    write_files(path, folder)
    async with serving(app, redis_url, settings):
        await run_snippets(snippets_of(path), {"broker": broker})
        script = await asyncio.to_thread(run_python, folder, "script.py", url=redis_url, settings=settings)
    assert (script.returncode, script.stderr) == (0, "")
    # Of four messages one is delayed; the others were received and deleted.
    assert script.stdout.splitlines()[1] == "1"
    shown = capsys.readouterr().out
    assert "once upon " in shown
    assert "plain text is stored as it is" in shown
    assert "somebody else" not in shown


async def test_handlers(broker: Broker, redis_url: str, settings: Settings, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "app"}
    await run_snippets(snippets_of(page("guides/handlers.md")), names)
    app: App = names["app"]
    async with serving(app, redis_url, settings):
        assert await broker.call("fetch", {"url": "x"}) == {"fetched": "x"}
        assert await broker.call("checksum", {"text": "ab"}) == 195
        assert await broker.call("tell", {"words": ["once", "upon"]}) == "once upon "
        assert await broker.call("place", {"id": 3}) == {"id": 3, "quantity": 1}
        with pytest.raises(FunctionError, match="UnmarshalError"):
            await broker.call("place", {"quantity": "two"})
        assert await broker.call("refund", {"refund_id": "r-1", "cents": 5}) == {"refunded": 5}
        assert await broker.call("refund", {"refund_id": "r-1", "cents": 5}) == {"refunded": 5}
        assert names["refunds"] == ["r-1"]
        with pytest.raises(FunctionError, match="IdempotencyPayloadChanged"):
            await broker.call("refund", {"refund_id": "r-1", "cents": 6})
        await broker.invoke("charge", {"cents": 250}, id="pay-1")
        await broker.queue("mails").send_many(["ada@example.com", "nobody"])
        await broker.queue("orders").send_many([{"id": 1}, {"id": 2, "quantity": 0}, "no order"])
        totals = [{"kind": "order", "total": total} for total in (250, 99)]
        await broker.queue("events").send_many([*totals, "no order"])
        await eventually(lambda: charged(folder), [("pay-1", 250)])
        for queue, failed in (("mails", 1), ("orders", 2)):
            await eventually(partial(counted, broker, queue), (0, failed))
        await eventually(partial(deleted_by_filters, broker, "events"), 2)


async def test_fifo_queues(
    broker: Broker, redis_url: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "app", "broker": broker}
    await run_snippets(snippets_of(page("guides/fifo-queues.md")), names)
    assert "customer-1" in capsys.readouterr().out
    await broker.queue("orders.fifo").send_batch(
        {"body": body, "group": group, "deduplication_id": body}
        for group, body in (("a", "state-1"), ("a", "unknown"), ("a", "state-2"), ("b", "state-3"))
    )
    async with serving(names["app"], redis_url, settings):
        # Nothing behind the first failure is deleted: what is behind it in its group waits with it.
        await eventually(partial(waiting, broker, "orders.fifo"), "waiting")
    left = {message.body for message in await broker.queue("orders.fifo").peek(10)}
    assert {"unknown", "state-2"} <= left
    assert "state-1" not in left


async def waiting(broker: Broker, queue: str) -> str:
    counts = await broker.queue(queue).counts()
    return "waiting" if counts.retrying and not counts.in_flight else str(counts)


async def test_tracing(broker: Broker, redis_url: str, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = snippets_of(page("guides/tracing.md"))
    names: dict[str, Any] = {"__name__": "app", "broker": broker}
    await run_snippets(others, names)
    await broker.queue("thumbnails").create()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(names["app"], redis_url, settings):
        await run_snippets([first], names)
        (message,) = await broker.queue("thumbnails").receive(wait=10)
        assert (message.json(), message.traceparent) == ({"of": 7}, parent)
        await broker.invoke("page", {"page": 1})
        await eventually(partial(nothing_left, broker, "page"), 0)
        await eventually(lambda: parent in capsys.readouterr().out, wanted=True)
        assert (await broker.function("page").counts()).total == 0


async def nothing_left(broker: Broker, function: str) -> int:
    return (await broker.function(function).counts()).total


async def test_dead_letters(broker: Broker) -> None:
    await run_snippets(snippets_of(page("guides/dead-letters.md")), {"broker": broker})
    assert (await broker.queue("mails").counts()).visible == 1


def charged(folder: Path) -> Any:
    import sqlite3  # noqa: PLC0415 - only here

    with closing(sqlite3.connect(folder / "charges.db")) as database:
        try:
            return database.execute("SELECT request, cents FROM charges").fetchall()
        except sqlite3.OperationalError:
            return None


async def deleted_by_filters(broker: Broker, queue: str) -> int:
    described = await describe_queue(broker.core, broker.core.resource("queue", queue))
    return described.counters["filtered"]


async def counted(broker: Broker, queue: str) -> tuple[int, int]:
    counts = await broker.queue(queue).counts()
    return counts.visible + counts.in_flight, counts.retrying


async def eventually(look: Callable[[], Any], wanted: object) -> None:
    """Looks until it is so; a test that waits in vain says what it saw."""
    seen: object = None
    for _ in range(400):
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{seen!r} instead of {wanted!r}")


async def test_the_tests_of_the_guide_pass(redis_url: str, settings: Settings, folder: Path) -> None:
    write_files(page("guides/handlers.md"), folder)
    for name in ("test_app.py", "test_with_a_worker.py"):
        done = await asyncio.to_thread(
            run_python, folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", name, url=redis_url, settings=settings
        )
        assert done.returncode == 0, done.stdout + done.stderr
