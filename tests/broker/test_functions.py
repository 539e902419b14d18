"""Functions as data: registration, the newest of which wins, invocation, pause, purge, deletion; mappings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import pytest

from broker import Broker, Function, FunctionError, NoLiveWorker, Queue, Stream
from broker.call_notices import CallNotice, CallReply
from broker.declarations import Change
from broker.errors import CallThrottled, CallTimeout, FunctionNotFound, InvalidName, InvalidOption, ResourceBusy
from broker.functions import register_function
from broker.ids import message_id
from broker.mappings import read_mapping, register_mapping
from broker.records import FunctionSettings, MappingSettings, unpack
from broker.store.values import Claim, Claimed, ClaimMode
from broker.workers import HEARTBEAT_TTL_MS, Serves
from tests.conftest import Clock

W1 = "w1"


async def registered(broker: Broker, name: str = "work", **options: object) -> None:
    await register_function(broker.core, name, msgspec.convert(options, FunctionSettings))


async def claimed(broker: Broker, *, token: str = W1, mode: ClaimMode = "work", lease_ms: int = 20_000) -> Claim:
    resource = broker.function("work").resource
    return await broker.core.messages.claim(resource, token=token, lease_ms=lease_ms, room=100, mode=mode)


# -- registration ------------------------------------------------------------------------------------------------------


def body_of(event: Claimed) -> bytes:
    return unpack(event.blob)[1]


async def test_a_registration_is_kept_and_listed(broker: Broker) -> None:
    settings = FunctionSettings(
        timeout_s=30,
        retries=5,
        retry_delays_s=(1, 2),
        max_event_age_s=60,
        concurrency=8,
        on_success=Queue("good"),
        on_failure=Stream("bad"),
        dead_letter=Queue("dead"),
    )
    done = await register_function(broker.core, "work", settings)
    assert (done.created, done.changes) == (True, [])
    assert await broker.functions() == ["work"]
    assert await broker.function("work").settings() == settings


async def test_registration_creates_the_queues_and_streams_that_it_names(broker: Broker) -> None:
    settings = FunctionSettings(on_success=Queue("good"), on_failure=Stream("bad"), dead_letter=Queue("dead"))
    await register_function(broker.core, "work", settings)
    assert (await broker.queues(), await broker.streams()) == (["dead", "good"], ["bad"])


async def test_the_newest_registration_wins_and_says_what_it_changed(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings(retries=1, timeout_s=5))
    same = await register_function(broker.core, "work", FunctionSettings(retries=1, timeout_s=5))
    assert (same.created, same.changes) == (False, [])
    done = await register_function(broker.core, "work", FunctionSettings(retries=3, timeout_s=5, concurrency=2))
    assert done.changes == [Change("retries", 1, 3), Change("concurrency", None, 2)]
    assert (await broker.function("work").settings()).retries == 3


async def test_a_change_is_seen_by_the_next_claim(broker: Broker) -> None:
    await registered(broker, concurrency=1)
    before = await claimed(broker)
    await registered(broker)
    after = await claimed(broker)
    assert (before.limit, after.limit) == (1, None)
    assert after.revision > before.revision


async def test_events_outlive_a_new_registration(broker: Broker) -> None:
    await registered(broker)
    await broker.invoke("work", {"n": 1})
    await registered(broker, retries=0)
    assert (await broker.function("work").counts()).visible == 1


@pytest.mark.parametrize("option", ["on_success", "on_failure", "dead_letter"])
async def test_a_function_cannot_be_its_own_destination(broker: Broker, option: str) -> None:
    settings = msgspec.structs.replace(FunctionSettings(on_success=Queue("made")), **{option: Function("work")})
    with pytest.raises(InvalidOption, match="a function cannot be a destination of itself"):
        await register_function(broker.core, "work", settings)
    assert (await broker.functions(), await broker.queues()) == ([], [])


async def test_a_mapping_is_kept_by_its_queue_and_function_and_creates_the_queue(broker: Broker) -> None:
    settings = MappingSettings(queue="orders", function="work", batch_size=100)
    assert (await register_mapping(broker.core, settings)).created
    changed = msgspec.structs.replace(settings, batch_size=10)
    done = await register_mapping(broker.core, changed)
    assert done.changes == [Change("batch_size", 100, 10)]
    assert await broker.queues() == ["orders"]
    ((name, stored),) = (await broker.core.directory.mappings()).items()
    assert name == "orders->work"
    assert msgspec.structs.replace(read_mapping(stored), uuid="", modified_ms=0) == changed
    orders = broker.core.resource("queue", "orders")
    assert await broker.core.directory.delete_mapping("orders->work", queue=orders)
    assert not await broker.core.directory.delete_mapping("orders->work", queue=orders)


async def test_a_mapping_with_a_bad_name_creates_nothing(broker: Broker) -> None:
    for queue, function in (("or ders", "work"), ("orders", "wo rk")):
        with pytest.raises(InvalidName):
            await register_mapping(broker.core, MappingSettings(queue=queue, function=function))
    assert (await broker.queues(), await broker.core.directory.mappings()) == ([], {})


# -- invocation --------------------------------------------------------------------------------------------------------


async def test_an_event_is_stored_under_its_request_id(broker: Broker) -> None:
    await registered(broker)
    request_id = await broker.invoke("work", {"path": "cat.jpg"})
    claim = await claimed(broker)
    (event,) = claim.messages
    assert message_id(event.entry, claim.nonce) == request_id
    assert body_of(event) == b'{"path":"cat.jpg"}'


async def test_many_events_are_stored_in_order(broker: Broker) -> None:
    await registered(broker)
    ids = await broker.invoke_many("work", ({"n": n} for n in range(3)))
    assert len(set(ids)) == 3
    assert [body_of(event) for event in (await claimed(broker)).messages] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


async def test_bytes_are_taken_as_json_text(broker: Broker) -> None:
    await registered(broker)
    await broker.invoke("work", b' {"a": 1} ')
    assert body_of((await claimed(broker)).messages[0]) == b' {"a": 1} '


async def test_a_function_that_nobody_serves_queues_and_refuses_calls(broker: Broker) -> None:
    await registered(broker)
    await broker.invoke("work", {})
    assert (await broker.function("work").counts()).visible == 1
    with pytest.raises(NoLiveWorker, match='function "work": no live worker serves it'):
        await broker.call("work", {})
    with pytest.raises(FunctionNotFound):
        await broker.call("nobody", {})


async def test_a_call_to_a_worker_that_does_not_listen_finds_nobody(broker: Broker) -> None:
    await registered(broker, concurrency=1)
    await heartbeat(broker, "gone")
    with pytest.raises(NoLiveWorker):
        await broker.call("work", {}, timeout=5)
    assert (await broker.function("work").counts()).running == 0  # its permit was not kept


async def test_a_call_without_an_answer_ends_at_its_deadline(broker: Broker) -> None:
    await registered(broker)
    heard: list[bytes | None] = []
    await broker.core.channels.listen({broker.core.parcels.inbox("deaf"): heard.append})
    await heartbeat(broker, "deaf")
    with pytest.raises(CallTimeout, match=r'function "work" gave no answer within 0\.2 s'):
        await broker.call("work", {}, timeout=0.2)
    assert len([notice for notice in heard if notice is not None]) >= 1


async def test_a_call_over_the_concurrency_limit_or_to_a_paused_function_is_throttled(broker: Broker) -> None:
    await registered(broker, concurrency=1)
    await heartbeat(broker, "busy")
    await broker.core.permits.take_of_function(broker.function("work").resource, ["other"], permit_ms=20_000)
    with pytest.raises(CallThrottled, match='function "work": it is at its concurrency limit'):
        await broker.call("work", {})
    await broker.function("work").pause()
    with pytest.raises(CallThrottled, match="it is paused"):
        await broker.call("work", {})


Answer: TypeAlias = Callable[[CallNotice], CallReply | None]


async def worker(broker: Broker, process: str, answer: Answer) -> list[CallNotice]:
    """Something that listens at a worker's inbox and answers as told; what it heard."""
    heard: list[CallNotice] = []

    def on_notice(data: bytes | None) -> None:
        if data is not None:
            notice = msgspec.msgpack.decode(data, type=CallNotice)
            heard.append(notice)
            if reply := answer(notice):
                told = broker.core.parcels.tell(notice.reply_to, msgspec.msgpack.encode(reply))
                broker.core.in_background(told, name="answer")

    await broker.core.channels.listen({broker.core.parcels.inbox(process): on_notice})
    await heartbeat(broker, process)
    return heard


def result(notice: CallNotice) -> CallReply:
    return CallReply(id=notice.id, payload=b'{"made":' + (notice.payload or b"null") + b"}")


async def test_a_call_brings_the_result_and_many_at_once_bring_each_its_own(broker: Broker) -> None:
    await registered(broker)
    await worker(broker, "one", result)
    answers = await asyncio.gather(*(broker.call("work", n, timeout=5) for n in range(50)))
    assert answers == [{"made": n} for n in range(50)]


async def test_a_failed_call_raises_lambda_s_error(broker: Broker) -> None:
    await registered(broker)
    error = b'{"errorType":"ValueError","errorMessage":"no cat","stackTrace":["line"],"requestId":"x"}'
    heard = await worker(broker, "one", lambda notice: CallReply(id=notice.id, failed=True, payload=error))
    with pytest.raises(FunctionError, match="ValueError: no cat") as caught:
        await broker.call("work", {}, timeout=5)
    raised = caught.value
    assert (raised.error_type, raised.message, raised.stack) == ("ValueError", "no cat", ["line"])
    assert raised.request_id == heard[0].id


async def test_a_payload_too_large_for_a_channel_waits_as_a_parcel(broker: Broker) -> None:
    await registered(broker)
    heard = await worker(broker, "one", lambda notice: CallReply(id=notice.id, payload=b"1"))
    assert await broker.call("work", "x" * 1_000_000, timeout=5) == 1
    assert heard[0].payload is None
    assert await broker.core.parcels.take(heard[0].id) == b'"' + b"x" * 1_000_000 + b'"'


async def test_a_worker_that_refuses_is_passed_over_for_one_that_takes_it(broker: Broker) -> None:
    await registered(broker)
    await worker(broker, "one", lambda notice: CallReply(id=notice.id, refused="it is stopping"))
    await worker(broker, "two", result)
    assert [await broker.call("work", n, timeout=5) for n in range(10)] == [{"made": n} for n in range(10)]


async def test_a_call_that_every_worker_refuses_asks_for_its_turn_once_and_is_throttled(broker: Broker) -> None:
    await registered(broker)
    heard = await worker(broker, "one", lambda notice: CallReply(id=notice.id, refused="no room", may_wait=True))
    with pytest.raises(CallThrottled, match="no worker takes it now: no room"):
        await broker.call("work", {}, timeout=5)
    assert [notice.patience_ms > 0 for notice in heard] == [False, True]


async def test_a_cancelled_call_tells_its_worker(broker: Broker) -> None:
    await registered(broker)
    begun, ended = asyncio.Event(), asyncio.Event()

    def note(notice: CallNotice) -> None:
        (ended if notice.kind == "cancel" else begun).set()

    heard = await worker(broker, "one", note)
    task = asyncio.create_task(broker.call("work", {}, timeout=60))
    async with asyncio.timeout(5):
        await begun.wait()
        task.cancel()
        await ended.wait()
    assert [notice.kind for notice in heard] == ["call", "cancel"]
    with pytest.raises(asyncio.CancelledError):
        await task


async def heartbeat(broker: Broker, process: str) -> None:
    serves = msgspec.json.encode(Serves(process=process, functions=("work",)))
    await broker.core.directory.heartbeat(process, serves, ttl_ms=HEARTBEAT_TTL_MS)


# -- pausing, purging, deleting ----------------------------------------------------------------------------------------


async def test_a_paused_function_keeps_its_events_and_nothing_is_claimed(broker: Broker) -> None:
    await registered(broker)
    await broker.function("work").pause()
    await broker.invoke("work", {})
    assert (await claimed(broker)).status == "paused"
    assert (await claimed(broker, mode="aged")).status == "paused"  # and nothing expires
    await registered(broker, retries=0)
    assert (await claimed(broker)).status == "paused"  # a registration does not end the pause
    await broker.function("work").resume()
    assert len((await claimed(broker)).messages) == 1


async def test_a_pause_that_the_code_declares_is_not_ended_by_resume(broker: Broker) -> None:
    await registered(broker, paused=True)
    await broker.invoke("work", {})
    await broker.function("work").resume()
    assert (await claimed(broker)).status == "paused"
    await registered(broker)
    assert len((await claimed(broker)).messages) == 1


async def test_purge_throws_away_what_waits_and_what_runs(broker: Broker) -> None:
    await registered(broker)
    await broker.invoke_many("work", range(5))
    await claimed(broker)
    await broker.invoke("work", 6)
    assert await broker.function("work").purge() == 6
    assert (await broker.function("work").counts()).total == 0
    await broker.invoke("work", 7)
    assert [body_of(event) for event in (await claimed(broker)).messages] == [b"7"]


async def test_a_function_with_events_is_deleted_only_by_force(broker: Broker) -> None:
    await registered(broker)
    await broker.invoke("work", {})
    with pytest.raises(ResourceBusy, match='function "work" still holds 1 messages'):
        await broker.function("work").delete()
    await broker.function("work").delete(force=True)
    assert await broker.functions() == []
    with pytest.raises(FunctionNotFound):
        await broker.invoke("work", {})


async def test_everything_about_an_unknown_function_says_so(broker: Broker) -> None:
    function = broker.function("nobody")
    uses = (function.settings, function.counts, function.pause, function.resume, function.purge, function.delete)
    for use in (*uses, lambda: function.invoke({})):
        with pytest.raises(FunctionNotFound, match='function "nobody" does not exist'):
            await use()


# -- leases of workers -------------------------------------------------------------------------------------------------


async def test_an_event_whose_worker_went_silent_is_set_apart_and_runs_alone(broker: Broker, clock: Clock) -> None:
    await registered(broker, max_crashes=2)
    await broker.invoke("work", "poison")
    await claimed(broker, token="w1", lease_ms=1_000)
    await clock.advance(1)
    again = await claimed(broker, token="w2")
    assert (again.messages, again.suspects) == ([], 1)
    assert (await broker.function("work").counts()).set_apart == 1
    (alone,) = (await claimed(broker, token="s1", mode="alone", lease_ms=1_000)).messages
    assert (alone.facts.receives, alone.facts.tries, alone.facts.crashes, alone.facts.culprit) == (2, 0, 1, "w1")
    await broker.invoke("work", "neighbour")
    assert [body_of(event) for event in (await claimed(broker, token="w3")).messages] == [b'"neighbour"']
