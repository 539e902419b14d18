"""How settings are changed, so that two who change them at once both get their way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from broker.errors import StoreFault

Done = TypeVar("Done")

CHANGE_ATTEMPTS: Final = 50
"""How often somebody else may be faster before a change is given up."""


async def compare_and_set(what: str, attempt: Callable[[], Awaitable[Done | None]]) -> Done:
    """What ``attempt`` answers. It reads, changes, and stores in place of what it read; None, where that was not there
    any more, lets it try again. Raises StoreFault, naming ``what``, where somebody is always faster."""
    for _ in range(CHANGE_ATTEMPTS):
        done = await attempt()
        if done is not None:
            return done
    raise StoreFault(f"{what} changed {CHANGE_ATTEMPTS} times during one change")
