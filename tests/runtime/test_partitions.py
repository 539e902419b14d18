"""Functions and mapped queues that are split: their rules hold over all partitions and workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from broker import Broker, Queue
from broker.builds import function_fields
from broker.errors import EventNotFound
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.upkeep import Upkeep
from runtime import App, Context
from runtime.housekeeping import Housekeeping
from tests.conftest import Clock
from tests.partitions import PARTITIONS, commands, named, of
from tests.runtime.scene import Gauge, Serve, Shop, calls_let_through, empty, eventually, received


def split_app(gauge: Gauge, work_s: float = 0.005, **options: Any) -> App:
    """An app whose function `job` is split and measures how many of it run."""
    app = App()

    @app.function(**{"timeout": 10, "partitions": PARTITIONS, **options})
    async def job(event: Any, context: Context) -> Any:
        async with gauge:
            await asyncio.sleep(work_s)
        return event

    return app


async def spread(broker: Broker, count: int = PARTITIONS) -> list[int]:
    """How many events each partition of `job` holds."""
    found = [await broker.core.messages.counts(part) for part in broker.function("job").resource.parts(count)]
    return [-1 if counts is None else counts.total for counts in found]


# -- running ----------------------------------------------------------------------------------------------------------


async def test_events_are_spread_over_the_partitions_and_all_run(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()
    await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
    ids = [await broker.invoke("job", number) for number in range(10 * PARTITIONS)]
    assert Counter(map(of, ids)) == dict.fromkeys(range(PARTITIONS), 10)
    assert await spread(broker) == [10] * PARTITIONS
    async with serve(split_app(gauge)):
        await empty(broker, "job")
        for number in range(10 * PARTITIONS):  # and those that come while it waits
            await broker.invoke("job", number)
        await eventually(lambda: gauge.total == 20 * PARTITIONS, what="all events ran")
        await empty(broker, "job")


async def test_a_limit_holds_over_all_partitions_workers_and_calls(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()
    async with serve(split_app(gauge, concurrency=3)), serve(split_app(gauge, concurrency=3)):
        for number in range(100):
            await broker.invoke("job", number)
        calls = await asyncio.gather(calls_let_through(broker, 20), calls_let_through(broker, 20))
        await empty(broker, "job")
    assert gauge.total == 100 + sum(calls)
    assert gauge.most == 3


async def test_partitions_take_turns_under_a_limit(broker: Broker, serve: Serve) -> None:
    order: list[int] = []
    app = App()

    @app.function(timeout=10, partitions=PARTITIONS, concurrency=1)
    async def job(event: Any, context: Context) -> None:
        order.append(of(context.aws_request_id))

    await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
    for number in range(20 * PARTITIONS):
        await broker.invoke("job", number)
    async with serve(app):
        await eventually(lambda: len(order) == 20 * PARTITIONS, what="all events ran")
        await empty(broker, "job")
    assert set(order[: 4 * PARTITIONS]) == set(range(PARTITIONS))


async def test_an_idle_limited_function_comes_to_rest(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()
    async with serve(split_app(gauge, concurrency=1)), serve(split_app(gauge, concurrency=1)):
        await broker.invoke("job", 1)

        async def idle() -> bool:
            before = await commands(broker)
            await asyncio.sleep(0.2)
            return await commands(broker) - before <= 2

        await eventually(idle, what="both workers are idle")
    assert gauge.total == 1


async def test_what_never_ends_holds_its_permit_and_what_is_handed_back_does_not(broker: Broker, serve: Serve) -> None:
    shop = Shop(partitions=PARTITIONS, concurrency=2)
    async with serve(shop.app):
        for number in range(8):
            await broker.invoke("job", number)
        await eventually(lambda: shop.gauge.now == 2, what="two run")
        assert (await broker.function("job").counts()).running == 2
    counts = await broker.function("job").counts()  # stopped at once: cancelled, and given back
    assert (counts.running, counts.visible, counts.in_flight) == (0, 8, 0)
    assert len(shop.cancelled) == 2


async def test_failures_of_all_partitions_are_retried_and_reported(broker: Broker, serve: Serve) -> None:
    app, tries = App(), Counter[int]()

    @app.function(timeout=10, partitions=PARTITIONS, retries=1, retry_delays=(0.01,), on_failure=Queue("failed"))
    async def job(event: int, context: Context) -> None:
        tries[event] += 1
        raise ValueError("no")

    async with serve(app):
        ids = [await broker.invoke("job", number) for number in range(2 * PARTITIONS)]
        records = await received(broker, "failed", 2 * PARTITIONS)
        await empty(broker, "job")
    assert {record.json()["requestContext"]["requestId"] for record in records} == set(ids)
    assert tries == dict.fromkeys(range(2 * PARTITIONS), 2)


# -- growing ----------------------------------------------------------------------------------------------------------


async def test_a_function_grows_while_it_runs(broker: Broker, serve: Serve) -> None:
    gauge = Gauge()
    async with serve(split_app(gauge, partitions=1, concurrency=2)):
        for number in range(20):
            await broker.invoke("job", number)
        async with serve(split_app(gauge, partitions=PARTITIONS, concurrency=2)):
            for number in range(20):
                await broker.invoke("job", number)
            await empty(broker, "job")
        assert (await broker.function("job").settings()).partitions == PARTITIONS
        ids = [await broker.invoke("job", number) for number in range(20)]  # by the worker that has seen it grow
        await empty(broker, "job")
    assert set(map(of, ids)) == set(range(PARTITIONS))
    assert gauge.total == 60
    assert gauge.most == 2


async def test_code_that_declares_fewer_partitions_changes_nothing(broker: Broker, serve: Serve) -> None:
    await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
    for number in range(8):
        await broker.invoke("job", number)
    gauge = Gauge()
    async with serve(split_app(gauge, partitions=1)):
        await empty(broker, "job")
    assert gauge.total == 8
    assert (await broker.function("job").settings()).partitions == PARTITIONS


async def test_a_worker_follows_settings_that_have_not_reached_its_partitions(broker: Broker, serve: Serve) -> None:
    gauge, function = Gauge(), broker.function("job")
    async with serve(split_app(gauge, work_s=0.02)):
        for number in range(8):
            await broker.invoke("job", number)
        await empty(broker, "job")
        described = await broker.core.directory.describe(function.resource)
        assert described is not None
        settings = msgspec.json.decode(described.settings, type=FunctionSettings)
        changed = msgspec.structs.replace(settings, concurrency=2)
        encoded = msgspec.json.encode(changed)  # and whoever changes them dies here
        await broker.core.directory.configure(function.resource, encoded, function_fields(changed), mode="replace")
        gauge.most = 0
        for number in range(24):
            await broker.invoke("job", number)
        await eventually(lambda: gauge.total == 32, what="all events ran")
        await empty(broker, "job")
        assert gauge.most == 2
        copies = [await broker.core.directory.describe(part) for part in function.resource.parts(PARTITIONS)]
        assert {copy.revision for copy in copies if copy is not None} == {1}


# -- single events ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_an_event_is_found_by_its_id_wherever_it_is(broker: Broker, serve: Serve, partition: int) -> None:
    own = named(partition)
    async with serve(split_app(Gauge(), keep_result=100)):
        assert await broker.invoke("job", "own", id=own) == own
        assert await broker.result(own, function="job", wait=5) == "own"
        request_id = next(
            one for one in [await broker.invoke("job", number) for number in range(PARTITIONS)] if of(one) == partition
        )
        assert (await broker.status(request_id, wait=5)).state == "succeeded"
        assert (await broker.status(request_id, function="job")).state == "succeeded"


async def test_own_ids_are_found_after_growing(broker: Broker) -> None:
    await register_function(broker.core, "job", FunctionSettings())
    names = [f"event-{number}" for number in range(20)]
    for name in names:
        await broker.invoke("job", name, id=name)
    async with Broker(broker.core.address.url, settings=broker.core.settings) as late:
        await late.status(names[0], function="job")
        await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
        await broker.invoke("job", "new", id="new-1")
        for opened in (late, broker):
            for name in (*names, "new-1"):
                assert (await opened.status(name, function="job")).state == "queued"
            with pytest.raises(EventNotFound):
                await opened.status("nobody", function="job")
    for name in names:
        assert await broker.cancel(name, function="job")
        assert (await broker.status(name, function="job")).state == "cancelled"
    assert sum(await spread(broker)) == 1


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_running_event_is_cancelled_in_any_partition(broker: Broker, serve: Serve, partition: int) -> None:
    shop, own = Shop(partitions=PARTITIONS, concurrency=1), named(partition)
    async with serve(shop.app):
        await broker.invoke("job", "x", id=own)
        await eventually(lambda: shop.gauge.now == 1, what="it runs")
        assert (await broker.status(own, function="job")).state == "running"
        assert await broker.cancel(own, function="job")
        await eventually(lambda: shop.cancelled == ["x"], what="its call is cancelled")
        await empty(broker, "job")


# -- the function as a whole ------------------------------------------------------------------------------------------


async def test_a_pause_stops_all_partitions(broker: Broker, serve: Serve) -> None:
    gauge, job = Gauge(), broker.function("job")
    async with serve(split_app(gauge)):
        await job.pause()
        for number in range(8):
            await broker.invoke("job", number)
        await asyncio.sleep(0.1)
        assert gauge.total == 0
        assert (await job.counts()).visible == 8
        await job.resume()
        await eventually(lambda: gauge.total == 8, what="all events ran")
        await empty(broker, "job")


async def test_a_pause_that_was_broken_off_is_completed_by_the_upkeep(broker: Broker) -> None:
    await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
    job = broker.function("job")
    await broker.core.directory.hold(job.resource, held=True)
    await Upkeep(broker).round()
    held = [await broker.core.directory.describe(part) for part in job.resource.parts(PARTITIONS)]
    assert [one.held for one in held if one is not None] == [True] * PARTITIONS
    await broker.core.directory.hold(job.resource, held=False)
    await Upkeep(broker).round()
    held = [await broker.core.directory.describe(part) for part in job.resource.parts(PARTITIONS)]
    assert [one.held for one in held if one is not None] == [False] * PARTITIONS


async def test_purge_and_delete_are_of_all_partitions(broker: Broker) -> None:
    await register_function(broker.core, "job", FunctionSettings(partitions=PARTITIONS))
    job = broker.function("job")
    for number in range(8):
        await broker.invoke("job", number)
    assert await job.purge() == 8
    await broker.invoke("job", 1)
    await job.delete(force=True)
    assert await spread(broker) == [-1] * PARTITIONS


async def test_events_that_nobody_serves_expire_in_all_partitions(broker: Broker, serve: Serve, clock: Clock) -> None:
    settings = FunctionSettings(partitions=PARTITIONS, max_event_age_s=60, on_failure=Queue("failed"))
    await register_function(broker.core, "job", settings)
    for number in range(8):
        await broker.invoke("job", number)
    await clock.advance(61)
    async with serve(App()) as worker:
        assert await Housekeeping(broker, worker._engine).expire("job") == 8
        await received(broker, "failed", 8)


# -- mapped queues ----------------------------------------------------------------------------------------------------


async def test_a_mapping_polls_all_partitions_of_its_queue_within_its_limit(broker: Broker, serve: Serve) -> None:
    gauge, seen, queue = Gauge(), list[str](), broker.queue("orders")

    def app() -> App:
        made = App()

        @made.queue("orders", batch_size=2, max_concurrency=2, concurrency=3, timeout=10)
        async def job(event: Any, context: Context) -> None:
            seen.extend(record["body"] for record in event["Records"])
            async with gauge:
                await asyncio.sleep(0.005)

        return made

    await queue.create(partitions=PARTITIONS)
    for number in range(40):
        await queue.send(str(number))
    async with serve(app()), serve(app()):
        for number in range(40, 80):
            await queue.send(str(number))

        async def done() -> bool:
            return (await queue.counts()).total == 0

        await eventually(done, what="the queue is empty")
    assert sorted(map(int, seen)) == list(range(80))
    assert gauge.most == 2


async def test_a_mapping_follows_a_queue_that_grows(broker: Broker, serve: Serve) -> None:
    app, seen, queue = App(), list[str](), broker.queue("orders")

    @app.queue("orders", batch_size=5)
    async def job(event: Any, context: Context) -> None:
        seen.extend(record["messageId"] for record in event["Records"])

    async with serve(app):
        await queue.configure(partitions=PARTITIONS)
        ids = [await queue.send(number) for number in range(20)]
        await eventually(lambda: len(seen) == 20, what="all messages were handled")

        async def done() -> bool:
            return (await queue.counts()).total == 0

        await eventually(done, what="the queue is empty")
    assert set(seen) == set(ids)
    assert set(map(of, ids)) == set(range(PARTITIONS))


async def test_an_idle_limited_mapping_of_a_split_queue_comes_to_rest(broker: Broker, serve: Serve) -> None:
    queue = broker.queue("orders")

    def app() -> App:
        made = App()

        @made.queue("orders", concurrency=1, max_concurrency=1)
        async def job(event: Any, context: Context) -> None: ...

        return made

    await queue.create(partitions=PARTITIONS)
    async with serve(app()), serve(app()):
        for number in range(PARTITIONS):
            await queue.send(number)

        async def idle() -> bool:
            before = await commands(broker)
            await asyncio.sleep(0.2)
            return await commands(broker) - before <= 2

        await eventually(idle, what="both workers are idle")
        assert (await queue.counts()).total == 0


async def test_partitions_of_a_mapped_queue_take_turns_under_a_limit(broker: Broker, serve: Serve) -> None:
    app, order, queue = App(), list[int](), broker.queue("orders")

    @app.queue("orders", batch_size=1, max_concurrency=1)
    async def job(event: Any, context: Context) -> None:
        order.extend(of(record["messageId"]) for record in event["Records"])

    await queue.create(partitions=PARTITIONS)
    for number in range(20 * PARTITIONS):
        await queue.send(number)
    async with serve(app):
        await eventually(lambda: len(order) == 20 * PARTITIONS, what="all messages were handled")
    assert set(order[: 6 * PARTITIONS]) == set(range(PARTITIONS))
