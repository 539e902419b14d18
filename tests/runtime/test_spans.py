"""OpenTelemetry's spans around sends and handlers, by the SDK's own exporter in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from broker import Broker, FunctionError, Queue, traced
from broker import spans as ours
from broker.outgoing import event_message
from runtime import App, Context, Record
from tests.runtime.chains import PARENT
from tests.runtime.scene import Serve, empty, eventually, lines, received
from tests.runtime.taken_over import TakeOver, take_over

__all__ = ["take_over"]


class Recorder:
    """The spans that have ended, by their names."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer("test")
        self._exporter = exporter

    @property
    def names(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]

    def one(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self._exporter.get_finished_spans() if span.name == name)
        return found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A provider that stands in for the process's own, which can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(ours._configured, "spans", ours.Spans(trace, provider))
    yield Recorder(provider, exporter)
    provider.shutdown()


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def under(child: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether a span stands in the trace of another, right below it."""
    assert child.context is not None
    assert parent.context is not None
    return (
        child.parent is not None
        and child.parent.span_id == parent.context.span_id
        and child.context.trace_id == parent.context.trace_id
    )


async def test_a_chain_is_one_trace_from_the_program_to_the_last_handler(
    broker: Broker, serve: Serve, recorder: Recorder
) -> None:
    app = App()

    @app.function(on_success=Queue("made"))
    async def first(event: Any, context: Context) -> None:
        await broker.queue("told").send("by hand")

    @app.queue("made")
    async def second(records: list[Record[Any]], context: Context) -> None:
        with recorder.tracer.start_as_current_span("inner"):
            pass

    await broker.queue("told").create()
    async with serve(app):
        with recorder.tracer.start_as_current_span("program"):
            event = await broker.invoke("first", 1)
        await eventually(lambda: "process made" in recorder.names)
        await empty(broker, "first")
    program, invoked, ran = (recorder.one(name) for name in ("program", "invoke first", "process first"))
    sent, batch, inner = (recorder.one(name) for name in ("send told", "process made", "inner"))
    assert (invoked.kind, ran.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (sent.kind, batch.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    pairs = [(invoked, program), (ran, invoked), (sent, ran), (batch, ran), (inner, batch)]
    assert [under(child, parent) for child, parent in pairs] == [True] * 5
    assert attributes_of(invoked) == {
        "faas.invoked_name": "first",
        "faas.invoked_provider": "penstock",
        "faas.invoked_region": "us-east-1",
        "messaging.system": "penstock",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "first",
        "messaging.message.id": event,
    }
    assert attributes_of(ran) == {
        "faas.name": "first",
        "faas.invocation_id": event,
        "faas.trigger": "pubsub",
        "messaging.system": "penstock",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "first",
        "messaging.message.id": event,
    }
    (told,) = await received(broker, "told")
    assert sent.context is not None
    assert told.traceparent.split("-")[1:3] == [f"{sent.context.trace_id:032x}", f"{sent.context.span_id:016x}"]


async def test_a_batch_has_links_to_what_each_of_its_messages_was_sent_by(
    broker: Broker, serve: Serve, recorder: Recorder
) -> None:
    app = App()

    @app.queue("orders")
    async def work(records: list[Record[Any]], context: Context) -> None:
        pass

    await broker.queue("orders").create()
    for name in ("one", "two"):
        with recorder.tracer.start_as_current_span(name):
            await broker.queue("orders").send_many([1, 2])
    async with serve(app):
        await eventually(lambda: "process orders" in recorder.names)
    batch = recorder.one("process orders")
    sends = [span for span in recorder._exporter.get_finished_spans() if span.name == "send orders"]
    assert batch.parent is None
    linked = {link.context.span_id for link in batch.links}
    assert linked == {span.context.span_id for span in sends if span.context is not None}
    assert attributes_of(batch)["messaging.batch.message_count"] == 4
    assert [attributes_of(span)["messaging.batch.message_count"] for span in sends] == [2, 2]


async def test_a_call_is_a_client_and_a_server_span(broker: Broker, serve: Serve, recorder: Recorder) -> None:
    app = App()

    @app.function()
    def plain(event: Any, context: Context) -> str:
        with recorder.tracer.start_as_current_span("inner"):
            return context.traceparent

    async with serve(app):
        told = await broker.call("plain", 1)
        await eventually(lambda: "invoke plain" in recorder.names)
    invoked, ran, inner = (recorder.one(name) for name in ("invoke plain", "plain", "inner"))
    assert (invoked.kind, ran.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert under(ran, invoked)
    assert under(inner, ran)
    assert ran.context is not None
    assert told.startswith(f"00-{ran.context.trace_id:032x}-{ran.context.span_id:016x}-")
    assert "messaging.system" not in attributes_of(ran)


@pytest.mark.parametrize("how", ["raises", "times out"])
async def test_a_failure_is_in_the_span_of_its_handler(
    broker: Broker, serve: Serve, recorder: Recorder, how: str
) -> None:
    app = App()

    @app.function(timeout=0.05 if how == "times out" else 20)
    async def work(event: Any, context: Context) -> None:
        if how == "raises":
            raise ValueError("no luck")
        await asyncio.Event().wait()

    async with serve(app):
        with pytest.raises(FunctionError):
            await broker.call("work", 1)
        await eventually(lambda: "work" in recorder.names)
    ran, invoked = recorder.one("work"), recorder.one("invoke work")
    assert (ran.status.status_code, invoked.status.status_code) == (StatusCode.ERROR, StatusCode.ERROR)
    (event,) = ran.events
    assert event.name == "exception"
    noted = dict(event.attributes or {})
    if how == "raises":
        assert attributes_of(ran)["error.type"] == noted["exception.type"] == "ValueError"
        assert noted["exception.message"] == "no luck"
        assert "in work" in str(noted["exception.stacktrace"])
    else:
        assert attributes_of(ran)["error.type"] == "Sandbox.Timedout"
    assert attributes_of(invoked)["error.type"] == "FunctionError"


async def test_a_given_traceparent_is_the_parent_where_no_span_is_current(
    broker: Broker, serve: Serve, recorder: Recorder
) -> None:
    await broker.queue("orders").create()
    with traced(traceparent=PARENT, tracestate="a=1"):
        await broker.queue("orders").send("body")
    sent = recorder.one("send orders")
    assert sent.parent is not None
    assert f"{sent.parent.span_id:016x}" == PARENT.split("-")[2]
    (message,) = await broker.queue("orders").receive(1)
    assert message.traceparent.split("-")[1] == PARENT.split("-")[1]
    assert message.tracestate == "a=1"


async def test_what_a_worker_was_started_in_is_no_parent_of_its_calls(
    broker: Broker, serve: Serve, recorder: Recorder
) -> None:
    app = App()

    @app.function()
    async def work(event: Any, context: Context) -> None:
        pass

    with recorder.tracer.start_as_current_span("around"):
        async with serve(app):
            await broker.sender.send(broker.function("work").resource, event_message("work", 1))
            await eventually(lambda: "process work" in recorder.names)
    assert recorder.one("process work").parent is None


async def test_a_worker_that_stops_exports_what_its_provider_has_gathered(broker: Broker, take_over: TakeOver) -> None:
    text = """
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def export(self, spans):
        Path("spans").write_text(" ".join(span.name for span in spans))
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=3_600_000))
trace.set_tracer_provider(provider)

def handler(event, context):
    return context.traceparent
"""
    async with take_over("app.handler", text) as running:
        with traced(traceparent=PARENT):
            told = await broker.call("orders", 1, timeout=20)
    assert told.split("-")[1] == PARENT.split("-")[1]
    assert (running.folder / "spans").read_text() == "orders"


async def test_whatever_a_processor_does_the_event_runs_and_is_settled(
    broker: Broker, serve: Serve, recorder: Recorder, logs: list[MutableMapping[str, Any]]
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if "starts" in span.name:
                raise RuntimeError("it starts badly")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("it ends badly")

    app, ran = App(), list[str]()

    @app.function()
    async def starts(event: Any, context: Context) -> None:
        ran.append("starts")

    @app.function()
    async def ends(event: Any, context: Context) -> None:
        ran.append("ends")

    async with serve(app):
        recorder.provider.add_span_processor(Broken())
        for name in ("starts", "ends"):
            message = event_message(name, 1)
            await broker.sender.send(broker.function(name).resource, message)
        for name in ("starts", "ends"):
            await empty(broker, name)
    assert sorted(ran) == ["ends", "starts"]
    assert len(lines(logs, "span_failed")) == 2


async def test_without_a_configured_provider_nothing_is_traced() -> None:
    script = """
from broker import spans
assert spans.active() is None
from opentelemetry import trace
trace.get_tracer("early").start_span("lost").end()
assert spans.active() is None
trace.set_tracer_provider(trace.NoOpTracerProvider())
assert spans.active() is None
"""
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_a_configured_provider_is_found_when_it_is_there() -> None:
    script = """
from broker import spans
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
assert spans.active() is None
trace.set_tracer_provider(TracerProvider())
found = spans.active()
assert found is not None and spans.active() is found
"""
    subprocess.run([sys.executable, "-c", script], check=True)
