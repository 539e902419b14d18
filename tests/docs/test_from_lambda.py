"""The guide from Lambda, as somebody with a function for Lambda would follow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import blocks, page
from tests.docs.terminal import Terminal, steps_of

GUIDE = page("guides/from-lambda.md")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    folder = tmp_path / "project"
    folder.mkdir()
    with Terminal(folder) as opened:
        yield opened


@pytest.fixture
def written(terminal: Terminal) -> Terminal:
    """With the files of the guide."""
    for block in blocks(GUIDE):
        if block.language == "python":
            file = terminal.folder / str(block.file_name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    return terminal


def test_the_guide_runs_as_written(written: Terminal) -> None:
    dev = None
    for block in blocks(GUIDE):
        for step in steps_of(block) if block.language == "console" else []:
            if step.command.startswith("penstock dev"):
                dev = written.start(step.command)
                for line in step.output:
                    dev.await_line(line)
            else:
                written.follow(step)
    assert dev is not None
    dev.await_line("orders: order 1 into orders")
    assert dev.stop() == 0


def test_the_app_of_the_guide_serves_the_same_handler(written: Terminal) -> None:
    dev = written.start("penstock dev app:app --no-gateway")
    dev.await_line("app:app is running: count, orders")
    done = written.type("""penstock call orders '{"Records": []}'""")
    assert done.stdout == '{"batchItemFailures":[]}\n', done.stderr
    assert written.type("""penstock send orders-in '{"id": 3, "quantity": 1}'""").returncode == 0
    dev.await_line("orders: order 3 into orders")
    assert dev.stop() == 0


def test_the_error_of_a_missing_package_is_that_of_the_page(written: Terminal) -> None:
    (written.folder / "orders/app.py").write_text("import a_package_that_is_nowhere\n", encoding="utf-8")
    dev = written.type("penstock dev --no-reload --handler orders.app.handler --function orders --no-gateway")
    assert dev.returncode == 1
    told = (
        "Runtime.ImportModuleError: Unable to import module 'orders.app': No module named 'a_package_that_is_nowhere'"
    )
    assert told in dev.stderr
    assert "Runtime.ImportModuleError: Unable to import module" in " ".join(GUIDE.read_text(encoding="utf-8").split())
