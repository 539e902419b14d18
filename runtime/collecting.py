"""Python's garbage collector in a process that answers many requests at a time, and runs nobody else's code."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 5_000


def collect_seldom() -> None:
    """To be called once everything is there that a process needs for as long as it lives.

    A request under way keeps some dozen objects that the collector follows, so that with Python's 700 a few requests
    start a collection, which finds nearly all of them in use and keeps them among the old ones. With more room most
    have gone before anybody looks. What was there before is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
