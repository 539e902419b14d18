"""invoke, call, functions, pause, resume, stream: against a real worker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from broker import Broker, Function, Queue, Stream
from broker.settings import Settings
from runtime import App, Context, Worker
from tests.cli.shell import Shell, eventually

ORDERS_ALONE = '{"body":{"kind":["order"]}}'


def small_app() -> App:
    app = App()

    @app.function(
        retries=0,
        concurrency=4,
        on_success=Stream("done"),
        on_failure=Queue("failed"),
        dead_letter=Queue("dead"),
        keep_result=1_000,
    )
    async def greet(event: dict[str, Any], context: Context) -> dict[str, Any]:
        if event.get("bad"):
            raise ValueError("a bad event")
        return {"hello": event["name"]}

    @app.queue(
        "orders", batch_size=50, batch_window=0.1, partial_failures=True, max_concurrency=2, filters=[ORDERS_ALONE]
    )
    async def take(event: dict[str, Any], context: Context) -> None:
        return None

    return app


@asynccontextmanager
async def serving(url: str, settings: Settings) -> AsyncIterator[None]:
    worker = Worker(small_app(), url, settings=settings)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await worker.ready.wait()
        try:
            yield
        finally:
            worker.stop()


async def test_invoke_stores_an_event_and_its_result_can_be_read(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(redis_url, settings):
        plain = await shell.run("invoke", "greet", '{"name": "Ada"}')
        assert len(plain.out.strip()) == 36
        assert plain.err == ""
        (shell.folder / "event.json").write_text('{"name": "Bob"}')
        from_file = await shell.run("invoke", "greet", "@event.json", "--id", "mine", "--json")
        assert from_file.json == {"request_id": "mine"}
        from_stdin = await shell.run("invoke", "greet", "-", "--json", stdin=b'{"name": "Cyd"}')
        assert set(from_stdin.json) == {"request_id"}

        async def all_done() -> bool:
            return await broker.stream("done").length() == 3

        await eventually(all_done)
        read = await shell.run("stream", "done", "--json")
        results = [json.loads(record["body"])["responsePayload"] for record in read.json_lines]
        assert results == [{"hello": name} for name in ("Ada", "Bob", "Cyd")]
        behind = await shell.run("stream", "done", "--after", read.json_lines[1]["position"], "--json")
        assert behind.json_lines == read.json_lines[2:]
        assert (await shell.run("stream")).cells("done") == ["done", "3"]


async def test_lines_are_stored_in_order_and_named_with_their_numbers(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    await register(broker, redis_url, settings)
    events = b"".join(b'{"name": "%d"}\n' % number for number in range(1, 2502))
    (shell.folder / "events.jsonl").write_bytes(b"\n" + events)
    done = await shell.run("invoke", "greet", "@events.jsonl", "--lines")
    assert done.out == '2501 lines stored for function "greet"\n'
    assert done.err == ""
    assert (await broker.function("greet").counts()).visible == 2501

    stored = await shell.run("invoke", "greet", "-", "--lines", "--json", stdin=b'{"name":1}\r\n\n{"name":2}')
    assert [line["line"] for line in stored.json_lines] == [1, 3]
    assert (await broker.function("greet").counts()).visible == 2503


async def test_one_bad_line_stores_nothing_and_is_named(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    await register(broker, redis_url, settings)
    done = await shell.run("invoke", "greet", "-", "--lines", stdin=b'{"name":1}\n{oops\n', status=1)
    assert "line 2" in done.err
    assert "is not JSON" in done.err
    empty = await shell.run("invoke", "greet", "-", stdin=b"\n", status=1)
    assert 'event for function "greet" is not JSON: it is empty; ' in empty.err
    assert (await broker.function("greet").counts()).visible == 0


async def test_call_prints_the_result_or_lambdas_error_object(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(redis_url, settings):
        good = await shell.run("call", "greet", '{"name": "Ada"}')
        assert good.json == {"hello": "Ada"}
        bad = await shell.run("call", "greet", '{"bad": true}', status=1)
        assert bad.json["errorType"] == "ValueError"
        assert bad.json["errorMessage"] == "a bad event"
        assert any("small_app" in line or "greet" in line for line in bad.json["stackTrace"])
        assert bad.err == 'penstock: function "greet" failed: ValueError: a bad event\n'
        quiet = await shell.run("call", "greet", '{"bad": true}', "--json", status=1)
        assert quiet.json["errorType"] == "ValueError"
        assert quiet.err == ""
    gone = await shell.run("call", "greet", '{"name": "Ada"}', "--json", status=1)
    assert gone.json["error"] == "NoLiveWorker"


async def test_status_follows_an_event_and_cancel_takes_it_out(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    await register(broker, redis_url, settings)
    waits, mine = await broker.invoke("greet", {"name": "Ada"}), await broker.invoke("greet", {}, id="mine")
    assert (await shell.run("status", waits)).out == "greet: queued\n"
    assert (await shell.run("status", waits, "--wait", "0.01", status=1)).out == "greet: queued\n"
    assert "needed with an id of your own" in (await shell.run("status", mine, status=1)).err
    gone = await shell.run("cancel", mine, "--function", "greet")
    assert gone.out == "event mine is cancelled\n"
    assert (await shell.run("status", mine, "--function", "greet")).out.startswith("greet: cancelled, at 2")
    async with serving(redis_url, settings):
        failed = await broker.invoke("greet", {"bad": True})
        shown = await shell.run("status", waits, "--wait", "20", "--json")
        assert (shown.json["state"], shown.json["attempt"], shown.json["condition"]) == ("succeeded", 1, "Success")
        shown = await shell.run("status", failed, "--wait", "20")
        assert shown.out.startswith("greet: failed, attempt 1, at 2")
        assert shown.out.endswith("RetriesExhausted, ValueError: a bad event\n")
    late = await shell.run("cancel", waits, "--json", status=1)
    assert late.json == {"id": waits, "cancelled": False}
    unknown = await shell.run("status", "01a20061-4078-8000-8000-0000dae205bb", "--json", status=1)
    assert unknown.json["error"] == "EventNotFound"


async def test_functions_shows_what_is_held_served_paused_and_mapped(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(redis_url, settings):
        assert (await shell.run("pause", "greet")).out == 'function "greet" is paused\n'
        await broker.invoke("greet", {"name": "waits"})
        table = await shell.run("functions")
        row = table.cells("greet")
        assert row[:9] == ["greet", "1", "0", "0", "0", "1", "0", "of", "4"]
        assert row[9] == "yes"
        assert "success: stream done, failure: queue failed, dead letters: queue dead" in table.out
        assert table.cells("orders -> take")[3] == "enabled"
        assert table.err == ""

        one = (await shell.run("functions", "greet", "--json")).json
        assert (one["queued"], one["live_workers"], one["paused"], one["mappings"]) == (1, 1, True, [])
        assert one["settings"]["on_success"] == {"type": "stream", "name": "done"}
        both = (await shell.run("functions", "--json")).json_lines
        assert [function["function"] for function in both] == ["greet", "take"]
        (mapping,) = both[1]["mappings"]
        assert (mapping["state"], mapping["filters"]) == ("enabled", [ORDERS_ALONE])
        assert table.cells("orders -> take")[-1] == "1"

        resumed = await shell.run("resume", "greet", "--json")
        assert resumed.json == {"function": "greet", "paused": False}

        async def done() -> bool:
            return (await broker.function("greet").counts()).total == 0

        await eventually(done)
    table = await shell.run("functions")
    assert table.cells("orders -> take")[3:6] == ["no", "live", "worker"]
    assert table.err.startswith("no live worker polls for orders->take: start one that serves its function")
    assert '`penstock delete mapping "orders->take"`' in table.err
    assert (await shell.run("functions", "greet")).err == ""
    assert (await shell.run("functions", "nosuch", "--json", status=1)).json["error"] == "FunctionNotFound"


async def test_an_event_is_followed_by_its_id(shell: Shell, broker: Broker, redis_url: str, settings: Settings) -> None:
    async with serving(redis_url, settings):
        done = (await shell.run("invoke", "greet", '{"name": "Ada"}')).out.strip()
        assert (await shell.run("result", done, "--wait", "10")).json == {"hello": "Ada"}
        assert (await shell.run("status", done)).out.startswith("greet: succeeded, attempt 1, at ")
        failed = (await shell.run("invoke", "greet", '{"bad": true}', "--id", "seven")).out.strip()
        said = await shell.run("result", failed, "--function", "greet", "--wait", "10", status=1)
        assert said.json == {
            "errorMessage": "a bad event",
            "errorType": "ValueError",
            "requestId": "seven",
            "stackTrace": [],
        }
        assert said.err == "penstock: event seven failed: ValueError: a bad event\n"
        assert "ValueError: a bad event" in (await shell.run("status", "seven", "--function", "greet")).out
    queued = (await shell.run("invoke", "greet", '{"name": "waits"}')).out.strip()
    assert (await shell.run("result", queued, "--json", status=1)).json["error"] == "EventPending"
    assert (await shell.run("status", queued, "--json")).json["state"] == "queued"
    assert (await shell.run("cancel", queued)).out == f"event {queued} is cancelled\n"
    assert (await shell.run("cancel", done, status=1)).out == f"event {done} had ended before\n"
    assert (await shell.run("result", queued, "--json", status=1)).json["errorType"] == "Cancelled"


async def test_dead_letters_are_looked_at_and_sent_back(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(redis_url, settings):
        request_id = await broker.invoke("greet", {"bad": True})

        async def dead() -> bool:
            counts = [await broker.queue(name).counts() for name in ("dead", "failed")]
            return all(each.visible == 1 for each in counts)

        await eventually(dead)
        (letter,) = (await shell.run("receive", "dead", "--peek", "--json")).json_lines
        assert letter["attributes"] == {"RequestID": request_id, "ErrorCode": 200, "ErrorMessage": "a bad event"}
        assert letter["source"].endswith(":function:greet")
        failure = (await shell.run("receive", "failed", "--delete", "--json")).json_lines
        assert len(failure) == 1
        redriven = await shell.run("redrive", "dead")
        assert redriven.out.startswith("1 message sent back, ")
        await eventually(dead)  # it failed once more


async def test_a_function_that_holds_events_is_deleted_by_force_alone(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    await register(broker, redis_url, settings)
    await broker.invoke("greet", {"name": "waits"})
    refused = await shell.run("delete", "function", "greet", "--yes", "--json", status=1)
    assert refused.json["error"] == "ResourceBusy"
    await shell.run("delete", "function", "greet", "--yes", "--force")
    assert "greet" not in await broker.functions()
    await shell.run("delete", "mapping", "orders->take", "--yes")
    again = await shell.run("delete", "mapping", "orders->take", "--yes", "--json", status=1)
    assert again.json["error"] == "MappingNotFound"


async def test_who_deletes_a_function_is_told_of_the_workers_that_had_it_and_how_it_comes_back(
    shell: Shell, broker: Broker, redis_url: str, settings: Settings
) -> None:
    async with serving(redis_url, settings):
        deleted = await shell.run("delete", "function", "greet", "--yes")
        assert deleted.out == 'function "greet" is deleted\n'
        assert deleted.err == "1 live worker had it: one that starts with the same code registers it again\n"
        gone = await shell.run("call", "greet", "{}", status=1)
        assert gone.err.endswith("; `penstock functions` lists those that are there\n")


async def test_what_was_not_typed_is_asked_for_without_a_none(shell: Shell, broker: Broker) -> None:
    done = await shell.run("status", "upload-17", status=1)
    assert done.err.startswith("penstock: function: needed with an id of your own")


@pytest.mark.parametrize("name", ["nosuch", "a b"])
async def test_an_unknown_function_is_refused_with_a_named_error(shell: Shell, name: str) -> None:
    done = await shell.run("invoke", name, "{}", status=1)
    assert done.out == ""
    assert done.err.startswith(f'penstock: function {"name " if " " in name else ""}"{name}"')


async def register(broker: Broker, url: str, settings: Settings) -> None:
    """The functions are known, and nobody serves them any more."""
    async with serving(url, settings):
        pass
    assert Function("greet").name in await broker.functions()
