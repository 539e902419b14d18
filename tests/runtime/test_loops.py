"""Chains that come back to a function, and how they end."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from broker import Broker, Function, Queue, traced
from broker.errors import RecursiveInvocation
from broker.functions import change_function
from broker.lineage import MAX_INVOCATIONS, invocations, run_once_more
from broker.records import FunctionSettings
from broker.settings import Settings
from runtime import App, Context, Record
from tests.conftest import Clock
from tests.runtime.chains import name_of, often
from tests.runtime.scene import Serve, empty, eventually, lines, received
from tests.runtime.taken_over import TakeOver, take_over
from tests.wire.gateway import running_gateway

__all__ = ["take_over"]


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
            (dead,) = await eventually(lambda: broker.queue("dead").receive(1), timeout_s=60)
    assert dead.body == str(MAX_INVOCATIONS + 1)


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
