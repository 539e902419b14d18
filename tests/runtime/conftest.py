"""A worker on the test's Redis, and the log lines that it writes."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from functools import partial
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
