"""The README's two listings and every step of the tutorial, as a reader would type them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, page
from tests.docs.terminal import Terminal, steps_of


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    folder = tmp_path / "project"
    folder.mkdir()
    with Terminal(folder) as opened:
        yield opened


def test_the_listings_of_the_readme_run_as_written(terminal: Terminal) -> None:
    listings = {block.file_name: block.text for block in blocks(ROOT / "README.md") if block.language == "python"}
    assert sorted(name for name in listings if name) == ["app.py", "producer.py"]
    for name, text in listings.items():
        (terminal.folder / str(name)).write_text(text, encoding="utf-8")

    dev = terminal.start("penstock dev app:app")
    dev.await_line("app:app is running: contact_sheet, thumbnail")
    produced = terminal.type("python producer.py")

    assert (produced.returncode, produced.stderr) == (0, "")
    # Two of the three orders can be received: the first is sent with a delay of five seconds.
    assert len(produced.stdout.splitlines()) in {1, 2}
    assert all("{'id': " in line and line.endswith(" {} 1") for line in produced.stdout.splitlines())
    dev.await_line('"event":"batches_settled"')
    shown = terminal.type("penstock functions --json").stdout
    assert '"counters":{"sent":1,"done":1,"failed":0' in shown
    assert dev.stop() == 0


@pytest.mark.timeout(240)
def test_the_tutorial_runs_as_written(terminal: Terminal) -> None:
    dev = None
    replaced = 0
    for block in blocks(page("tutorial.md")):
        if block.language == "python":
            write(terminal, block)
            if dev is not None and block.file_name == "app.py":
                replaced += 1
                dev.await_line('"event":"worker_replaced"', times=replaced)
            continue
        for step in steps_of(block):
            if step.command.startswith("penstock dev"):
                dev = terminal.start(step.command)
                for line in step.output:
                    dev.await_line(line)
            else:
                terminal.follow(step)
    assert dev is not None
    for told in ("attempt 1 of order 1", "attempt 3 of order 7", "mail to ada@example.com", "mail to eve@example.com"):
        dev.await_line(told)
    for event in ('"given_up":"RetriesExhausted"', '"event":"function_changed"', '"succeeded":1'):
        dev.await_line(event)
    dev.await_line("attempt 1 of order 7", times=2)  # again, after the redrive
    assert dev.stop() == 0


def write(terminal: Terminal, block: Block) -> None:
    assert block.file_name, f"{block.place}: a file of the tutorial begins with its name"
    (terminal.folder / block.file_name).write_text(block.text, encoding="utf-8")
