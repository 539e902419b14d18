"""Asynchronous invocation end to end, on a real Redis: retries, expiry, destinations, dead letters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from broker import Broker, Function, Message, Queue, Stream
from broker.message_attributes import Attribute
from broker.store.values import Claim
from runtime import App, Context
from tests.conftest import Clock
from tests.runtime.scene import Serve, empty, eventually, received, waiting

ARN = "arn:aws:lambda:us-east-1:000000000000:function:job:$LATEST"
TARGETS: dict[str, Any] = {
    "on_success": Queue("done"),
    "on_failure": Queue("failed"),
    "dead_letter": Queue("dead"),
}


class Job:
    """A handler that fails until it is told to succeed, and what it has seen."""

    def __init__(self, **options: Any) -> None:
        self.app = App()
        self.seen: list[tuple[Any, str, int, int]] = []
        self.fails = True
        self.app.function(name="job", **{**TARGETS, **options})(self.handle)

    async def handle(self, event: Any, context: Context) -> Any:
        self.seen.append((event, context.aws_request_id, context.attempt, context.fencing_token))
        if self.fails:
            raise ValueError(f"try {context.attempt}")
        return {"ok": True}

    def tried_more_than(self, tries: int) -> Callable[[], bool]:
        return lambda: len(self.seen) > tries


async def one_record(broker: Broker, queue: str) -> dict[str, Any]:
    (message,) = await received(broker, queue)
    record: dict[str, Any] = message.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    return record


async def queued(broker: Broker, *queues: str) -> list[int]:
    return [(await broker.queue(name).counts()).total for name in queues]


# -- success ----------------------------------------------------------------------------------------------------------


async def test_a_success_sends_its_record_to_the_success_destination_alone(broker: Broker, serve: Serve) -> None:
    job = Job()
    job.fails = False
    async with serve(job.app):
        request_id = await broker.invoke("job", {"n": 1})
        assert await one_record(broker, "done") == {
            "version": "1.0",
            "requestContext": {
                "requestId": request_id,
                "functionArn": ARN,
                "condition": "Success",
                "approximateInvokeCount": 1,
            },
            "requestPayload": {"n": 1},
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
            "responsePayload": {"ok": True},
        }
        await empty(broker, "job")
        assert await queued(broker, "failed", "dead") == [0, 0]
        ((event, seen_id, attempt, fence),) = job.seen
        assert (event, seen_id, attempt) == ({"n": 1}, request_id, 1)
        assert fence > 0


async def test_a_success_after_a_failure_counts_its_tries(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job()
    async with serve(job.app):
        await broker.invoke("job", 1)
        await waiting(broker, "job")
        job.fails = False
        await clock.advance(60)
        record = await one_record(broker, "done")
        assert record["requestContext"]["approximateInvokeCount"] == 2
        assert [attempt for _, _, attempt, _ in job.seen] == [1, 2]


async def test_a_chained_function_receives_the_record_as_its_event(broker: Broker, serve: Serve) -> None:
    app, seen = App(), []

    @app.function(on_success=Function("second"))
    async def first(event: Any, context: Context) -> int:
        return 7

    @app.function()
    async def second(event: Any, context: Context) -> None:
        seen.append(event)

    async with serve(app):
        await broker.invoke("first", "x")
        await eventually(lambda: seen, what="the second function ran")
    assert seen[0]["requestPayload"] == "x"
    assert seen[0]["responsePayload"] == 7


async def test_a_stream_keeps_the_records(broker: Broker, serve: Serve) -> None:
    job = Job(on_success=Stream("log"))
    job.fails = False
    async with serve(job.app):
        ids = await broker.invoke_many("job", range(3))
        stream = broker.stream("log")

        async def all_there() -> bool:
            return await stream.length() == 3

        await eventually(all_there, what="three records")
        records = [record.json() for record in await stream.read()]
        assert {record["requestContext"]["requestId"] for record in records} == set(ids)


# -- failure ----------------------------------------------------------------------------------------------------------


async def test_a_failing_event_is_tried_three_times_and_ends_in_both_places(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    job = Job()
    async with serve(job.app):
        request_id = await broker.invoke("job", {"n": 1})
        for delay_s in (60, 120):
            await waiting(broker, "job")
            await clock.advance(delay_s - 5)
            await asyncio.sleep(0.05)  # nothing is due: there is no condition to wait for
            tries = len(job.seen)
            await clock.advance(5)
            await eventually(job.tried_more_than(tries), what="the next try")
        record = await one_record(broker, "failed")
        response = record.pop("responsePayload")
        assert record == {
            "version": "1.0",
            "requestContext": {
                "requestId": request_id,
                "functionArn": ARN,
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3,
            },
            "requestPayload": {"n": 1},
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        }
        assert (response["errorType"], response["errorMessage"]) == ("ValueError", "try 3")
        assert response["requestId"] == request_id
        assert "raise ValueError" in response["stackTrace"][-1]
        dead = (await received(broker, "dead"))[0]
        assert dead.body == '{"n":1}'
        assert dead.attributes == {"RequestID": request_id, "ErrorCode": 200, "ErrorMessage": "try 3"}
        assert await queued(broker, "done") == [0]
        assert [seen[1:3] for seen in job.seen] == [(request_id, 1), (request_id, 2), (request_id, 3)]
        fences = [fence for *_, fence in job.seen]
        assert fences == sorted(set(fences))


async def typed_attributes(message: Message) -> dict[str, Attribute]:
    return dict(message.header.attributes)


async def test_the_dead_letter_has_lambdas_three_attributes_with_their_types(broker: Broker, serve: Serve) -> None:
    job = Job(retries=0, on_failure=None)
    async with serve(job.app):
        request_id = await broker.invoke("job", "x" * 10)
        (dead,) = await received(broker, "dead")
        assert await typed_attributes(dead) == {
            "RequestID": Attribute("String", request_id.encode()),
            "ErrorCode": Attribute("Number", b"200"),
            "ErrorMessage": Attribute("String", b"try 1"),
        }


async def test_a_long_error_message_is_cut_to_one_kilobyte_in_the_dead_letter(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(retries=0, dead_letter=Queue("dead"))
    async def job(event: Any, context: Context) -> None:
        raise ValueError("é" * 2_000)

    async with serve(app):
        await broker.invoke("job", 1)
        (dead,) = await received(broker, "dead")
        assert dead.attributes["ErrorMessage"] == "é" * 512


async def test_without_destinations_a_failure_just_ends(broker: Broker, serve: Serve) -> None:
    job = Job(retries=0, on_success=None, on_failure=None, dead_letter=None)
    async with serve(job.app):
        await broker.invoke("job", 1)
        await eventually(lambda: job.seen, what="the only try")
        await empty(broker, "job")
        described = await broker.core.directory.describe(broker.core.resource("function", "job"))
        assert described is not None
        assert described.counters["failed"] == 1


async def test_an_event_that_does_not_decode_fails_by_name(broker: Broker, serve: Serve) -> None:
    app = App()

    class Order(msgspec.Struct):
        id: int

    async def job(event: Any, context: Context) -> None:
        raise AssertionError

    job.__annotations__["event"] = Order
    app.function(retries=0, on_failure=Queue("failed"))(job)
    async with serve(app):
        await broker.invoke("job", {"id": "x"})
        response = (await one_record(broker, "failed"))["responsePayload"]
        assert response["errorType"] == "Runtime.UnmarshalError"
        assert response["errorMessage"] == "Unable to unmarshal input: Expected `int`, got `str` - at `$.id`"
        await empty(broker, "job")


async def test_a_timeout_is_a_failure_and_a_try(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(timeout=0.05, retries=1, retry_delays=(0,), on_failure=Queue("failed"))
    async def job(event: Any, context: Context) -> None:
        await asyncio.sleep(30)

    async with serve(app):
        await broker.invoke("job", 1)
        record = await one_record(broker, "failed")
        assert record["requestContext"]["approximateInvokeCount"] == 2
        assert record["responsePayload"]["errorType"] == "Sandbox.Timedout"


async def test_a_record_over_the_limit_goes_without_its_payloads(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(on_success=Queue("done"))
    async def job(event: Any, context: Context) -> str:
        return "y" * 600_000

    async with serve(app):
        await broker.invoke("job", "x" * 600_000)
        record = await one_record(broker, "done")
        assert record["responsePayload"] is None
        assert record["requestPayload"] == "x" * 600_000
        assert record["penstockTruncated"] == ["responsePayload"]


async def test_many_large_failures_settle_in_pages_that_redis_can_take(broker: Broker, serve: Serve) -> None:
    job = Job(retries=0)
    events = [f"{number}" + "x" * 900_000 for number in range(12)]
    async with serve(job.app):
        await broker.invoke_many("job", events)
        dead = await received(broker, "dead", len(events))
        assert {message.json() for message in dead} == set(events)
        await empty(broker, "job")


# -- age --------------------------------------------------------------------------------------------------------------


async def test_an_event_that_waited_too_long_is_given_up_unrun(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(max_event_age=100)
    async with serve(job.app):
        await broker.function("job").pause()
        await broker.invoke("job", "late")
        await clock.advance(101)
        await broker.function("job").resume()
        record = await one_record(broker, "failed")
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert not {"responseContext", "responsePayload"} & record.keys()
        (dead,) = await received(broker, "dead")
        assert (dead.body, dead.attributes["ErrorCode"]) == ('"late"', 429)
    assert not job.seen


async def test_an_event_that_expires_while_it_waits_for_a_retry_carries_its_last_answer(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    job = Job(max_event_age=100)
    async with serve(job.app):
        await broker.invoke("job", "late")
        await waiting(broker, "job")
        await clock.advance(101)
        record = await one_record(broker, "failed")
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 1
        assert record["responseContext"]["functionError"] == "Unhandled"
        assert record["responsePayload"]["errorMessage"] == "try 1"
    assert len(job.seen) == 1


async def test_no_retry_is_waited_for_that_would_come_too_late(broker: Broker, serve: Serve) -> None:
    job = Job(max_event_age=60)
    async with serve(job.app):
        await broker.invoke("job", 1)
        record = await one_record(broker, "failed")
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 1
        assert record["responsePayload"]["errorMessage"] == "try 1"


# -- ids --------------------------------------------------------------------------------------------------------------


async def test_an_own_id_is_seen_by_the_handler_and_accepted_once(broker: Broker, serve: Serve) -> None:
    job = Job()
    job.fails = False
    async with serve(job.app):
        assert await broker.invoke("job", 1, id="order-7") == "order-7"
        assert await broker.invoke("job", 2, id="order-7") == "order-7"
        record = await one_record(broker, "done")
        assert record["requestContext"]["requestId"] == "order-7"
        await empty(broker, "job")
    assert [seen[:2] for seen in job.seen] == [(1, "order-7")]


@pytest.mark.parametrize("event", [None, 0, "", [], {}, "Grüße \u2028", {"a": [1, 2.5, None, True]}])
async def test_every_json_value_is_an_event(event: Any, broker: Broker, serve: Serve) -> None:
    job = Job()
    job.fails = False
    async with serve(job.app):
        await broker.invoke("job", event)
        assert (await one_record(broker, "done"))["requestPayload"] == event
    assert [seen[0] for seen in job.seen] == [event]


async def test_plain_functions_run_in_threads_as_many_as_there_are(broker: Broker, serve: Serve) -> None:
    app, done = App(), []

    @app.function()
    def job(event: Any, context: Context) -> None:
        done.append(event)

    async with serve(app, threads=3):
        await broker.invoke_many("job", range(50))
        await eventually(lambda: len(done) == 50, what="all fifty")
        await empty(broker, "job")
    assert sorted(done) == list(range(50))


async def test_a_thousand_events_of_a_handler_that_never_waits_all_end(broker: Broker, serve: Serve) -> None:
    app, done = App(), []

    @app.function()
    async def job(event: Any, context: Context) -> None:
        done.append(event)
        if event % 100 == 0:
            await asyncio.sleep(0.001)

    async with serve(app, max_calls=5):
        await broker.invoke_many("job", range(3_000))
        await eventually(lambda: len(done) == 3_000, what="all events")
        await empty(broker, "job")
    assert sorted(done) == list(range(3_000))


async def test_redis_is_asked_for_more_before_what_was_claimed_has_started(broker: Broker, serve: Serve) -> None:
    app, seen = App(), [0]

    @app.function(name="job")
    async def handler(event: Any, context: Context) -> None:
        seen[0] += 1

    async with serve(app) as worker:
        claim, begun_during = worker._engine.core.messages.claim, [0]

        async def counted(*args: Any, **options: Any) -> Claim:
            before = seen[0]
            claimed = await claim(*args, **options)
            begun_during.append(seen[0] - before)
            return claimed

        worker._engine.core.messages.claim = counted  # type: ignore[method-assign]
        for _ in range(10):  # at first it has to see how fast the handler is
            await broker.function("job").pause()  # else it might take them as they come
            await broker.invoke_many("job", [None] * 5_000)
            await broker.function("job").resume()
            await empty(broker, "job")
    assert max(begun_during) >= 500
