"""A shell on the test's own Redis and prefix, and a worker of a small app beside it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.settings import Settings
from tests.cli.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, redis_url: str, settings: Settings, broker: Broker) -> Shell:
    """The command, against the same resources as `broker`."""
    return Shell(tmp_path, url=redis_url, settings=settings)


@pytest.fixture(autouse=True)
def _signals_as_usual() -> Iterator[None]:
    """What this process ignores, as under nohup or in the background of a script, its children would ignore, too."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
