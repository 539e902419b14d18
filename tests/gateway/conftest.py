"""The command on the test's own Redis and prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Broker
from broker.settings import Settings
from tests.cli.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, redis_url: str, settings: Settings, broker: Broker) -> Shell:
    """The command, against the same resources as `broker`."""
    return Shell(tmp_path, url=redis_url, settings=settings)
