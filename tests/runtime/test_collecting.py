"""The garbage collector of the gateway's processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from runtime.collecting import collect_seldom


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_what_is_there_is_not_looked_at_again_and_what_comes_seldom() -> None:
    young, *old = gc.get_threshold()
    collect_seldom()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] > young
    assert gc.get_threshold()[1:] == tuple(old)
    assert gc.isenabled()
