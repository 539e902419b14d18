"""OpenTelemetry's spans, where the process has OpenTelemetry and has configured it; Penstock does not depend on it.

Nothing is imported here before somebody else has: a program that does not trace pays one look into ``sys.modules`` a
send. Names and attributes follow the semantic conventions for messaging and FaaS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker import tracing
from broker.names import Resource
from broker.tracing import Trace

Kind: TypeAlias = Literal["PRODUCER", "CONSUMER", "CLIENT", "SERVER"]
Attributes: TypeAlias = Mapping[str, str | int | bool]

_API: Final = "opentelemetry.trace"
_SYSTEM: Final = "penstock"
_FLUSH_S: Final = 2


class Nothing:
    """Stands where there is no span: enters and leaves at no price."""

    def __enter__(self) -> None:
        """There is no span."""

    def __exit__(self, *_: object) -> None:
        """Nothing ends."""


_NOTHING: Final = Nothing()


class Span:
    """One span. What is sent under it is :attr:`trace`."""

    def __init__(self, api: Any, span: Any, context: Any, trace: Trace) -> None:
        self._api: Final = api
        self._span: Final = span
        self.context: Final = context
        """OpenTelemetry's context in which it is the current span."""
        self.trace: Final = trace

    def set(self, name: str, value: str | int) -> None:
        """Adds an attribute."""
        self._span.set_attribute(name, value)

    def failed(self, error_type: str, message: str, stack: str = "") -> None:
        """It ends with an error: that of a handler, which need not be an exception of this process any more."""
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, message))
        exception = {"exception.type": error_type, "exception.message": message, "exception.stacktrace": stack}
        self._span.add_event("exception", {name: value for name, value in exception.items() if value})

    def end(self) -> None:
        """It ends now."""
        self._span.end()


class Spans:
    """Makes spans by a tracer provider."""

    def __init__(self, api: Any, provider: Any) -> None:
        # Whoever has configured a provider has the API; so these cannot fail.
        from opentelemetry import context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api: Final = api
        self._contexts: Final = context
        self._propagator: Final = TraceContextTextMapPropagator()
        self._tracer: Final = api.get_tracer("penstock", tracer_provider=provider)

    def start(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        belongs_to: Trace,
        links: Sequence[Trace] = (),
        fresh: bool = False,
    ) -> Span:
        """Starts a span under the one that is current; under what it belongs to where there is none, or it is to be
        ``fresh``: what comes in from elsewhere has nothing to do with what is current here."""
        around = self._contexts.Context() if fresh else self._contexts.get_current()
        if not self._api.get_current_span(around).get_span_context().is_valid and belongs_to.parent:
            around = self._extracted(belongs_to, around)
        span = self._tracer.start_span(
            name,
            context=around,
            kind=self._api.SpanKind[kind],
            attributes=attributes,
            links=[self._link(trace) for trace in links],
        )
        return Span(self._api, span, *self._within(span, around, belongs_to))

    def _within(self, span: Any, around: Any, belongs_to: Trace) -> tuple[Any, Trace]:
        context = self._api.set_span_in_context(span, around)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        parent, state = carrier.get("traceparent", ""), carrier.get("tracestate", "")
        return context, Trace(belongs_to.header, parent, state) if parent else belongs_to

    def _extracted(self, trace: Trace, around: Any) -> Any:
        return self._propagator.extract({"traceparent": trace.parent, "tracestate": trace.state}, around)

    def _link(self, trace: Trace) -> Any:
        remote = self._extracted(trace, self._contexts.Context())
        return self._api.Link(self._api.get_current_span(remote).get_span_context())

    def attach(self, span: Span) -> object:
        """Makes a span the current one of this context, for good: to be done in a context of its own."""
        return self._contexts.attach(span.context)

    @contextmanager
    def sending(self, resource: Resource, count: int, *, waits: bool) -> Iterator[Span]:
        """The span of a send, and of an invocation that ``waits`` for its result."""
        operation = "invoke" if resource.kind == "function" else "send"
        span = self.start(
            f"{operation} {resource.name}",
            "CLIENT" if waits else "PRODUCER",
            sent_attributes(resource, count, waits=waits),
            belongs_to=tracing.current(),
        )
        attached, entered = self._contexts.attach(span.context), tracing.enter(span.trace)
        try:
            yield span
        except BaseException as error:
            span.failed(type(error).__qualname__, str(error))
            raise
        finally:
            tracing.leave(entered)
            self._contexts.detach(attached)
            span.end()


def sent_attributes(resource: Resource, count: int, *, waits: bool) -> Attributes:
    """What the span of a send says of it."""
    found: dict[str, str | int | bool] = {}
    if resource.kind == "function":
        found |= {
            "faas.invoked_name": resource.name,
            "faas.invoked_provider": _SYSTEM,
            "faas.invoked_region": resource.region,
        }
    if not waits:
        found |= {
            "messaging.system": _SYSTEM,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": resource.name,
        }
    if count > 1:
        found["messaging.batch.message_count"] = count
    return found


def handled_attributes(source: Resource, *, invocation_id: str, function: str, count: int = 0) -> Attributes:
    """What the span around a handler says of its call; ``count`` messages of the source, 0 where the call waits for its
    answer."""
    found: dict[str, str | int | bool] = {"faas.name": function, "faas.invocation_id": invocation_id}
    if not count:
        return {**found, "faas.trigger": "other"}
    found |= {
        "faas.trigger": "pubsub",
        "messaging.system": _SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": source.name,
    }
    if source.kind == "queue":
        found["messaging.batch.message_count"] = count
    return found


class _Configured(msgspec.Struct):
    """The spans of the provider that the process has configured, as soon as it has: it can do so once."""

    spans: Spans | None = None


_configured: Final = _Configured()


def active() -> Spans | None:
    """The spans of this process, None where it has not configured OpenTelemetry (yet)."""
    if _configured.spans is not None:
        return _configured.spans
    api: Any = sys.modules.get(_API)
    if api is None or getattr(api, "_TRACER_PROVIDER", api) is None:  # the public function looks into os.environ
        return None
    provider = api.get_tracer_provider()
    if not isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
        _configured.spans = Spans(api, provider)
    return _configured.spans


def flush() -> None:
    """Has the provider export what it has gathered, for at most two seconds: the process ends at once after this."""
    provider: Any = getattr(sys.modules.get(_API), "_TRACER_PROVIDER", None)
    force_flush = getattr(provider, "force_flush", None)
    if force_flush is not None:
        # Exporters do not all keep to the time that they are given.
        exporting = Thread(target=force_flush, args=(_FLUSH_S * 1_000,), name="penstock-spans", daemon=True)
        exporting.start()
        exporting.join(_FLUSH_S)


def sending(
    resource: Resource, count: int = 1, *, waits: bool = False
) -> AbstractContextManager[Span | None, bool | None]:
    """To be held while events are made and sent: the span of the send, where this process traces."""
    spans = active()
    return _NOTHING if spans is None else spans.sending(resource, count, waits=waits)
