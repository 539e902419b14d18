"""Traces and lineages on their way over real workers, and loops that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import pytest

from broker import Broker, Function, Queue, traced
from broker.errors import RecursiveInvocation
from broker.functions import change_function
from broker.lineage import MAX_INVOCATIONS, hash_of, invocations, run_once_more
from broker.records import FunctionSettings
from broker.settings import Settings
from runtime import App, Context, Record
from tests.conftest import Clock
from tests.runtime.scene import Serve, empty, eventually, lines, received
from tests.runtime.taken_over import TakeOver, take_over
from tests.wire.gateway import running_gateway

__all__ = ["take_over"]

ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def name_of(broker: Broker, function: str) -> str:
    return hash_of(broker.function(function).resource.arn)


def often(broker: Broker, function: str, times: int) -> str:
    """The header of a chain in which the function has run so often."""
    header = ROOT
    for _ in range(times):
        header = run_once_more(header, name_of(broker, function))
    return header


class Seen:
    """What handlers were told of their trace."""

    def __init__(self) -> None:
        self.contexts: list[tuple[str, str, str]] = []

    def note(self, context: Context) -> None:
        self.contexts.append((context.trace_header, context.traceparent, context.tracestate))


# -- carrying ---------------------------------------------------------------------------------------------------------


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


async def test_a_loop_of_an_existing_handler_over_boto3_and_the_gateway_ends(
    broker: Broker, take_over: TakeOver, redis_url: str, settings: Settings
) -> None:
    text = """
import boto3
sqs = boto3.client("sqs")
url = sqs.get_queue_url(QueueName="orders")["QueueUrl"]

def handler(event, context):
    for record in event["Records"]:
        sqs.send_message(QueueUrl=url, MessageBody=str(int(record["body"]) + 1))
"""
    await broker.queue("orders").create(dead_letter=Queue("dead"), max_receives=100)
    with running_gateway(redis_url, settings) as gateway:
        to_gateway = {
            "AWS_ENDPOINT_URL": gateway.url,
            "AWS_ACCESS_KEY_ID": settings.account,
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        async with take_over("app.handler", text, "--queue", "orders", **to_gateway):
            await broker.queue("orders").send("1")
            (dead,) = await received(broker, "dead")
    assert dead.body == str(MAX_INVOCATIONS + 1)


# -- loops ------------------------------------------------------------------------------------------------------------


async def test_a_function_that_sends_to_its_own_queue_ends_after_sixteen_times_in_the_dead_letter_queue(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app = App()
    ran: list[int] = []

    @app.queue("orders")
    async def again(records: list[Record[int]], context: Context) -> None:
        for record in records:
            ran.append(record.body)
            await broker.queue("orders").send(record.body + 1)

    await broker.queue("orders").create(dead_letter=Queue("dead"), max_receives=100)
    async with serve(app):
        await broker.queue("orders").send(1)
        (dead,) = await received(broker, "dead")
        assert (await broker.queue("orders").counts()).total == 0
    assert ran == list(range(1, MAX_INVOCATIONS + 1))
    assert dead.json() == MAX_INVOCATIONS + 1
    assert dead.source == broker.queue("orders").resource.arn
    assert dead.attributes["ErrorCode"] == 400
    assert "recursive loop" in str(dead.attributes["ErrorMessage"])
    (line,) = lines(logs, "recursion_stopped")
    assert (line["function"], line["queue"], line["count"], line["moved_to"]) == ("again", "orders", 1, "dead")


async def test_without_a_dead_letter_queue_it_comes_back_after_the_visibility_timeout_and_others_go_on(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    app = App()
    ran: list[Any] = []

    @app.queue("orders")
    async def work(records: list[Record[str]], context: Context) -> None:
        ran.extend(record.body for record in records)

    async def put_back() -> bool:
        return (await broker.queue("orders").counts()).retrying == 1

    await broker.queue("orders").create(visibility_timeout=30)
    with traced(trace_header=often(broker, "work", MAX_INVOCATIONS)):
        await broker.queue("orders").send("in a loop")
    with traced(trace_header=often(broker, "work", MAX_INVOCATIONS - 1)):
        await broker.queue("orders").send("not yet")
    async with serve(app):
        await eventually(lambda: lines(logs, "recursion_stopped"))
        await eventually(lambda: ran == ["not yet"])
        await eventually(put_back)
        await clock.advance(31)
        await eventually(lambda: len(lines(logs, "recursion_stopped")) == 2)
        await eventually(put_back)
        await change_function(
            broker.core,
            broker.function("work").resource,
            lambda now: FunctionSettings(timeout_s=now.timeout_s, recursive_loop="Allow"),
        )
        await clock.advance(31)
        await eventually(lambda: ran == ["not yet", "in a loop"])


async def test_what_is_behind_a_looping_message_of_a_group_waits_with_it(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    app = App()
    ran: list[Any] = []

    @app.queue("orders.fifo")
    async def work(records: list[Record[str]], context: Context) -> None:
        ran.extend(record.body for record in records)

    queue = broker.queue("orders.fifo")
    await queue.create(content_deduplication=True, visibility_timeout=30)
    with traced(trace_header=often(broker, "work", MAX_INVOCATIONS)):
        await queue.send("loop", group="a")
    await queue.send("behind", group="a")
    await queue.send("beside", group="b")
    async with serve(app):
        await eventually(lambda: ran == ["beside"])
    counts = await queue.counts()
    assert (counts.total, len(lines(logs, "recursion_stopped"))) == (2, 1)


async def test_an_event_in_a_loop_goes_to_the_failure_destination_and_the_dead_letter_queue(
    broker: Broker, serve: Serve
) -> None:
    app = App()
    ran: list[int] = []

    @app.function(on_failure=Queue("failed"), dead_letter=Queue("dead"))
    async def work(event: int, context: Context) -> None:
        ran.append(event)
        await broker.invoke("work", event + 1, id=f"number {event + 1}".replace(" ", "-"))

    async with serve(app):
        await broker.invoke("work", 1)
        (failed,), (dead,) = await received(broker, "failed"), await received(broker, "dead")
        status = await broker.status("number-17", function="work")
    assert ran == list(range(1, MAX_INVOCATIONS + 1))
    record = failed.json()
    assert record["requestContext"] == {
        "requestId": "number-17",
        "functionArn": f"{broker.function('work').resource.arn}:$LATEST",
        "condition": "RecursiveInvocation",
        "approximateInvokeCount": 0,
    }
    assert record["requestPayload"] == 17
    assert "responseContext" not in record
    assert (dead.json(), dead.attributes["ErrorCode"]) == (17, 400)
    assert (status.state, status.condition) == ("failed", "RecursiveInvocation")


async def test_two_functions_that_invoke_each_other_end_too(broker: Broker, serve: Serve) -> None:
    app = App()
    ran: list[str] = []

    @app.function(on_success=Function("pong"), on_failure=Queue("failed"))
    async def ping(event: Any, context: Context) -> str:
        ran.append("ping")
        return "x"

    @app.function()
    async def pong(event: Any, context: Context) -> None:
        ran.append("pong")
        await broker.invoke("ping", 1)

    async with serve(app):
        await broker.invoke("ping", 1)
        (failed,) = await received(broker, "failed")
    assert ran == ["ping", "pong"] * MAX_INVOCATIONS
    assert failed.json()["requestContext"]["condition"] == "RecursiveInvocation"
    assert invocations(failed.trace_header, name_of(broker, "ping")) == MAX_INVOCATIONS + 1


async def test_records_of_a_stopped_chain_do_not_go_round_between_functions(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app = App()

    @app.function(on_failure=Function("other"), dead_letter=Queue("dead"))
    async def one(event: Any, context: Context) -> None:
        raise AssertionError

    @app.function(on_failure=Function("one"), dead_letter=Function("one"))
    async def other(event: Any, context: Context) -> None:
        raise AssertionError

    header = often(broker, "one", MAX_INVOCATIONS)
    for _ in range(MAX_INVOCATIONS):
        header = run_once_more(header, name_of(broker, "other"))
    async with serve(app):
        with traced(trace_header=header):
            await broker.invoke("one", 1)
        letters = await received(broker, "dead", 3)
        for function in ("one", "other"):
            await empty(broker, function)
    assert {json.dumps(message.json())[:3] for message in letters} == {"1", '{"v'}
    assert [line["function"] for line in lines(logs, "event_given_up")] == ["one", "other", "one", "one"]


async def test_a_function_that_calls_itself_and_waits_is_refused_the_seventeenth_time(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    app = App()
    deepest = 0

    @app.function(timeout=30)
    async def work(event: int, context: Context) -> str:
        nonlocal deepest
        deepest = event
        try:
            return str(await broker.call("work", event + 1))
        except RecursiveInvocation as error:
            return f"refused: {error.function}"

    async with serve(app):
        assert await broker.call("work", 1) == "refused: work"
    assert deepest == MAX_INVOCATIONS
    assert len(lines(logs, "recursion_stopped")) == 1


async def test_a_function_that_allows_loops_goes_on(broker: Broker, serve: Serve) -> None:
    app = App()
    ran: list[int] = []

    @app.function(recursive_loop="Allow")
    async def work(event: int, context: Context) -> None:
        ran.append(event)
        if event < 40:
            await broker.invoke("work", event + 1)

    async with serve(app):
        await broker.invoke("work", 1)
        await eventually(lambda: len(ran) == 40)
        await empty(broker, "work")


async def test_a_redriven_message_of_a_loop_runs_again(broker: Broker, serve: Serve) -> None:
    app = App()
    ran: list[str] = []

    @app.queue("orders")
    async def work(records: list[Record[str]], context: Context) -> None:
        ran.extend(record.body for record in records)

    await broker.queue("orders").create(dead_letter=Queue("dead"), max_receives=3)
    async with serve(app):
        with traced(trace_header=often(broker, "work", MAX_INVOCATIONS)):
            await broker.queue("orders").send("body")

        async def redriven() -> int:
            return await broker.queue("dead").redrive()

        await eventually(redriven)
        await eventually(lambda: ran == ["body"])
