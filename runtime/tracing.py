"""What a handler's call belongs to: its lineage and trace, the span around it, and Lambda's environment variable.

All untraced calls of a function share one context variable's value, set once; only an event that carries a trace, or a
process that traces by OpenTelemetry or runs one call at a time, has something done for each call.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Sequence
from typing import Final

import msgspec

from broker import lineage, spans, tracing
from broker.log import log
from broker.names import Resource
from broker.records import Header
from broker.tracing import NO_TRACE, Trace
from runtime.context import Context
from runtime.outcomes import Completed, Failed, Outcome, TimedOut

VARIABLE: Final = "_X_AMZN_TRACE_ID"
"""Where Lambda's runtime puts the trace header. A process has one: it is right only where one call runs at a time."""


class CallTrace:
    """What one call belongs to."""

    __slots__ = ("_sets_variable", "_span", "_spans", "trace")

    def __init__(self, trace: Trace, *, sets_variable: bool, under: tuple[spans.Spans, spans.Span] | None) -> None:
        self.trace: Final = trace
        """Of what it sends on."""
        self._sets_variable: Final = sets_variable
        self._spans: Final = None if under is None else under[0]
        self._span: Final = None if under is None else under[1]

    def enter(self) -> None:
        """From here on, what this context sends belongs to it."""
        tracing.enter(self.trace)
        if self._spans is not None and self._span is not None:
            self._spans.attach(self._span)
        if self._sets_variable:
            os.environ[VARIABLE] = self.trace.header

    def ended(self, outcome: Outcome) -> None:
        """The call has ended; never raises."""
        if self._span is None:
            return
        try:
            if isinstance(outcome, Failed | TimedOut):
                stack = msgspec.json.decode(outcome.error, type=_WithStack).stackTrace
                self._span.failed(outcome.error_type, outcome.message, "".join(stack))
            elif not isinstance(outcome, Completed):
                self._span.set("penstock.abandoned", type(outcome).__name__)
            self._span.end()
        except Exception:  # noqa: BLE001 - whoever exports spans may do anything; the event must be settled
            log.exception("span_failed")


class _WithStack(msgspec.Struct):
    stackTrace: list[str] = []  # noqa: N815 - Lambda's spelling


class Tracer:
    """What the calls of one function belong to, in one process. ``sets_variable``: Lambda's variable tells them."""

    def __init__(self, function: Resource, *, sets_variable: bool) -> None:
        self._function: Final = function
        self._sets_variable: Final = sets_variable
        self._hash: Final = lineage.hash_of(function.arn)
        self.untraced: Final = Trace(lineage.run_once_more("", self._hash))
        """What is sent on by a call that nothing came in with."""
        self._spans: spans.Spans | None = None
        self.always = sets_variable
        """Whether every call is traced; else only those whose events say so."""

    def look(self) -> None:
        """To be called once a claim: whether the process has configured OpenTelemetry by now."""
        self._spans = spans.active()
        self.always = self._sets_variable or self._spans is not None

    def invocations(self, trace_header: str) -> int:
        """How often the function has run in a chain."""
        return lineage.invocations(trace_header, self._hash) if trace_header else 0

    def run_once_more(self, trace: Trace) -> Trace:
        """What goes on of a chain that comes to the function. One that is stopped counts, too: so it is known again."""
        return msgspec.structs.replace(trace, header=lineage.run_once_more(trace.header, self._hash))

    def of_event(self, header: Header, context: Context) -> CallTrace | None:
        """Of the call for one event of the function; None where it belongs to nothing."""
        trace = tracing.of_header(header)
        if trace == NO_TRACE and not self.always:
            return None
        attributes = None
        if self._spans is not None:
            attributes = spans.handled_attributes(
                self._function, invocation_id=context.aws_request_id, function=self._function.name, count=1
            )
            attributes = {**attributes, "messaging.message.id": context.aws_request_id}
        return self._begun(f"process {self._function.name}", "CONSUMER", context, attributes, trace)

    def of_call(self, trace: Trace, context: Context) -> CallTrace | None:
        """Of a call that waits for its answer."""
        if trace == NO_TRACE and not self.always:
            return None
        attributes = None
        if self._spans is not None:
            attributes = spans.handled_attributes(
                self._function, invocation_id=context.aws_request_id, function=self._function.name
            )
        return self._begun(self._function.name, "SERVER", context, attributes, trace)

    def of_batch(self, queue: Resource, messages: Sequence[tuple[str, Header]], context: Context) -> CallTrace | None:
        """Of the call for a batch, given as ids and headers. What it sends on belongs to a trace only where all its
        messages do; OpenTelemetry's span has links to each."""
        traces = [tracing.of_header(header) for _, header in messages]
        distinct = list(dict.fromkeys(trace for trace in traces if trace != NO_TRACE))
        if not distinct and not self.always:
            return None
        merged = traces[0] if len(set(traces)) == 1 else _merged(traces)
        attributes = None
        if self._spans is not None:
            attributes = spans.handled_attributes(
                queue, invocation_id=context.aws_request_id, function=self._function.name, count=len(messages)
            )
            if len(messages) == 1:
                attributes = {**attributes, "messaging.message.id": messages[0][0]}
        links = [trace for trace in distinct if trace.parent]
        belongs_to = merged if len(messages) == 1 else msgspec.structs.replace(merged, parent="", state="")
        if self._spans is None:
            belongs_to = merged
        return self._begun(f"process {queue.name}", "CONSUMER", context, attributes, belongs_to, links)

    def _begun(
        self,
        name: str,
        kind: spans.Kind,
        context: Context,
        attributes: spans.Attributes | None,
        came_in: Trace,
        links: Sequence[Trace] = (),
    ) -> CallTrace:
        trace, under = self.run_once_more(came_in), None
        if self._spans is not None and attributes is not None:
            try:
                span = self._spans.start(name, kind, attributes, belongs_to=trace, links=links, fresh=True)
            except Exception:  # noqa: BLE001 - samplers and processors are the user's; the event must run
                log.exception("span_failed")
            else:
                trace, under = span.trace, (self._spans, span)
        context._trace = trace  # noqa: SLF001 - set once, before anybody sees it; without a trace it stays unset
        return CallTrace(trace, sets_variable=self._sets_variable, under=under)


def _merged(traces: Sequence[Trace]) -> Trace:
    same = {(trace.parent, trace.state) for trace in traces}
    parent, state = same.pop() if len(same) == 1 else ("", "")
    return Trace(lineage.merged([trace.header for trace in traces]), parent, state)


def ground_of(function_arn: str) -> contextvars.Context:
    """The context that every call of a function begins with a copy of: what it sends has its lineage. So nothing has to
    be set for a call, and none sees the context variables of another."""
    ground = contextvars.copy_context()
    ground.run(tracing.enter, Trace(lineage.run_once_more("", lineage.hash_of(function_arn))))
    return ground
