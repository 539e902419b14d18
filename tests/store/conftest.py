"""The situation that the tests of the scripts start from."""

from __future__ import annotations

import pytest

from broker import Broker
from tests.store.situation import Situation


@pytest.fixture
async def situation(broker: Broker) -> Situation:
    """A queue in which every state occurs, just built."""
    built = Situation(broker)
    await built.build()
    return built
