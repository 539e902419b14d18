"""Statuses end to end: every transition of an event under a real worker, results, and the cancelling of what runs."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from broker import Broker, FunctionError, Queue, Status
from broker.errors import EventNotFound, ResultNotKept
from runtime import App, Context
from tests.conftest import Clock
from tests.runtime.scene import Serve, Shop, empty, eventually, lines, received, waiting


class Job:
    """A handler that does what its event says."""

    def __init__(self, **options: Any) -> None:
        self.app = App()
        self.fails = True
        self.app.function(name="job", **options)(self.handle)

    async def handle(self, event: Any, context: Context) -> Any:
        if self.fails:
            raise ValueError(f"try {context.attempt}")
        return {"event": event, "attempt": context.attempt}


async def ended(broker: Broker, request_id: str) -> Status:
    status = await broker.status(request_id, function="job", wait=8)
    assert status.ended, status
    return status


@pytest.mark.parametrize("own_id", [None, "mine"])
async def test_every_state_from_the_queue_to_success(
    broker: Broker, serve: Serve, clock: Clock, own_id: str | None
) -> None:
    shop = Shop()
    async with serve(shop.app):
        pass  # registered
    request_id = await broker.invoke("job", 1, id=own_id)
    assert (await broker.status(request_id, function="job")).state == "queued"
    async with serve(shop.app):
        await eventually(lambda: shop.gauge.now)
        status = await broker.status(request_id, function="job")
        assert (status.state, status.attempt) == ("running", 1)
        assert status.since_ms is not None
        shop.gate.set()
        status = await ended(broker, request_id)
        assert (status.state, status.condition, status.attempt) == ("succeeded", "Success", 1)
        await clock.advance(3_601)
        with pytest.raises(EventNotFound):
            await broker.status(request_id, function="job")


async def test_retries_until_they_are_used_up(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(retries=2)
    async with serve(job.app):
        request_id = await broker.invoke("job", {})
        for attempt, delay_s in ((1, 60), (2, 120)):
            await waiting(broker, "job")
            status = await broker.status(request_id)
            assert (status.state, status.attempt, status.error_message) == ("retrying", attempt, f"try {attempt}")
            assert status.next_ms is not None
            left_ms = status.next_ms - await broker.core.messages.now_ms()
            assert delay_s * 1_000 - 10_000 < left_ms <= delay_s * 1_000
            await clock.advance(delay_s)
        status = await ended(broker, request_id)
        assert (status.state, status.condition, status.attempt) == ("failed", "RetriesExhausted", 3)
        assert (status.error_type, status.error_message) == ("ValueError", "try 3")
        with pytest.raises(FunctionError, match="ValueError: try 3"):
            await broker.result(request_id)


async def test_success_at_a_later_try_counts_the_tries(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(retry_delays=(5,), keep_result=1_000)
    async with serve(job.app):
        request_id = await broker.invoke("job", 7)
        await waiting(broker, "job")
        job.fails = False
        await clock.advance(6)
        assert await broker.result(request_id, wait=8) == {"event": 7, "attempt": 2}
        assert (await ended(broker, request_id)).attempt == 2


async def test_what_is_too_old_has_expired(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(max_event_age=100)
    async with serve(job.app):
        request_id = await broker.invoke("job", {})
        await waiting(broker, "job")
        await clock.advance(101)
        status = await ended(broker, request_id)
        assert (status.state, status.condition, status.attempt) == ("expired", "EventAgeExceeded", 1)
        assert status.error_message == "try 1"


async def test_what_nobody_serves_expires_and_says_so(broker: Broker, serve: Serve, clock: Clock) -> None:
    job, other = Job(max_event_age=60), App()
    async with serve(job.app):
        pass  # registered
    plain, named = await broker.invoke("job", {}), await broker.invoke("job", {}, id="mine")
    await clock.advance(61)
    async with serve(other, housekeeping_every=0.05):
        for request_id in (plain, named):
            status = await ended(broker, request_id)
            assert (status.state, status.attempt) == ("expired", 0)


async def test_no_concurrency_at_all_fails_events(broker: Broker, serve: Serve) -> None:
    job = Job(concurrency=0)
    async with serve(job.app):
        status = await ended(broker, await broker.invoke("job", {}))
        assert (status.state, status.condition, status.attempt) == ("failed", "ZeroReservedConcurrency", 0)


async def test_a_quarantined_event_has_failed_with_the_cause(broker: Broker, serve: Serve, clock: Clock) -> None:
    job = Job(max_crashes=0)
    async with serve(job.app):
        pass  # registered
    request_id = await broker.invoke("job", {})
    resource = broker.core.resource("function", "job")
    await broker.core.messages.claim(resource, token="wdeadbeef00001", lease_ms=1_000, room=1, mode="work")
    await broker.core.directory.record_end("deadbeef0000", "signal: killed")
    await clock.advance(2)
    async with serve(job.app):
        status = await ended(broker, request_id)
        assert (status.state, status.condition) == ("failed", "Quarantined")
        assert (status.error_type, "signal: killed" in status.error_message) == ("Runtime.ExitError", True)


async def test_results_are_kept_up_to_their_limit_and_only_where_asked_for(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function(keep_result=50)
    async def echo(event: str, context: Context) -> str:
        return event

    @app.function()
    async def silent(event: str, context: Context) -> str:
        return event

    async with serve(app):
        assert await broker.result(await broker.invoke("echo", "x" * 48), wait=8) == "x" * 48
        for name, length in (("echo", 49), ("silent", 1)):
            with pytest.raises(ResultNotKept):
                await broker.result(await broker.invoke(name, "x" * length), wait=8)


async def test_with_keep_status_0_nothing_is_known_after_the_end(broker: Broker, serve: Serve) -> None:
    job = Job(keep_status=0)
    job.fails = False
    async with serve(job.app):
        request_id = await broker.invoke("job", {})
        await empty(broker, "job")
        with pytest.raises(EventNotFound):
            await broker.status(request_id)
    keys = broker.core.keys.of(broker.core.resource("function", "job"))
    assert await broker.core.runner.fetch("EXISTS", keys.ended_1, keys.ended_2) == 0


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_the_running_coroutine_is_cancelled_and_its_event_not_tried_again(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    shop = Shop(on_failure=Queue("failed"), dead_letter=Queue("dead"), concurrency=1)
    async with serve(shop.app):
        first, second = await broker.invoke("job", 1), await broker.invoke("job", 2)
        await eventually(lambda: shop.gauge.now)
        assert await broker.cancel(first)
        await eventually(lambda: shop.cancelled == [1])  # long before its lease is renewed
        assert (await broker.status(first)).state == "cancelled"
        (record,) = await received(broker, "failed")
        assert record.json()["requestContext"]["condition"] == "Cancelled"
        shop.gate.set()  # its permit is free: the other one runs
        assert (await ended(broker, second)).state == "succeeded"
        await clock.advance(3_000)
        await empty(broker, "job")
        assert (shop.done, shop.gauge.total) == ([2], 2)
        assert (await broker.queue("dead").counts()).total == 0
    assert lines(logs, "event_cancelled")


async def test_what_was_claimed_and_has_not_started_does_not_start(broker: Broker, serve: Serve) -> None:
    shop = Shop()
    async with serve(shop.app, max_calls=1):
        ids = [await broker.invoke("job", number) for number in range(3)]
        await eventually(lambda: shop.gauge.now)
        for request_id in ids[1:]:
            assert await broker.cancel(request_id)
        shop.gate.set()
        assert (await ended(broker, ids[0])).state == "succeeded"
        await empty(broker, "job")
    assert shop.gauge.total == 1


async def test_a_plain_function_goes_on_and_its_result_counts_for_nothing(broker: Broker, serve: Serve) -> None:
    app, started, loop = App(), asyncio.Event(), asyncio.get_running_loop()
    gate = asyncio.Event()

    @app.function(name="job", timeout=60, keep_result=100, on_success=Queue("good"))
    def job(event: Any, context: Context) -> str:
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return "late"

    async with serve(app):
        request_id = await broker.invoke("job", {})
        await started.wait()
        assert await broker.cancel(request_id)
        gate.set()
        await empty(broker, "job")
        assert (await broker.status(request_id)).state == "cancelled"
        assert (await broker.queue("good").counts()).total == 0
