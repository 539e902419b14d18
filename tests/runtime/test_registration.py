"""Registration: the newest wins for all workers, the log names what changed; what nobody serves is looked after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from broker import Broker, Function, Queue
from broker.errors import FunctionNotFound, InvalidOption
from broker.names import Resource
from broker.records import FunctionSettings, MappingSettings
from runtime import App, Context
from runtime.housekeeping import Housekeeping
from tests.conftest import Clock
from tests.runtime.scene import Serve, empty, eventually, lines, received

HOUR_S = 3_600.0


def job_app(seen: list[Any] | None = None, **options: Any) -> App:
    app = App()

    @app.function(**options)
    async def job(event: Any, context: Context) -> None:
        if seen is not None:
            seen.append(event)
        if event == "fail":
            raise ValueError("no")

    return app


def mapped_app(**options: Any) -> App:
    app = App()

    @app.queue("orders", **options)
    async def handle(event: Any, context: Context) -> None: ...

    return app


# -- registering ------------------------------------------------------------------------------------------------------


async def test_an_app_without_functions_serves_nothing_and_stops(serve: Serve) -> None:
    began = time.monotonic()
    async with serve(App()):
        pass
    assert time.monotonic() - began < 1


async def test_the_log_names_what_a_newer_registration_changed(
    serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    async with serve(job_app(timeout=3)):
        assert [line["name"] for line in lines(logs, "function_registered")] == ["job"]
    async with serve(job_app(timeout=3)):
        assert not lines(logs, "function_changed")
    async with serve(job_app(timeout=5, concurrency=8)):
        pass
    changes = {
        line["setting"]: (line["name"], line["before"], line["after"]) for line in lines(logs, "function_changed")
    }
    assert changes == {"timeout_s": ("job", 3, 5), "concurrency": ("job", None, 8)}
    assert len(lines(logs, "function_registered")) == 1


async def test_the_log_names_what_changed_of_a_mapping(serve: Serve, logs: list[MutableMapping[str, Any]]) -> None:
    async with serve(mapped_app()):
        assert [line["name"] for line in lines(logs, "mapping_registered")] == ["orders->handle"]
    async with serve(mapped_app(batch_size=50)):
        pass
    (change,) = [line for line in lines(logs, "mapping_changed") if line["setting"] == "batch_size"]
    assert (change["before"], change["after"]) == (10, 50)


async def test_an_older_worker_uses_the_settings_of_a_newer_registration(broker: Broker, serve: Serve) -> None:
    older: list[Any] = []
    async with serve(job_app(older, retries=2)):
        async with serve(job_app(retries=0, on_failure=Queue("failed"))):
            pass
        await broker.invoke("job", "fail")
        record = (await received(broker, "failed"))[0].json()
        assert record["requestContext"]["approximateInvokeCount"] == 1
    assert older == ["fail"]


async def test_an_older_worker_uses_the_newer_settings_of_a_mapping(broker: Broker, serve: Serve) -> None:
    sizes: list[int] = []
    app = App()

    @app.queue("orders", batch_size=2)
    async def handle(event: Any, context: Context) -> None:
        sizes.append(len(event["Records"]))

    async with serve(app) as older:
        async with serve(mapped_app(batch_size=100)):
            pass
        await eventually(lambda: not older._sources[1]._rules.stale, what="it has read them")  # type: ignore[union-attr]
        await broker.queue("orders").send_many(range(20))
        await eventually(lambda: sum(sizes) == 20, what="all messages")
    assert sizes == [20]


async def test_destinations_are_created_where_missing(broker: Broker, serve: Serve) -> None:
    async with serve(job_app(on_success=Queue("done"), dead_letter=Queue("dead"))):
        assert {"done", "dead"} <= set(await broker.queues())


async def test_a_function_cannot_be_its_own_destination(broker: Broker, serve: Serve) -> None:
    with pytest.raises(InvalidOption, match="a function cannot be a destination of itself"):
        async with serve(job_app(on_success=Function("job"))):
            pass
    assert await broker.core.directory.live_workers() == {}, "a worker that could not start is not listed"


# -- removal ----------------------------------------------------------------------------------------------------------


async def test_a_function_removed_while_a_worker_serves_it_is_unknown_until_it_is_registered_again(
    broker: Broker, serve: Serve
) -> None:
    older: list[Any] = []
    async with serve(job_app(older)):
        await broker.invoke("job", 1)
        await empty(broker, "job")
        await broker.function("job").delete()
        with pytest.raises(FunctionNotFound):
            await broker.invoke("job", 2)
        with pytest.raises(FunctionNotFound):
            await broker.call("job", 2)
        async with serve(job_app(retries=0, on_failure=Queue("failed"))):
            pass
        await broker.invoke("job", "fail")  # the older worker serves it again, by its new settings
        await received(broker, "failed")
    assert older == [1, "fail"]


async def test_a_function_removed_during_a_call_leaves_nothing(broker: Broker, serve: Serve) -> None:
    app, gate, ended = App(), asyncio.Event(), asyncio.Event()

    @app.function(timeout=30, on_success=Queue("done"))
    async def job(event: Any, context: Context) -> None:
        await gate.wait()
        ended.set()

    async with serve(app) as worker:
        await broker.invoke("job", 1)
        await eventually(lambda: worker._engine.invoker.running, what="it runs")
        await broker.function("job").delete(force=True)
        gate.set()
        await asyncio.wait_for(ended.wait(), 5)
        await worker._engine.settled()
    assert await broker.functions() == []
    assert (await broker.queue("done").counts()).total == 0


# -- housekeeping -----------------------------------------------------------------------------------------------------


async def test_events_of_a_function_that_nobody_serves_expire_with_their_record(
    broker: Broker, serve: Serve, clock: Clock, logs: list[MutableMapping[str, Any]]
) -> None:
    options: dict[str, Any] = {"max_event_age": 100, "on_failure": Queue("failed"), "dead_letter": Queue("dead")}
    async with serve(job_app(**options)):
        await broker.invoke("job", "fail")  # one waits for a retry when its worker leaves

        async def retrying() -> bool:
            return (await broker.function("job").counts()).retrying == 1

        await eventually(retrying, what="the retry waits")
    old_id = await broker.invoke("job", "old")
    await clock.advance(101)
    young_id = await broker.invoke("job", "young")
    async with serve(App()) as worker:
        assert await Housekeeping(broker, worker._engine).expire("job") == 2
        records = [message.json() for message in await received(broker, "failed", 2)]
        by_payload = {record["requestPayload"]: record for record in records}
        assert {record["requestContext"]["condition"] for record in records} == {"EventAgeExceeded"}
        assert by_payload["old"]["requestContext"]["requestId"] == old_id
        assert "responsePayload" not in by_payload["old"]
        assert by_payload["fail"]["responsePayload"]["errorMessage"] == "no"
        assert by_payload["fail"]["requestContext"]["approximateInvokeCount"] == 1
        assert {message.json() for message in await received(broker, "dead", 2)} == {"old", "fail"}
        assert await Housekeeping(broker, worker._engine).expire("job") == 0
    (left,) = await broker.core.messages.peek(broker.core.resource("function", "job"), 10)
    assert young_id.startswith(f"{int(left.entry.partition('-')[0]):012x}"[:8])
    (line,) = lines(logs, "events_expired")
    assert (line["function"], line["count"]) == ("job", 2)


async def test_nothing_expires_in_a_pause(broker: Broker, serve: Serve, clock: Clock) -> None:
    async with serve(job_app(max_event_age=100)):
        await broker.function("job").pause()
    await broker.invoke("job", "old")
    await clock.advance(101)
    async with serve(App()) as worker:
        assert await Housekeeping(broker, worker._engine).expire("job") == 0
    assert (await broker.function("job").counts()).visible == 1


async def crash(broker: Broker, resource: Resource, clock: Clock) -> None:
    """What a worker that dies in the middle of an event leaves behind."""
    lease_ms = broker.core.settings.lease_ms
    claim = await broker.core.messages.claim(resource, token="wdeadbeef00001", lease_ms=lease_ms, room=1, mode="work")
    assert claim.messages
    await clock.advance(lease_ms / 1000 + 1)


async def test_an_event_that_ended_its_workers_is_quarantined_also_when_nobody_serves_the_function(
    broker: Broker, serve: Serve, clock: Clock
) -> None:
    async with serve(job_app(max_crashes=0, on_failure=Queue("failed"))):
        pass
    await broker.invoke("job", "poison")
    await crash(broker, broker.core.resource("function", "job"), clock)
    await broker.core.directory.record_end("deadbeef0000", "signal: killed")
    async with serve(App()) as worker:
        await Housekeeping(broker, worker._engine).expire("job")
        record = (await received(broker, "failed"))[0].json()
    assert record["requestContext"]["condition"] == "Quarantined"
    assert record["responsePayload"]["errorMessage"].endswith("Runtime exited with error: signal: killed")


async def test_housekeeping_does_its_round_by_itself(broker: Broker, serve: Serve, clock: Clock) -> None:
    async with serve(job_app(max_event_age=100, dead_letter=Queue("dead"))):
        pass
    await broker.invoke("job", "old")
    await clock.advance(101)
    async with serve(App(), housekeeping_every=0.05):
        await received(broker, "dead")


async def mapping(broker: Broker) -> MappingSettings:
    found = await broker.core.directory.mappings()
    return msgspec.json.decode(found["orders->handle"], type=MappingSettings)


async def test_a_mapping_that_nobody_declares_any_more_rests_and_goes_on_when_it_is_declared(
    broker: Broker, serve: Serve
) -> None:
    async with serve(mapped_app()):
        pass
    async with serve(App()) as other:
        await Housekeeping(broker, other._engine).round()
        assert (await mapping(broker)).asleep
    async with serve(mapped_app()):
        assert not (await mapping(broker)).asleep
        await broker.queue("orders").send(1)

        async def consumed() -> bool:
            return (await broker.queue("orders").counts()).total == 0

        await eventually(consumed, what="it is polled again")


async def test_a_mapping_whose_worker_was_silent_for_a_while_is_enabled_again(broker: Broker, serve: Serve) -> None:
    async with serve(mapped_app()) as silent, serve(App()) as other:
        await broker.core.directory.heartbeat(silent.process, b"", ttl_ms=0)  # as after 30 s without a word
        keeping = Housekeeping(broker, other._engine)
        await keeping.round()
        assert (await mapping(broker)).asleep
        await silent._presence.tell()
        await keeping.round()
        assert not (await mapping(broker)).asleep
        await broker.queue("orders").send(1)

        async def consumed() -> bool:
            return (await broker.queue("orders").counts()).total == 0

        await eventually(consumed, what="it polls again")


async def test_the_outbox_of_a_function_that_nobody_serves_is_delivered(broker: Broker, serve: Serve) -> None:
    async with serve(job_app(on_success=Queue("done"))):
        pass
    settings = FunctionSettings(on_success=Queue("done"))
    assert (await broker.function("job").settings()) == settings
    await broker.queue("done").delete()
    async with serve(job_app(on_success=Queue("done"))):
        await broker.queue("done").delete(force=True)
        await broker.invoke("job", 1)

        async def stuck() -> bool:
            return (await broker.function("job").counts()).outbox == 1

        await eventually(stuck, what="the record waits for its queue")
    await broker.queue("done").create()
    async with serve(App(), housekeeping_every=0.05):
        await received(broker, "done")
