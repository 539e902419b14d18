"""The guide from Celery: its app under its script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import blocks, page
from tests.docs.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path) as opened:
        yield opened


def test_the_script_of_the_guide_runs_against_its_app(terminal: Terminal) -> None:
    for block in blocks(page("guides/from-celery.md")):
        if block.language == "python":
            (terminal.folder / str(block.file_name)).write_text(block.text, encoding="utf-8")
    dev = terminal.start("penstock dev app:app --no-gateway --no-reload")
    dev.await_line("app:app is running: add, import_file, remind, report")
    done = terminal.type("python script.py")
    assert (done.stdout, done.returncode) == ("5\n[13, 14, 15]\n", 0), done.stderr
    dev.await_line("imported 2")
    dev.await_line("reminding ada")
    assert dev.stop() == 0
