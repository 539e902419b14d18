"""The calls of batches: what a batch is to its handler, and what its call belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from broker.log import log
from broker.names import Resource
from broker.records import NO_HEADER
from runtime.batch_ends import BatchEnds
from runtime.batch_events import batch_event
from runtime.batches import Batch
from runtime.context import Context
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.invoker import Call
from runtime.outcomes import failed
from runtime.tally import BatchTally
from runtime.tracing import Tracer


class BatchCalls:
    """Makes the calls of one mapping, and settles what cannot be read."""

    def __init__(
        self,
        engine: Engine,
        function: HandlerFunction,
        queue: Resource,
        ends: BatchEnds,
        tally: BatchTally,
        tracer: Tracer,
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._queue: Final = queue
        self._ends: Final = ends
        self._tally: Final = tally
        self._tracer: Final = tracer
        self._arn: Final = engine.core.resource("function", function.resource_name).arn

    def of(self, batch: Batch, on_outcome: Callable[[Call], None], on_free: Callable[[Call], None]) -> Call | None:
        """The call of a batch, to be started now; its ``work`` is what of the batch can be read. None where nothing
        can."""
        settings = self._function.settings
        deadline = time.monotonic() + settings.timeout_s
        context = Context(
            identity=None,
            function_name=self._function.name,
            invoked_function_arn=self._arn,
            log_stream_name=self._engine.log_stream,
            deadline=deadline,
            fencing_token=max(item.fence for item in batch.held),
            settings=settings,
        )
        partial = self._ends.mapping.partial_failures
        shaped = batch_event(self._function, self._queue, batch.held, partial_failures=partial)
        if not shaped.held:
            self._ends.settle(batch, failed("Runtime.UnmarshalError", shaped.problem, context.aws_request_id, []))
            return None
        if shaped.unread:
            count, reason = len(shaped.unread), shaped.problem[:300]
            log.warning("messages_unreadable", function=self._function.name, count=count, reason=reason)
            self._ends.send_back(shaped.unread)
        usable = Batch(shaped.held, batch.permit)
        if self._tally.figures is not None:
            self._tally.waited(usable.held)
        call = Call(self._function, shaped.event, context, deadline, on_outcome, on_free, usable)
        if self._tracer.always or any(item.letter.header is not NO_HEADER for item in usable.held):
            headers = [(item.letter.id, item.letter.header) for item in usable.held]
            call.trace = self._tracer.of_batch(self._queue, headers, context)
        return call
