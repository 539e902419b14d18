"""Traces and lineages on their way over real workers."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from broker import Broker, Queue, traced
from broker.lineage import run_once_more
from runtime import App, Context, Record
from tests.conftest import Clock
from tests.runtime.chains import PARENT, ROOT, name_of, often
from tests.runtime.scene import Serve, empty, eventually, received
from tests.runtime.taken_over import TakeOver, take_over

__all__ = ["take_over"]


class Seen:
    """What handlers were told of their trace."""

    def __init__(self) -> None:
        self.contexts: list[tuple[str, str, str]] = []

    def note(self, context: Context) -> None:
        self.contexts.append((context.trace_header, context.traceparent, context.tracestate))


async def test_a_trace_goes_from_a_function_over_its_destination_and_a_mapping_to_the_next(
    broker: Broker, serve: Serve
) -> None:
    app, seen = App(), Seen()
    got: list[dict[str, Any]] = []

    @app.function(on_success=Queue("made"))
    async def first(event: Any, context: Context) -> Any:
        seen.note(context)
        return event

    @app.queue("made")
    async def second(event: Any, context: Context) -> None:
        seen.note(context)
        got.extend(event["Records"])
        await broker.queue("told").send("by hand")

    await broker.queue("told").create()
    async with serve(app):
        with traced(trace_header=ROOT, traceparent=PARENT, tracestate="a=1"):
            await broker.invoke("first", 1)
        (told,) = await received(broker, "told")
    ran_first = run_once_more(ROOT, name_of(broker, "first"))
    ran_both = run_once_more(ran_first, name_of(broker, "second"))
    assert seen.contexts == [(ran_first, PARENT, "a=1"), (ran_both, PARENT, "a=1")]
    assert got[0]["attributes"]["AWSTraceHeader"] == ran_first
    assert (told.trace_header, told.traceparent, told.tracestate) == (ran_both, PARENT, "a=1")


async def test_what_nobody_traces_has_the_lineage_alone(broker: Broker, serve: Serve) -> None:
    app, seen = App(), Seen()

    @app.function(on_success=Queue("made"))
    async def first(event: Any, context: Context) -> None:
        seen.note(context)
        await broker.queue("told").send("by hand")

    await broker.queue("told").create()
    async with serve(app):
        await broker.invoke("first", 1)
        (made,), (told,) = await received(broker, "made"), await received(broker, "told")
    lineage = f"Lineage=1:{name_of(broker, 'first')}:0"
    assert seen.contexts == [(lineage, "", "")]
    assert (made.trace_header, told.trace_header) == (lineage, lineage)


async def test_a_plain_function_and_what_it_gives_to_threads_know_their_trace(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function()
    def plain(event: Any, context: Context) -> list[str]:
        return [context.trace_header, context.traceparent]

    @app.function()
    async def with_thread(event: Any, context: Context) -> list[str]:
        return await asyncio.to_thread(lambda: [context.trace_header, context.traceparent])

    async with serve(app):
        for name in ("plain", "with_thread"):
            with traced(trace_header=ROOT, traceparent=PARENT):
                told = await broker.call(name, 1)
            assert told == [run_once_more(ROOT, name_of(broker, name)), PARENT], name
            assert await broker.call(name, 1) == [f"Lineage=1:{name_of(broker, name)}:0", ""]


async def test_calls_beside_each_other_do_not_see_each_others_trace(broker: Broker, serve: Serve) -> None:
    app = App()
    left = asyncio.Event()
    mine: ContextVar[int] = ContextVar("mine", default=0)
    found: dict[int, tuple[str, int]] = {}

    @app.function(concurrency=4)
    async def work(event: int, context: Context) -> None:
        before = mine.get()
        mine.set(event)
        if event < 4:
            await left.wait()
        else:
            left.set()
        await broker.queue("told").send(event)
        found[event] = (context.traceparent, before)

    await broker.queue("told").create()
    async with serve(app):
        for number in range(12):
            if number % 2:
                with traced(traceparent=PARENT):
                    await broker.invoke("work", number)
            else:
                await broker.invoke("work", number)
            if number == 2:
                left.set()
        told = await received(broker, "told", 12)
        await empty(broker, "work")
    assert found == {number: (PARENT if number % 2 else "", 0) for number in range(12)}
    assert {message.json(): message.traceparent for message in told} == {
        number: PARENT if number % 2 else "" for number in range(12)
    }


async def test_a_batch_of_one_trace_goes_on_in_it_and_one_of_several_in_none(broker: Broker, serve: Serve) -> None:
    app, seen = App(), Seen()

    @app.queue("orders")
    async def batch(records: list[Record[int]], context: Context) -> None:
        seen.note(context)

    await broker.queue("orders").create()
    other = PARENT.replace("0af", "1bf")
    with traced(trace_header=ROOT, traceparent=PARENT):
        await broker.queue("orders").send_many([1, 2])
    async with serve(app):
        await eventually(lambda: len(seen.contexts) == 1)
    with traced(trace_header=often(broker, "other", 3), traceparent=PARENT):
        await broker.queue("orders").send(1)
    with traced(trace_header="Root=1-2-3", traceparent=other):
        await broker.queue("orders").send(2)
    async with serve(app):
        await eventually(lambda: len(seen.contexts) == 2)
    batch_name, other_name = name_of(broker, "batch"), name_of(broker, "other")
    assert seen.contexts == [
        (run_once_more(ROOT, batch_name), PARENT, ""),
        (f"Lineage=4:{batch_name}:0|{other_name}:2", "", ""),
    ]


@pytest.mark.parametrize("ends", ["fails", "expires", "expires unserved", "is cancelled"])
async def test_records_and_dead_letters_belong_to_the_trace_of_their_event(
    broker: Broker, serve: Serve, clock: Clock, ends: str
) -> None:
    app = App()

    @app.function(retries=0, on_failure=Queue("failed"), dead_letter=Queue("dead"), max_event_age=60)
    async def work(event: Any, context: Context) -> None:
        raise ValueError(event)

    async with serve(app):
        pass
    with traced(trace_header=ROOT, traceparent=PARENT):
        event = await broker.invoke("work", 1)
    if ends.startswith("expires"):
        await clock.advance(61)
    if ends == "is cancelled":
        assert await broker.cancel(event)
    other = App()
    other.function(name="other")(app.functions["work"].handler)
    async with serve(other if ends == "expires unserved" else app, housekeeping_every=0.05):
        found = await received(broker, "failed")
        if ends != "is cancelled":
            found += await received(broker, "dead")
    assert {message.traceparent for message in found} == {PARENT}
    assert all(message.trace_header.startswith(ROOT) for message in found)


async def test_an_existing_handler_finds_its_trace_in_lambdas_variable(broker: Broker, take_over: TakeOver) -> None:
    text = """
import os
def handler(event, context):
    return [os.environ["_X_AMZN_TRACE_ID"], context.trace_header]
"""
    async with take_over("app.handler", text):
        with traced(trace_header=ROOT):
            first = await broker.call("orders", {}, timeout=10)
        second = await broker.call("orders", {}, timeout=10)
    assert first == [run_once_more(ROOT, name_of(broker, "orders"))] * 2
    assert second == [f"Lineage=1:{name_of(broker, 'orders')}:0"] * 2
