"""Messages of a mapped queue whose chain has run the function too often: they are not handled.

They go to the queue's dead-letter queue at once; where there is none they are visible again after the visibility
timeout, as after a failure, until their retention is over (source: AWS's announcement of recursive loop detection).
"""

from __future__ import annotations

from typing import Final

from broker.errors import RECURSION_STOPPED
from broker.log import log
from broker.names import Resource
from broker.queue_settings import queue_settings
from broker.store.values import Deferral
from runtime.batches import Held, not_behind
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.policy import in_loop
from runtime.tracing import Tracer

_STATUS: Final = "400"


class LoopStop:
    """Stops the loops that come through one mapping."""

    def __init__(self, engine: Engine, function: HandlerFunction, queue: Resource, tracer: Tracer) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._queue: Final = queue
        self._settler: Final = engine.settler(queue)
        self._tracer: Final = tracer

    async def without_looping(self, held: list[Held]) -> list[Held]:
        """What may be handled of a claim, in its order. Raises StoreError."""
        self._tracer.look()
        invocations, settings = self._tracer.invocations, self._function.settings
        looping = [
            item
            for item in held
            if item.letter.header.trace and in_loop(settings, invocations(item.letter.header.trace))
        ]
        return await self._stop(looping, held) if looping else held

    async def _stop(self, looping: list[Held], held: list[Held]) -> list[Held]:
        settings = await queue_settings(self._engine.core, self._queue)
        target = settings.dead_letter
        log.warning(
            "recursion_stopped",
            function=self._function.name,
            queue=self._queue.name,
            count=len(looping),
            moved_to=target,
        )
        members = {item.member for item in looping}
        if target is None:
            held, hidden = not_behind(members, held, fifo=self._queue.fifo)
            for item in hidden:
                delay_ms = round(settings.visibility_timeout_s * 1000)
                self._settler.defer(Deferral(item.member, delay_ms, adds_try=True), counter="retried")
            return held
        for item in looping:
            record = self._engine.set_aside(self._queue, item.letter, target, code=_STATUS, reason=RECURSION_STOPPED)
            self._settler.finish(item.member, counter="failed", onward=(("l", record),))
        return [item for item in held if item.member not in members]
