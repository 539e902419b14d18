"""Events that are set apart, for the log of a worker that has no supervisor to start a process for them."""

from __future__ import annotations

import time
from typing import Final

from broker.log import log
from broker.names import Resource

_EVERY_S: Final = 10.0


class SetApartLog:
    """Every claim sees them, hundreds a second: a line tells of a resource's only when they are more or fewer than the
    last one said, at most every ten seconds."""

    def __init__(self) -> None:
        self._told: Final[dict[Resource, tuple[int, float]]] = {}

    def saw(self, resource: Resource, count: int) -> None:
        """So many of a resource are set apart at the moment."""
        told, at = self._told.get(resource, (0, float("-inf")))
        if count == told:
            return
        now = time.monotonic()
        if now - at < _EVERY_S:
            return
        self._told[resource] = (count, now)
        if count:
            reason = "a worker died over them; they wait for a supervised `penstock runtime`"
            log.warning("events_set_apart", resource=resource.arn, count=count, reason=reason)
