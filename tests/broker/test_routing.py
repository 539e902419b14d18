"""Routing: invocation records and dead letters, the outbox that holds them and the relay that sends them on."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from broker import Broker, Function, Message, Queue, Stream
from broker.errors import PayloadTooLarge, StoreUnavailable
from broker.functions import register_function
from broker.invocation_records import (
    Condition,
    InvocationEnd,
    dead_letter_delivery,
    invocation_record,
    iso_timestamp,
    record_delivery,
    truncated_record,
)
from broker.limits import MAX_MESSAGE_BYTES, OUTBOX_KEEP_MS
from broker.names import Resource, Target
from broker.records import Delivery, FunctionSettings, pack, unpack
from broker.store.values import Onward, member_of
from broker.streams import ensure_stream
from tests.conftest import Clock
from tests.faults.proxy import FaultProxy, Rule

FUNCTION = Resource("function", "000000000000", "us-east-1", "work")
ERROR = b'{"errorMessage":"no cat","errorType":"ValueError","requestId":"r-1","stackTrace":["line"]}'


def ended(condition: Condition = "Success", **changes: object) -> InvocationEnd:
    """The end of an invocation: a success with a result unless said otherwise."""
    end = InvocationEnd(
        function=FUNCTION,
        request_id="r-1",
        condition=condition,
        tries=1,
        event=b'{"path":"cat.jpg"}',
        response=b'{"made":1}' if condition == "Success" else ERROR,
        now_ms=1_770_091_506_789,
    )
    return msgspec.structs.replace(end, **changes)


def record_of(end: InvocationEnd, *, limit_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, object]:
    record = json.loads(invocation_record(end, limit_bytes=limit_bytes))
    assert isinstance(record, dict)
    return record


# -- invocation records (Lambda Developer Guide, "Retaining records of asynchronous invocations"; recordings of 2025-11)


def test_the_record_of_a_success_is_lambda_s() -> None:
    assert record_of(ended()) == {
        "version": "1.0",
        "timestamp": "2026-02-03T04:05:06.789Z",
        "requestContext": {
            "requestId": "r-1",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:work:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"path": "cat.jpg"},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"made": 1},
    }


@pytest.mark.parametrize(
    ("condition", "tries", "response", "ran"),
    [
        ("RetriesExhausted", 3, ERROR, True),
        ("EventAgeExceeded", 1, ERROR, True),
        ("EventAgeExceeded", 0, None, False),
        ("ZeroReservedConcurrency", 0, None, False),
        ("Quarantined", 0, ERROR, True),
        ("Quarantined", 0, None, False),
    ],
)
def test_the_record_of_a_failure_tells_its_condition(
    condition: Condition, tries: int, response: bytes | None, *, ran: bool
) -> None:
    record = record_of(ended(condition, tries=tries, response=response))
    context = record["requestContext"]
    assert isinstance(context, dict)
    assert (context["condition"], context["approximateInvokeCount"]) == (condition, tries)
    if ran:
        assert record["responseContext"] == {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled",
        }
        assert record["responsePayload"] == json.loads(ERROR)
    else:
        assert not {"responseContext", "responsePayload"} & record.keys()


@pytest.mark.parametrize(
    ("event", "response", "truncated"),
    [(10, 10, None), (10, 5_000, ["responsePayload"]), (5_000, 5_000, ["responsePayload", "requestPayload"])],
)
def test_a_record_over_the_limit_goes_without_its_payloads_and_says_so(
    event: int, response: int, truncated: list[str] | None
) -> None:
    end = ended(event=json.dumps("e" * event).encode(), response=json.dumps("r" * response).encode())
    record = record_of(end, limit_bytes=1_024)
    assert record.get("penstockTruncated") == truncated
    for field in ("responsePayload", "requestPayload"):
        assert (record[field] is None) == (field in (truncated or []))
    assert "responseContext" in record
    assert len(invocation_record(end, limit_bytes=1_024)) <= 1_024


def test_a_record_without_a_response_loses_only_the_request() -> None:
    end = ended("EventAgeExceeded", response=None, event=json.dumps("e" * 5_000).encode())
    record = record_of(end, limit_bytes=1_024)
    assert (record["requestPayload"], record["penstockTruncated"]) == (None, ["requestPayload"])
    assert "responsePayload" not in record


def test_a_payload_that_is_null_anyway_is_not_named_as_truncated() -> None:
    end = ended(event=json.dumps("e" * 5_000).encode(), response=b"null")
    assert record_of(end, limit_bytes=1_024)["penstockTruncated"] == ["requestPayload"]


def test_a_record_exactly_at_the_limit_is_whole() -> None:
    whole = invocation_record(ended(), limit_bytes=MAX_MESSAGE_BYTES)
    assert invocation_record(ended(), limit_bytes=len(whole)) == whole
    assert b"penstockTruncated" in invocation_record(ended(), limit_bytes=len(whole) - 1)
    assert truncated_record(whole, limit_bytes=len(whole)) == whole


@pytest.mark.parametrize("milliseconds", [0, 999, 1_000, 1_700_000_000_001, 1_770_091_506_789, 4_102_444_799_999])
def test_timestamps_keep_their_milliseconds(milliseconds: int) -> None:
    assert iso_timestamp(milliseconds).endswith(f".{milliseconds % 1000:03d}Z")


# -- dead letters ------------------------------------------------------------------------------------------------------


async def dead_letter_of(broker: Broker, end: InvocationEnd) -> Message:
    await finish_with(broker, dead_letter_delivery(end, Queue("dead")))
    (message,) = await broker.queue("dead").receive()
    return message


async def finish_with(broker: Broker, *deliveries: Delivery, relay: bool = True) -> None:
    """One event is invoked, and finished with what is to be sent on because of it."""
    for delivery in deliveries:
        if isinstance(delivery.target, Queue) and delivery.target.name not in await broker.queues():
            await broker.queue(delivery.target.name).create()
    if "work" not in await broker.functions():
        await register_function(broker.core, "work", FunctionSettings())
    await broker.invoke("work", {})
    claim = await broker.core.messages.claim(FUNCTION, token="w1", lease_ms=20_000, room=1, mode="work")
    onward = [Onward(0, str(n), msgspec.msgpack.encode(delivery)) for n, delivery in enumerate(deliveries)]
    members = [member_of(claim.messages[0].entry, "w1")]
    done = await broker.core.messages.finish(FUNCTION, members, counter="done", onward=onward)
    assert done.settled == 1
    if relay:
        await broker.deliver(FUNCTION)


async def test_a_dead_letter_is_the_bare_event_with_lambda_s_three_attributes(broker: Broker) -> None:
    letter = await dead_letter_of(broker, ended("RetriesExhausted", tries=3))
    assert letter.body == '{"path":"cat.jpg"}'
    assert letter.attributes == {"RequestID": "r-1", "ErrorCode": 200, "ErrorMessage": "no cat"}
    assert letter.source == FUNCTION.arn
    assert letter.receives == 1


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        (ended("EventAgeExceeded", response=None), 429, "The event was older than"),
        (ended("ZeroReservedConcurrency", response=None), 429, "Rate Exceeded."),
        (ended("Quarantined", response=None), 429, "The event ended its worker process"),
        (ended("RetriesExhausted", response=b'{"errorMessage":""}'), 200, "RetriesExhausted"),
        (ended("RetriesExhausted", response=b'"odd"'), 200, "RetriesExhausted"),
    ],
)
async def test_a_dead_letter_s_error_is_the_last_try_s(
    broker: Broker, end: InvocationEnd, code: int, message: str
) -> None:
    letter = await dead_letter_of(broker, end)
    assert letter.attributes["ErrorCode"] == code
    assert str(letter.attributes["ErrorMessage"]).startswith(message)


async def test_the_error_message_is_cut_to_a_kilobyte_between_characters(broker: Broker) -> None:
    error = json.dumps({"errorMessage": "x" + "é" * 2_000}).encode()
    letter = await dead_letter_of(broker, ended("RetriesExhausted", response=error))
    assert letter.attributes["ErrorMessage"] == "x" + "é" * 511


async def test_an_event_of_the_largest_size_fits_into_a_dead_letter(broker: Broker) -> None:
    event = json.dumps("x" * (MAX_MESSAGE_BYTES - 2)).encode()
    letter = await dead_letter_of(broker, ended("RetriesExhausted", event=event))
    assert len(letter.body) == MAX_MESSAGE_BYTES


async def test_a_dead_letter_gets_through_to_a_queue_for_small_messages(broker: Broker) -> None:
    await broker.queue("dead").create(max_message_bytes=1_024)
    letter = await dead_letter_of(broker, ended("RetriesExhausted", event=json.dumps("x" * 5_000).encode()))
    assert len(letter.body) == 5_002


async def test_redriving_a_function_s_dead_letter_invokes_it_again_under_the_same_request_id(broker: Broker) -> None:
    await finish_with(broker, dead_letter_delivery(ended("RetriesExhausted"), Queue("dead")))
    assert await broker.queue("dead").redrive() == 1
    claim = await broker.core.messages.claim(FUNCTION, token="w2", lease_ms=20_000, room=1, mode="work")
    event = Message(broker.core, FUNCTION, claim.messages[0], claim=claim)
    assert (event.id, event.body, event.attributes) == ("r-1", '{"path":"cat.jpg"}', {})
    assert (event.facts.receives, event.facts.tries) == (1, 0)


# -- the relay ---------------------------------------------------------------------------------------------------------


async def test_a_record_reaches_a_queue_as_its_body(broker: Broker) -> None:
    await finish_with(broker, record_delivery(ended(), Queue("good")))
    (message,) = await broker.queue("good").receive()
    assert message.json() == record_of(ended())
    assert (message.attributes, message.source) == ({}, None)
    assert (await broker.function("work").counts()).outbox == 0


async def test_a_record_reaches_a_function_as_its_event(broker: Broker) -> None:
    await register_function(broker.core, "next", FunctionSettings())
    await finish_with(broker, record_delivery(ended(), Function("next")))
    claim = await broker.core.messages.claim(
        broker.function("next").resource, token="w1", lease_ms=1_000, room=10, mode="work"
    )
    assert [json.loads(unpack(event.blob)[1]) for event in claim.messages] == [record_of(ended())]


async def test_a_record_reaches_a_stream(broker: Broker) -> None:
    await ensure_stream(broker.core, "done")
    await finish_with(broker, record_delivery(ended(), Stream("done")))
    (record,) = await broker.stream("done").read()
    assert record.json() == record_of(ended())


async def test_destination_and_dead_letter_queue_both_get_theirs(broker: Broker) -> None:
    end = ended("RetriesExhausted")
    await finish_with(broker, record_delivery(end, Queue("failed")), dead_letter_delivery(end, Queue("dead")))
    assert (await broker.queue("failed").counts()).visible == 1
    assert (await broker.queue("dead").counts()).visible == 1


async def test_a_record_over_the_limit_of_its_queue_goes_without_its_payloads(broker: Broker) -> None:
    await broker.queue("small").create(max_message_bytes=1_024)
    end = ended(response=json.dumps("r" * 5_000).encode())
    await finish_with(broker, record_delivery(end, Queue("small")), record_delivery(ended(), Queue("small")))
    small, large = sorted((m.json() for m in await broker.queue("small").receive(10)), key=len)
    assert small == record_of(ended())
    assert (large["responsePayload"], large["penstockTruncated"]) == (None, ["responsePayload"])
    assert large["requestPayload"] == {"path": "cat.jpg"}


def waiting_in(target: Target, body: bytes = b'"x"') -> Delivery:
    return Delivery(kind="dead_letter", target=target, blob=pack(body))


async def test_what_cannot_be_delivered_waits_with_backoff_and_says_why(broker: Broker, clock: Clock) -> None:
    await finish_with(broker, Delivery(kind="success", target=Function("nobody"), blob=pack(b"1")))
    outbox = broker.core.outbox
    for attempts, pause_s in ((1, 1), (2, 2), (3, 4), (4, 8)):
        (entry,) = await outbox.entries(FUNCTION, 10)
        waiting = msgspec.msgpack.decode(entry.record, type=Delivery)
        assert waiting.attempts == attempts
        assert 'function "nobody" does not exist' in waiting.last_error
        await clock.advance(pause_s - 0.1)
        assert await broker.deliver(FUNCTION) == 0
        assert (await outbox.entries(FUNCTION, 10)) == [entry]
        await clock.advance(0.1)
        assert await broker.deliver(FUNCTION) == 0
    assert (await broker.function("work").counts()).outbox == 1
    await register_function(broker.core, "nobody", FunctionSettings())
    await clock.advance(16)
    assert await broker.deliver(FUNCTION) == 1


async def test_targets_do_not_wait_for_each_other(broker: Broker) -> None:
    await finish_with(
        broker,
        Delivery(kind="success", target=Function("nobody"), blob=pack(b"1")),
        Delivery(kind="success", target=Queue("good"), blob=pack(b"2")),
    )
    (message,) = await broker.queue("good").receive(10)
    assert message.body == "2"
    assert (await broker.function("work").counts()).outbox == 1


async def test_after_a_day_it_goes_to_the_dead_letter_queue(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings(dead_letter=Queue("dead")))
    now_ms = await broker.core.messages.now_ms()
    delivery = Delivery(
        kind="success", target=Function("nobody"), blob=pack(b"1"), first_attempt_ms=now_ms - OUTBOX_KEEP_MS
    )
    await finish_with(broker, delivery)
    await broker.deliver(FUNCTION)
    (message,) = await broker.queue("dead").receive()
    assert message.body == "1"
    assert (await broker.function("work").counts()).outbox == 0


async def test_without_a_dead_letter_queue_it_stays_for_ever(broker: Broker, clock: Clock) -> None:
    now_ms = await broker.core.messages.now_ms()
    delivery = Delivery(
        kind="success", target=Function("nobody"), blob=pack(b"1"), first_attempt_ms=now_ms - 2 * OUTBOX_KEEP_MS
    )
    await finish_with(broker, delivery)
    for _ in range(15):
        await clock.advance(301)  # never further apart than five minutes
        await broker.deliver(FUNCTION)
    (entry,) = await broker.core.outbox.entries(FUNCTION, 10)
    assert msgspec.msgpack.decode(entry.record, type=Delivery).attempts == 16


async def test_two_relays_at_once_deliver_everything_once(broker: Broker) -> None:
    for n in range(5):
        await finish_with(broker, *(waiting_in(Queue("good"), b"%d" % (n * 100 + k)) for k in range(100)), relay=False)
    delivered = await asyncio.gather(*(broker.deliver(FUNCTION) for _ in range(4)))
    assert sum(delivered) == 500
    bodies = [int(message.body) for message in await broker.queue("good").receive(1_000)]
    assert sorted(bodies) == list(range(500))


async def test_many_large_ones_are_all_delivered_in_one_go(broker: Broker) -> None:
    for _ in range(4):
        large = b'"' + b"x" * 1_000_000 + b'"'
        await finish_with(broker, *(waiting_in(Queue("good"), large) for _ in range(4)), relay=False)
    assert await broker.deliver(FUNCTION) == 16
    assert (await broker.queue("good").counts()).visible == 16


async def test_a_relay_that_dies_is_replaced_and_nothing_arrives_twice(broker: Broker, clock: Clock) -> None:
    """It had sent on, and had not yet said so."""
    await finish_with(broker, waiting_in(Queue("good")), relay=False)
    (entry,) = await broker.core.outbox.take(FUNCTION, room=10, hold_ms=30_000)
    own_id = f"{FUNCTION.tag}/{entry.name}"
    await broker.queue("good").send("x", id=own_id)  # as the dead relay did
    assert await broker.deliver(FUNCTION) == 0  # it is held for the dead one
    await clock.advance(30)
    assert await broker.deliver(FUNCTION) == 1
    assert (await broker.queue("good").counts()).total == 1


@pytest.mark.parametrize("number", range(1, 5))
async def test_a_relay_whose_connection_is_cut_delivers_once_in_the_end(
    broker: Broker, clock: Clock, proxy: FaultProxy, number: int
) -> None:
    await finish_with(broker, waiting_in(Queue("good")), relay=False)
    async with Broker(proxy.url, settings=broker.core.settings) as shaky:
        proxy.add(Rule("cut_after", command="EVALSHA", number=number))
        for _ in range(3):
            try:
                await shaky.deliver(FUNCTION)
            except StoreUnavailable:
                await clock.advance(30)
    assert (await broker.queue("good").counts()).total == 1
    assert (await broker.function("work").counts()).outbox == 0


async def test_what_one_queue_refuses_for_its_size_does_not_hold_up_the_rest(broker: Broker) -> None:
    """A record that does not fit even without its payloads waits; its neighbours arrive."""
    await broker.queue("small").create(max_message_bytes=1_024)
    huge_id = ended(request_id="r" * 2_000)
    await finish_with(
        broker,
        record_delivery(ended(), Queue("small")),
        record_delivery(huge_id, Queue("small")),
        record_delivery(ended(), Queue("small")),
    )
    assert (await broker.queue("small").counts()).visible == 2
    (entry,) = await broker.core.outbox.entries(FUNCTION, 10)
    waiting = msgspec.msgpack.decode(entry.record, type=Delivery)
    assert "at most 1024 are allowed" in waiting.last_error
    assert waiting.blob == record_delivery(huge_id, Queue("small")).blob  # untouched, for a larger limit later


async def test_a_producer_is_refused_where_a_record_would_be_cut(broker: Broker) -> None:
    await broker.queue("small").create(max_message_bytes=1_024)
    with pytest.raises(PayloadTooLarge, match='queue "small" has 1025 bytes; at most 1024'):
        await broker.queue("small").send("x" * 1_025)


async def test_a_refused_settle_sends_nothing_on(broker: Broker, clock: Clock) -> None:
    """The late result of a superseded lease: no record of it reaches anybody."""
    await broker.queue("good").create()
    await register_function(broker.core, "work", FunctionSettings())
    await broker.invoke("work", {})
    claim = await broker.core.messages.claim(FUNCTION, token="w1", lease_ms=1_000, room=1, mode="work")
    await clock.advance(1)
    newer = await broker.core.messages.claim(FUNCTION, token="s2", lease_ms=1_000, room=1, mode="alone")
    if not newer.messages:
        newer = await broker.core.messages.claim(FUNCTION, token="s2", lease_ms=1_000, room=1, mode="alone")
    assert len(newer.messages) == 1
    onward = [Onward(0, "s", msgspec.msgpack.encode(record_delivery(ended(), Queue("good"))))]
    members = [member_of(claim.messages[0].entry, "w1")]
    done = await broker.core.messages.finish(FUNCTION, members, counter="done", onward=onward)
    assert (done.settled, done.refused) == (0, {0: "fenced"})
    assert await broker.deliver(FUNCTION) == 0
    assert (await broker.queue("good").counts()).total == 0
