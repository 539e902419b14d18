"""Changing what others may change at the same time."""

from __future__ import annotations

import pytest

from broker.compare_and_set import CHANGE_ATTEMPTS, compare_and_set
from broker.errors import StoreFault


class Contested:
    """A stored number that others raise so many times, each time between a reading and the writing that follows."""

    def __init__(self, times: int) -> None:
        self.number = 0
        self.left = times

    async def add_a_hundred(self) -> int | None:
        read = self.number
        if self.left:
            self.left -= 1
            self.number += 1
        if self.number != read:
            return None
        self.number = read + 100
        return self.number


async def test_a_change_is_made_to_what_others_left() -> None:
    stored = Contested(times=3)
    assert await compare_and_set("the number", stored.add_a_hundred) == 103
    assert stored.number == 103


async def test_a_change_is_given_up_when_others_are_always_faster() -> None:
    stored = Contested(times=CHANGE_ATTEMPTS)
    with pytest.raises(StoreFault, match="the number changed 50 times during one change"):
        await compare_and_set("the number", stored.add_a_hundred)
    assert stored.number == CHANGE_ATTEMPTS
