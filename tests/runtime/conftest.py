"""A worker on the test's Redis, the log lines that it writes, and a folder to load modules from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker import Broker
from broker.settings import Settings
from tests.runtime.scene import Serve, serving


@pytest.fixture
def serve(redis_url: str, settings: Settings, broker: Broker) -> Serve:
    """Runs workers; ``broker`` is open first, as it sets the clock back."""
    return partial(serving, url=redis_url, settings=settings)


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log lines of the test, as they are written."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, from which modules are loaded; afterwards none of them is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]
