"""Who went without a permit, and so is concerned when one is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final


class PermitWish:
    """Of one source. What is given back while it asks concerns it only if it gets none: else it would look again behind
    each notice, take in vain what others would have, and wake them by giving it back, for ever."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake: Final = wake
        self._is_open = self._given_back = False

    def asks(self) -> None:
        """It asks from here on."""
        self._is_open = self._given_back = False

    def got_none(self) -> None:
        """It waits for one, or looks at once where one was given back before the answer was read."""
        self._is_open = True
        if self._given_back:
            self._wake()

    def ends(self) -> None:
        """It wants none any more."""
        self._is_open = False

    def concerns(self) -> bool:
        """One is given back: whether that concerns it now."""
        self._given_back = True
        return self._is_open
