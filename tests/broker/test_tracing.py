"""What an event belongs to, from whoever sends it to where it is stored."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker, InvalidInput, Message, Queue, tracing
from broker import sync as blocking
from broker.functions import register_function
from broker.message_attributes import Attribute
from broker.records import PACKING_BYTES, FunctionSettings, Header, pack, unpack
from broker.settings import Settings
from broker.tracing import NO_TRACE, Trace, of_header, of_request, stamped, traced

ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def sent(broker: Broker, queue: str = "orders") -> Message:
    (message,) = await broker.queue(queue).receive(1)
    return message


async def test_what_belongs_to_nothing_carries_no_byte(broker: Broker) -> None:
    await broker.queue("orders").create()
    await broker.queue("orders").send("body")
    message = await sent(broker)
    assert message.header == Header()
    assert (message.trace_header, message.traceparent, message.tracestate) == ("", "", "")
    assert len(pack(b"body", stamped(None, NO_TRACE))) == len(b"body") + PACKING_BYTES


async def test_what_is_sent_within_traced_belongs_to_it(broker: Broker) -> None:
    await broker.queue("orders").create()
    with traced(trace_header=ROOT, traceparent=PARENT, tracestate="a=1"):
        await broker.queue("orders").send("one")
        await broker.queue("orders").send_many(["two"])
        await broker.queue("orders").send_batch([{"body": "three", "id": "own"}])
    await broker.queue("orders").send("four")
    found = await broker.queue("orders").receive(4)
    assert [(one.trace_header, one.traceparent, one.tracestate) for one in found] == [(ROOT, PARENT, "a=1")] * 3 + [
        ("", "", "")
    ]


async def test_events_of_functions_carry_it_too(broker: Broker) -> None:
    await register_function(broker.core, "resize", FunctionSettings())
    resource = broker.function("resize").resource
    with traced(traceparent=PARENT):
        await broker.invoke("resize", 1, id="own")
        await broker.invoke_many("resize", [2, 3])
    claim = await broker.core.messages.claim(resource, token="r1", lease_ms=1000, room=10, mode="receive")
    headers = [unpack(claimed.blob)[0] for claimed in claim.messages]
    assert [(header.id, header.traceparent) for header in headers] == [("own", PARENT), (None, PARENT), (None, PARENT)]


async def test_the_blocking_sdk_carries_what_its_thread_belongs_to(
    broker: Broker, redis_url: str, settings: Settings
) -> None:
    await broker.queue("orders").create()

    def send() -> str:
        with blocking.Broker(redis_url, settings=settings) as other, traced(traceparent=PARENT):
            other.queue("orders").send("body")
            (message,) = other.queue("orders").receive(1)
            return message.traceparent

    assert await asyncio.to_thread(send) == PARENT


@pytest.mark.parametrize(
    "given",
    [
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"},
        {"traceparent": f"ff{PARENT[2:]}"},
        {"traceparent": "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
        {"traceparent": PARENT.upper()},
        {"traceparent": PARENT + "-" + "x" * 200},
        {"tracestate": "a=1"},
        {"traceparent": PARENT, "tracestate": "a" * 513},
        {"trace_header": "Root=1\r\nX: y"},
        {"trace_header": "x" * 5_000},
    ],
)
def test_what_breaks_the_rules_is_refused_from_a_program_and_ignored_from_the_wire(given: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=next(reversed(given))), traced(**given):
        pass
    names = {"trace_header": b"x-amzn-trace-id", "traceparent": b"traceparent", "tracestate": b"tracestate"}
    found = of_request({names[name]: value.encode() for name, value in given.items()})
    assert found.header == ""
    assert found.state == ""
    assert found.parent in {"", PARENT}


def test_after_traced_all_is_as_before() -> None:
    with traced(traceparent=PARENT):
        with traced(trace_header=ROOT):
            assert tracing.current() == Trace(ROOT, PARENT)
        assert tracing.current() == Trace("", PARENT)
    assert tracing.current() is NO_TRACE


def test_a_request_belongs_to_what_its_headers_say() -> None:
    headers = {b"x-amzn-trace-id": ROOT.encode(), b"traceparent": PARENT.encode(), b"tracestate": b"a=1,b=2"}
    assert of_request(headers) == Trace(ROOT, PARENT, "a=1,b=2")
    assert of_request({b"tracestate": b"a=1"}) is NO_TRACE


def test_attributes_of_opentelemetrys_libraries_are_understood() -> None:
    attributes = {"traceparent": Attribute("String", PARENT.encode()), "tracestate": Attribute("String", b"a=1")}
    assert of_header(Header(attributes=attributes)) == Trace("", PARENT, "a=1")
    assert of_header(Header(attributes={"traceparent": Attribute("Binary", b"x")})) == NO_TRACE
    assert of_header(Header(attributes=attributes, traceparent=PARENT.replace("01", "00"))).state == ""


async def test_a_redriven_message_keeps_its_trace_and_may_run_again(broker: Broker) -> None:
    await broker.queue("orders").create()
    await broker.queue("dead").create()
    with traced(trace_header=f"{ROOT};Lineage=16:12345678:16", traceparent=PARENT):
        await broker.queue("dead").send("body")
    assert await broker.queue("dead").redrive(to=Queue("orders")) == 1
    message = await sent(broker)
    assert (message.trace_header, message.traceparent) == (ROOT, PARENT)
