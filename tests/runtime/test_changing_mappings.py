"""Mappings that the API makes, changes and deletes while workers run; what code declares beside them."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.functions import change_function
from broker.mappings import change_mapping, create_mapping, delete_mapping, find_mapping, list_mappings
from broker.records import FunctionSettings, MappingSettings
from runtime import App, Context
from runtime.housekeeping import Housekeeping
from tests.runtime.scene import Serve, eventually, lines


class Jobs:
    """A function that no code maps, and what it got."""

    def __init__(self, **options: Any) -> None:
        self.app = App()
        self.events: list[dict[str, Any]] = []
        self.app.function(name="job", **options)(self.job)

    async def job(self, event: Any, context: Context) -> None:
        self.events.append(event)

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for event in self.events for record in event["Records"]]


def api_mapping(queue: str = "orders", function: str = "job", **options: Any) -> MappingSettings:
    return MappingSettings(queue=queue, function=function, origin="api", **options)


async def sent(broker: Broker, body: str, queue: str = "orders") -> None:
    await broker.queue(queue).create()
    await broker.queue(queue).send(body)


async def arrived(jobs: Jobs, *bodies: str) -> None:
    await eventually(lambda: jobs.bodies == list(bodies), what=f"{bodies} have arrived")


async def another_arrives(broker: Broker, jobs: Jobs) -> None:
    """Returns when the worker has polled for another mapping, made now: it has looked at the others meanwhile."""
    await sent(broker, "another", queue="another")
    await create_mapping(broker.core, api_mapping("another"))
    await eventually(lambda: "another" in jobs.bodies, what="the message of the other mapping has arrived")


async def put(broker: Broker, name: str, **changes: Any) -> MappingSettings:
    return await change_mapping(broker.core, name, lambda stored: msgspec.structs.replace(stored, **changes))


# -- mappings of the API ----------------------------------------------------------------------------------------------


async def test_a_mapping_made_while_the_worker_runs_is_polled_and_brings_lambdas_event(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    jobs = Jobs()
    await sent(broker, "first")
    async with serve(jobs.app):
        await create_mapping(broker.core, api_mapping())
        await arrived(jobs, "first")
    (record,) = jobs.events[0]["Records"]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"].endswith(":orders")
    assert [line["mapping"] for line in lines(logs, "mapping_polled")] == ["orders->job"]


async def test_a_mapping_made_before_the_worker_starts_is_polled(broker: Broker, serve: Serve) -> None:
    jobs = Jobs()
    await sent(broker, "first")
    await create_mapping(broker.core, api_mapping())
    async with serve(jobs.app):
        await arrived(jobs, "first")


async def test_a_function_has_as_many_mappings_as_the_api_makes(broker: Broker, serve: Serve) -> None:
    jobs = Jobs()
    async with serve(jobs.app):
        for queue in ("a", "b", "c.fifo"):
            await broker.queue(queue).create()
            await create_mapping(broker.core, api_mapping(queue))
        await broker.queue("a").send("1")
        await broker.queue("b").send("2")
        await broker.queue("c.fifo").send("3", group="g", deduplication_id="d")
        await eventually(lambda: sorted(jobs.bodies) == ["1", "2", "3"], what="all have arrived")


async def test_a_deleted_mapping_is_polled_no_more(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    jobs = Jobs()
    await sent(broker, "first")
    async with serve(jobs.app):
        await create_mapping(broker.core, api_mapping())
        await arrived(jobs, "first")
        await delete_mapping(broker.core, "orders->job")
        await eventually(lambda: lines(logs, "mapping_left"), what="the worker has let go")
        await broker.queue("orders").send("second")
        await another_arrives(broker, jobs)
        assert "second" not in jobs.bodies
        await create_mapping(broker.core, api_mapping())
        await arrived(jobs, "first", "another", "second")


async def test_a_disabled_mapping_rests_until_it_is_enabled(broker: Broker, serve: Serve) -> None:
    jobs = Jobs()
    await sent(broker, "first")
    await create_mapping(broker.core, api_mapping(enabled=False))
    async with serve(jobs.app):
        await another_arrives(broker, jobs)
        assert jobs.bodies == ["another"]
        await put(broker, "orders->job", enabled=True)
        await arrived(jobs, "another", "first")


async def test_a_mapping_goes_over_to_another_function_of_a_running_worker(broker: Broker, serve: Serve) -> None:
    jobs, others = Jobs(), []

    @jobs.app.function()
    async def other(event: Any, context: Context) -> None:
        others.append(event)

    async with serve(jobs.app):
        await sent(broker, "first")
        made = await create_mapping(broker.core, api_mapping())
        await arrived(jobs, "first")
        after = await put(broker, "orders->job", function="other")
        assert (after.name, after.uuid) == ("orders->other", made.uuid)
        await eventually(lambda: len(others) or broker.queue("orders").send("second"), what="the other gets it")
    assert len(await list_mappings(broker.core)) == 1


async def test_a_mapping_for_a_function_of_nobody_here_is_left_alone(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    jobs = Jobs()
    await sent(broker, "first")
    async with serve(jobs.app):
        await create_mapping(broker.core, api_mapping(function="elsewhere"))
        await create_mapping(broker.core, api_mapping(queue="mine"))
        await eventually(lambda: lines(logs, "mapping_polled"), what="the worker has looked")
    assert [line["mapping"] for line in lines(logs, "mapping_polled")] == ["mine->job"]


async def test_a_running_batch_of_a_deleted_mapping_ends_and_is_settled(broker: Broker, serve: Serve) -> None:
    app, gate, begun = App(), asyncio.Event(), asyncio.Event()

    @app.function(timeout=60)
    async def job(event: Any, context: Context) -> None:
        begun.set()
        await gate.wait()

    await sent(broker, "first")
    async with serve(app):
        await create_mapping(broker.core, api_mapping())
        await begun.wait()
        await delete_mapping(broker.core, "orders->job")
        gate.set()

        async def done() -> bool:
            return (await broker.queue("orders").counts()).total == 0

        await eventually(done, what="the message is deleted")


async def test_housekeeping_lets_mappings_of_the_api_be(broker: Broker, serve: Serve) -> None:
    jobs = Jobs()
    await create_mapping(broker.core, api_mapping(function="elsewhere"))
    async with serve(jobs.app) as worker:
        await Housekeeping(broker, worker._engine).round()
    (found,) = await list_mappings(broker.core)
    assert not found.asleep


# -- beside what code declares ----------------------------------------------------------------------------------------


def mapped_app(seen: list[Any], **options: Any) -> App:
    app = App()

    @app.queue("orders", **options)
    async def job(event: Any, context: Context) -> None:
        seen.append(event)

    return app


async def test_a_change_of_the_api_reaches_running_workers_and_outlives_a_redeploy(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    seen: list[Any] = []
    async with serve(mapped_app(seen, batch_size=5)):
        (before,) = await list_mappings(broker.core)
        assert before.origin == "code"
        await put(broker, "orders->job", enabled=False)
        await sent(broker, "first")
        await create_mapping(broker.core, api_mapping("another"))
        await broker.queue("another").create()
        await broker.queue("another").send("another")
        await eventually(lambda: seen, what="the message of the other mapping has arrived")
        assert [event["Records"][0]["body"] for event in seen] == ["another"]
    async with serve(mapped_app(seen, batch_size=6)):
        found = await find_mapping(broker.core, before.uuid)
        assert (found.enabled, found.batch_size) == (False, 6)
        (held,) = lines(logs, "mapping_setting_held")
        assert (held["setting"], held["declared"], held["in_force"]) == ("enabled", True, False)
        await put(broker, "orders->job", enabled=True)
        await eventually(lambda: len(seen) > 1, what="the message has arrived")
    assert (await find_mapping(broker.core, before.uuid)).declared is None


async def test_code_that_declares_another_value_wins_and_the_log_says_so(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    async with serve(mapped_app([], batch_size=5)):
        await put(broker, "orders->job", batch_size=50)
    async with serve(mapped_app([], batch_size=6)):
        pass
    (line,) = [line for line in lines(logs, "mapping_changed") if line["setting"] == "batch_size"]
    assert (line["before"], line["after"]) == (50, 6)
    assert line["reason"] == "the code declares another value, which wins over the API's"


async def test_code_takes_over_a_mapping_that_the_api_made(broker: Broker, serve: Serve) -> None:
    made = await create_mapping(broker.core, api_mapping(batch_size=50))
    async with serve(mapped_app([], batch_size=6)):
        found = await find_mapping(broker.core, made.uuid)
    assert (found.origin, found.batch_size) == ("code", 6)


async def test_a_deleted_mapping_of_code_comes_back_with_the_next_worker(broker: Broker, serve: Serve) -> None:
    seen: list[Any] = []
    async with serve(mapped_app(seen)):
        await delete_mapping(broker.core, "orders->job")
    assert await list_mappings(broker.core) == []
    await sent(broker, "first")
    async with serve(mapped_app(seen)):
        await eventually(lambda: seen, what="the message has arrived")


@pytest.mark.parametrize(("declared", "in_force"), [(3, 60), (4, 4)])
async def test_the_same_rule_holds_for_functions(
    broker: Broker, serve: Serve, logs: list[MutableMapping[str, Any]], declared: float, in_force: float
) -> None:
    resource = broker.function("job").resource

    def longer(stored: FunctionSettings) -> FunctionSettings:
        return msgspec.structs.replace(stored, timeout_s=60)

    async with serve(Jobs(timeout=3).app):
        await change_function(broker.core, resource, longer)
    async with serve(Jobs(timeout=declared).app):
        assert (await broker.function("job").settings()).timeout_s == in_force
    held = lines(logs, "function_setting_held")
    assert [(line["setting"], line["declared"], line["in_force"]) for line in held] == (
        [("timeout_s", 3, 60)] if declared == 3 else []
    )


async def test_many_who_change_at_once_all_get_their_way(broker: Broker) -> None:
    await create_mapping(broker.core, api_mapping(batch_size=1))

    def grown(stored: MappingSettings) -> MappingSettings:
        return msgspec.structs.replace(stored, batch_size=stored.batch_size + 1)

    await asyncio.gather(*(change_mapping(broker.core, "orders->job", grown) for _ in range(10)))
    (found,) = await list_mappings(broker.core)
    assert found.batch_size == 11
