"""Events by their ids: where one is, how it ended, for how long that is known; cancelling, waiting."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress

import msgspec
import pytest

from broker import Broker, FunctionError, Queue, Stream, sync
from broker.endings import End, how_it_ended, parse_end
from broker.errors import EventNotFound, EventPending, FunctionNotFound, InvalidOption, ResultNotKept
from broker.functions import register_function
from broker.invocation_records import Condition
from broker.names import Resource
from broker.records import FunctionSettings
from broker.settings import Settings
from broker.store.statuses import EventKey
from broker.store.values import Claim, ClaimMode, Deferral, member_of
from tests.conftest import Clock
from tests.runtime.scene import eventually
from tests.store.audit import check_state

HOUR_S = 3_600
TAKEN_MS = 1_700_000_000_000
WORKER = f"w0123456789ab1.{TAKEN_MS:x}"
ERROR = b'{"errorMessage":"no such cat","errorType":"ValueError","stackTrace":["here"]}'


class Work:
    """The function `work`, as its worker would handle it in the store."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.function = broker.function("work")
        self.resource = self.function.resource
        self.messages = broker.core.messages

    async def register(self, **options: object) -> None:
        await register_function(self.broker.core, "work", msgspec.convert(options, FunctionSettings))

    async def claim(self, token: str = WORKER, *, mode: ClaimMode = "work", room: int = 100) -> Claim:
        return await self.messages.claim(self.resource, token=token, lease_ms=20_000, room=room, mode=mode)

    async def lease(self, token: str = WORKER, *, mode: ClaimMode = "work") -> str:
        (claimed,) = (await self.claim(token, mode=mode)).messages
        return member_of(claimed.entry, token)

    async def finish(self, member: str, *, end: End | None = None, counter: str = "done") -> None:
        ends = {} if end is None else {0: end}
        assert (await self.messages.finish(self.resource, [member], counter=counter, ends=ends)).settled == 1

    async def give_up(self, member: str, condition: Condition, *, tries: int = 3, own_id: str = "") -> None:
        end = how_it_ended(condition, tries, ERROR, own_id=own_id, keep_result_bytes=0)
        await self.finish(member, end=end, counter="failed")

    async def retry(self, member: str, delay_s: float) -> None:
        deferral = Deferral(member, round(delay_s * 1000), adds_try=True, note=ERROR)
        assert (await self.messages.defer(self.resource, [deferral])).settled == 1


@pytest.fixture
async def work(broker: Broker) -> Work:
    made = Work(broker)
    await made.register()
    return made


# -- while there is an event ------------------------------------------------------------------------------------------


async def test_what_moves_on_during_the_look_is_told_as_it_is_then(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of an event and its lease are two looks: between them the event may fail and wait for its retry."""
    await work.register()
    request_id = await work.function.invoke({})
    member = await work.lease()
    look = work.broker.core.statuses.lease_of

    async def fails_meanwhile(function: Resource, entry: str) -> tuple[str, int] | None:
        monkeypatch.undo()
        await work.retry(member, 60)
        return await look(function, entry)

    monkeypatch.setattr(work.broker.core.statuses, "lease_of", fails_meanwhile)
    status = await work.broker.status(request_id)
    assert (status.state, status.attempt, status.error_message) == ("retrying", 1, "no such cat")
    assert status.next_ms is not None


async def test_an_event_is_queued_until_a_worker_takes_it(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    status = await broker.status(request_id)
    assert (status.id, status.function, status.state, status.attempt) == (request_id, "work", "queued", 0)
    assert not status.ended
    assert await broker.status(request_id, function="work") == status
    await work.lease()
    status = await broker.status(request_id)
    assert (status.state, status.attempt, status.since_ms) == ("running", 1, TAKEN_MS)


async def test_between_two_tries_it_says_when_and_why(work: Work, broker: Broker, clock: Clock) -> None:
    request_id = await broker.invoke("work", {})
    await work.retry(await work.lease(), 60)
    status = await broker.status(request_id)
    assert (status.state, status.attempt) == ("retrying", 1)
    assert (status.error_type, status.error_message) == ("ValueError", "no such cat")
    assert status.next_ms is not None
    assert 0 < status.next_ms - await broker.core.messages.now_ms() <= 60_000
    await clock.advance(61)
    await work.lease()
    status = await broker.status(request_id)
    assert (status.state, status.attempt, status.error_type) == ("running", 2, "")


async def test_what_a_dead_worker_leaves_is_queued_again(work: Work, broker: Broker, clock: Clock) -> None:
    request_id = await broker.invoke("work", {})
    await work.lease()
    await clock.advance(21)
    status = await broker.status(request_id)
    assert (status.state, status.crashes) == ("queued", 0)  # nobody has noticed yet
    assert (await work.claim("wother")).suspects == 1
    status = await broker.status(request_id)
    assert (status.state, status.crashes) == ("queued", 1)
    await work.lease(f"s0123456789ab1.{TAKEN_MS:x}", mode="alone")
    assert (await broker.status(request_id)).state == "running"


async def test_a_lease_whose_token_tells_no_time_is_running_since_nobody_knows(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    await work.lease("wold")
    status = await broker.status(request_id)
    assert (status.state, status.since_ms) == ("running", None)


# -- after its end ----------------------------------------------------------------------------------------------------


async def test_success_at_the_first_try_needs_no_word_of_the_worker(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    await work.finish(await work.lease())
    status = await broker.status(request_id)
    assert (status.state, status.condition, status.attempt) == ("succeeded", "Success", 1)
    assert status.ended
    assert status.ended_ms is not None
    assert abs(status.ended_ms - await broker.core.messages.now_ms()) < 5_000


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        ("RetriesExhausted", "failed"),
        ("Quarantined", "failed"),
        ("ZeroReservedConcurrency", "failed"),
        ("EventAgeExceeded", "expired"),
    ],
)
async def test_every_other_end_is_told_with_its_error(
    work: Work, broker: Broker, condition: Condition, state: str
) -> None:
    request_id = await broker.invoke("work", {})
    await work.give_up(await work.lease(), condition)
    status = await broker.status(request_id)
    assert (status.state, status.condition, status.attempt) == (state, condition, 3)
    assert (status.error_type, status.error_message) == ("ValueError", "no such cat")


async def test_an_end_is_known_for_the_whole_time_and_not_longer(work: Work, broker: Broker, clock: Clock) -> None:
    ids = []
    for pause_s in (0, 1_000, 1_000, 1_500, 200):  # over the turn of the two hashes
        await clock.advance(pause_s)
        ids.append(await broker.invoke("work", {}))
        await work.finish(await work.lease())
    assert await known(broker, ids) == ids[1:]  # 3,700 s after the first
    await clock.advance(1_000)
    assert await known(broker, ids) == ids[2:]
    await clock.advance(HOUR_S - 1_001)
    assert await known(broker, ids) == ids[4:]
    await clock.advance(2)
    with pytest.raises(EventNotFound, match=f'event "{ids[-1]}" does not exist: its id is wrong, or it ended longer'):
        await broker.status(ids[-1])


async def known(broker: Broker, ids: list[str]) -> list[str]:
    """Those whose end is known."""
    found = []
    for request_id in ids:
        with suppress(EventNotFound):
            found.append((await broker.status(request_id)).id)
    return found


async def test_ends_leave_the_store_by_the_hash(work: Work, broker: Broker, clock: Clock) -> None:
    fetch, keys = broker.core.runner.fetch, broker.core.keys.of(work.resource)
    for expected in ([1, 0], [1, 1], [1, 1], [1, 1]):
        await broker.invoke("work", {})
        await work.finish(await work.lease())
        assert sorted([await fetch("HLEN", keys.ended_1), await fetch("HLEN", keys.ended_2)]) == sorted(expected)
        await clock.advance(HOUR_S + 1)
    for left in (1, 0):  # nothing ends any more: a chore does it
        assert await broker.core.statuses.forget(work.resource)
        assert await fetch("HLEN", keys.ended_1) + await fetch("HLEN", keys.ended_2) == left
        await clock.advance(HOUR_S + 1)
    assert not await broker.core.statuses.forget(work.resource)


async def test_with_keep_status_0_nothing_is_kept_and_what_was_is_forgotten(work: Work, broker: Broker) -> None:
    first = await broker.invoke("work", {})
    await work.finish(await work.lease())
    await work.register(keep_status_s=0)
    with pytest.raises(EventNotFound):
        await broker.status(first)
    second = await broker.invoke("work", {})
    assert (await broker.status(second)).state == "queued"
    await work.finish(await work.lease())
    with pytest.raises(EventNotFound):
        await broker.status(second)
    keys = broker.core.keys.of(work.resource)
    assert await broker.core.runner.fetch("EXISTS", keys.ended_1, keys.ended_2, keys.named) == 0


async def test_a_kept_status_takes_less_than_a_hundred_bytes(work: Work, broker: Broker) -> None:
    for _ in range(5):
        await broker.invoke_many("work", [{}] * 1_000)
        members = [member_of(claimed.entry, WORKER) for claimed in (await work.claim(room=1_000)).messages]
        await work.messages.finish(work.resource, members, counter="done")
    key = broker.core.keys.of(work.resource).ended_1
    assert await broker.core.runner.fetch("HLEN", key) == 5_000
    assert await broker.core.runner.fetch("MEMORY", "USAGE", key, "SAMPLES", 0) / 5_000 < 100


async def test_purged_events_are_not_known_any_more(work: Work, broker: Broker) -> None:
    ids = [await broker.invoke("work", {}), await broker.invoke("work", {}, id="mine")]
    await work.function.purge()
    for request_id in ids:
        with pytest.raises(EventNotFound):
            await broker.status(request_id, function="work")


# -- ids --------------------------------------------------------------------------------------------------------------


async def test_an_id_of_the_caller_needs_the_function_s_name(work: Work, broker: Broker, clock: Clock) -> None:
    await broker.invoke("work", {}, id="order-17")
    with pytest.raises(InvalidOption, match="function=None: needed with an id of your own"):
        await broker.status("order-17")
    assert (await broker.status("order-17", function="work")).state == "queued"
    member = await work.lease()
    assert (await broker.status("order-17", function="work")).state == "running"
    await work.give_up(member, "RetriesExhausted", own_id="order-17")
    assert (await broker.status("order-17", function="work")).state == "failed"
    assert await broker.core.runner.fetch("EXISTS", broker.core.keys.of(work.resource).named) == 0
    await clock.advance(301)
    await broker.invoke("work", {}, id="order-17")  # accepted anew
    assert (await broker.status("order-17", function="work")).state == "queued"


async def test_an_id_of_the_caller_may_be_any_uuid(work: Work, broker: Broker) -> None:
    for own_id in (str(uuid.uuid4()), "01a20061-4078-8000-8000-0000dae205bb"):
        await broker.invoke("work", {}, id=own_id)
        assert (await broker.status(own_id, function="work")).state == "queued"


async def test_ids_that_nobody_has_are_refused_by_name(work: Work, broker: Broker) -> None:
    await broker.queue("orders").create()
    message_id = await broker.queue("orders").send("x")
    request_id = await broker.invoke("work", {})
    for unknown in (message_id, "01a20061-4078-8000-8000-0000dae205bb"):
        with pytest.raises(EventNotFound):
            await broker.status(unknown)
    with pytest.raises(FunctionNotFound):
        await broker.status(request_id, function="other")
    with pytest.raises(InvalidOption, match="id="):
        await broker.status("with blanks", function="work")


async def test_a_function_that_was_deleted_takes_its_ids_along(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    await work.function.delete(force=True)
    with pytest.raises(EventNotFound):
        await broker.status(request_id)
    await work.register()
    again = await broker.invoke("work", {})
    assert (await broker.status(again)).state == "queued"
    with pytest.raises(EventNotFound):
        await broker.status(request_id)


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_queued_event_is_taken_out(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    other = await broker.invoke("work", {})
    assert await broker.cancel(request_id)
    status = await broker.status(request_id)
    assert (status.state, status.condition, status.attempt) == ("cancelled", "Cancelled", 0)
    assert await broker.cancel(request_id)  # again, as after a lost reply
    await work.lease()
    assert (await broker.status(other)).state == "running"
    described = await broker.core.directory.describe(work.resource)
    assert described is not None
    assert described.counters["cancelled"] == 1
    await check_state(broker.core, work.resource)


async def test_one_that_waits_for_a_retry_is_not_tried_again(work: Work, broker: Broker, clock: Clock) -> None:
    request_id = await broker.invoke("work", {}, id="mine")
    await work.retry(await work.lease(), 60)
    assert await broker.cancel(request_id, function="work")
    await clock.advance(61)
    assert not (await work.claim()).messages
    status = await broker.status(request_id, function="work")
    assert (status.state, status.attempt, status.error_type) == ("cancelled", 1, "ValueError")
    await check_state(broker.core, work.resource)


async def test_what_runs_loses_its_lease_and_its_worker_hears_of_it(work: Work, broker: Broker) -> None:
    heard: list[bytes | None] = []
    await broker.core.channels.listen({broker.core.keys.inbox("0123456789ab"): heard.append})
    request_id = await broker.invoke("work", {})
    member = await work.lease()
    assert await broker.cancel(request_id)
    settled = await work.messages.finish(work.resource, [member], counter="done")
    assert settled.refused == {0: "unknown"}
    assert (await broker.status(request_id)).state == "cancelled"
    notices = await eventually(lambda: [notice for notice in heard if notice], what="the notice")
    (notice,) = (msgspec.msgpack.decode(notice) for notice in notices)
    assert notice == {"kind": "drop", "id": member, "function": "work"}
    await check_state(broker.core, work.resource)


async def test_a_cancelled_event_goes_to_the_failure_destination_and_is_no_dead_letter(
    work: Work, broker: Broker
) -> None:
    await work.register(on_failure=Stream("failed"), dead_letter=Queue("dead"), on_success=Queue("good"))
    request_id = await broker.invoke("work", {"n": 1})
    await work.retry(await work.lease(), 60)
    assert await broker.cancel(request_id)
    (record,) = await broker.stream("failed").read()
    told = record.json()
    assert told["requestContext"]["requestId"] == request_id
    assert told["requestContext"]["condition"] == "Cancelled"
    assert (told["requestPayload"], told["responsePayload"]["errorType"]) == ({"n": 1}, "ValueError")
    assert (await broker.queue("dead").counts()).total == (await broker.queue("good").counts()).total == 0


async def test_what_has_ended_cannot_be_cancelled(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    await work.finish(await work.lease())
    assert not await broker.cancel(request_id)
    assert (await broker.status(request_id)).state == "succeeded"
    await work.register(keep_status_s=0)
    with pytest.raises(EventNotFound):
        await broker.cancel(request_id)
    other = await broker.invoke("work", {})
    assert await broker.cancel(other)
    with pytest.raises(EventNotFound):
        await broker.cancel(other)


async def test_an_event_that_moves_on_between_look_and_step_is_looked_at_again(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    statuses = broker.core.statuses
    (queued,) = await broker.core.messages.peek(work.resource, 1)
    first = await statuses.look(work.resource, EventKey(queued.entry))
    assert not isinstance(first, str | bytes)
    member = await work.lease()
    assert await statuses.cancel(work.resource, first, rest=b"0") == "moved"
    await work.retry(member, 60)
    assert await statuses.cancel(work.resource, first, member=member, rest=b"0") == "moved"
    assert await broker.cancel(request_id)


# -- results and waiting ----------------------------------------------------------------------------------------------


def kept(result: bytes, *, own_id: str = "", limit: int = 100) -> End | None:
    return how_it_ended("Success", 1, result, own_id=own_id, keep_result_bytes=limit)


async def test_a_result_is_given_where_it_was_kept(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    with pytest.raises(EventPending, match=f"event {request_id} has not ended: it is queued"):
        await broker.result(request_id)
    await work.finish(await work.lease(), end=kept(b'{"price": 12}'))
    assert await broker.result(request_id) == {"price": 12}
    assert await broker.result(request_id, function="work") == {"price": 12}


async def test_a_result_that_was_not_kept_is_said_to_be_so(work: Work, broker: Broker) -> None:
    small, large = [await broker.invoke("work", {}) for _ in range(2)]
    one, two = (member_of(claimed.entry, WORKER) for claimed in (await work.claim()).messages)
    await work.finish(one)
    await work.finish(two, end=kept(b'"' + b"x" * 100 + b'"'))
    with pytest.raises(ResultNotKept, match="the function has no keep_result"):
        await broker.result(small)
    with pytest.raises(ResultNotKept, match="it is larger than the function's keep_result"):
        await broker.result(large)


async def test_a_failure_is_raised_as_the_handler_s_error(work: Work, broker: Broker) -> None:
    failed, cancelled = [await broker.invoke("work", {}) for _ in range(2)]
    assert await broker.cancel(cancelled)
    await work.give_up(await work.lease(), "RetriesExhausted")
    with pytest.raises(FunctionError, match="ValueError: no such cat") as raised:
        await broker.result(failed)
    assert raised.value.request_id == failed
    with pytest.raises(FunctionError, match="Cancelled: the event was cancelled"):
        await broker.result(cancelled)


@pytest.mark.parametrize("own_id", [None, "mine"])
async def test_who_waits_is_told_of_the_end(work: Work, broker: Broker, own_id: str | None) -> None:
    request_id = await broker.invoke("work", {}, id=own_id)
    waiting = [asyncio.create_task(broker.result(request_id, function="work", wait=60)) for _ in range(3)]
    awaited = broker.core.keys.of(work.resource).awaited
    await eventually(lambda: broker.core.runner.fetch("ZCARD", awaited), what="somebody waits")
    await work.finish(await work.lease(), end=kept(b"[1]", own_id=own_id or ""))
    assert await asyncio.wait_for(asyncio.gather(*waiting), 4) == [[1]] * 3  # before the slow look
    assert broker.core.keys.of(work.resource).ended.encode() not in broker.core.channels._listeners


async def test_waiting_ends_with_the_time_and_with_a_cancellation(work: Work, broker: Broker) -> None:
    request_id = await broker.invoke("work", {})
    assert (await broker.status(request_id, wait=0.05)).state == "queued"
    waiting = asyncio.create_task(broker.status(request_id, wait=60))
    await asyncio.sleep(0)
    assert await broker.cancel(request_id)
    assert (await asyncio.wait_for(waiting, 4)).state == "cancelled"


def test_the_same_without_an_event_loop(redis_url: str, settings: Settings) -> None:
    with sync.Broker(redis_url, settings=settings) as opened:
        opened._run(lambda: register_function(opened._broker.core, "work", FunctionSettings()))
        request_id = opened.invoke("work", {})
        assert opened.status(request_id).state == "queued"
        with pytest.raises(EventPending):
            opened.result(request_id, wait=0.01)
        assert opened.cancel(request_id)
        assert opened.status(request_id, wait=1).state == "cancelled"


# -- the stored form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["Success", "RetriesExhausted", "EventAgeExceeded", "Quarantined", "Cancelled"])
@pytest.mark.parametrize("response", [None, b"17", b'{"errorType":"E","errorMessage":"1+2"}', b"no json"])
def test_an_end_is_read_as_it_was_written(condition: Condition, response: bytes | None) -> None:
    end = how_it_ended(condition, 12, response, own_id="x", keep_result_bytes=1_000)
    assert end is not None
    read = parse_end(end.letter.encode() + b"%011x" % 1_700_000_000_000 + end.rest)
    assert (read.condition, read.tries, read.ended_ms) == (condition, 12, 1_700_000_000_000)
    assert read.result == (response if condition == "Success" else None)


def test_long_errors_are_cut() -> None:
    response = msgspec.json.encode({"errorType": "E" * 1_000, "errorMessage": "ü" * 100_000})
    end = how_it_ended("RetriesExhausted", 1, response, own_id="", keep_result_bytes=0)
    assert end is not None
    assert len(end.rest) < 1_300
