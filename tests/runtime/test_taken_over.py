"""`penstock runtime --handler`: one existing handler as real processes, in what it takes for Lambda."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from broker import Broker, FunctionError
from broker.functions import change_function
from broker.settings import Settings
from tests.cli.shell import Shell, eventually
from tests.runtime.scene import received
from tests.runtime.taken_over import TakeOver, take_over

__all__ = ["take_over"]

SHOWS_ITSELF = """
import os, time
AT_IMPORT = dict(os.environ)

def handler(event, context):
    if event == "clock":
        return [time.tzname[0], time.localtime(0).tm_hour]
    names = ("function_name", "function_version", "memory_limit_in_mb", "log_group_name", "log_stream_name",
             "invoked_function_arn", "aws_request_id", "tenant_id", "client_context")
    identity = [context.identity.cognito_identity_id, context.identity.cognito_identity_pool_id]
    trace = {"_X_AMZN_TRACE_ID": context.trace_header}
    return {"variables": AT_IMPORT, "same": {**AT_IMPORT, **trace} == dict(os.environ), "identity": identity,
            "context": {name: getattr(context, name) for name in names}, "folder": os.getcwd()}
"""


async def test_the_module_sees_lambdas_variables_and_the_context_agrees_with_them(
    broker: Broker, take_over: TakeOver
) -> None:
    async with take_over("orders/app.handler", SHOWS_ITSELF, AWS_SECRET_ACCESS_KEY="the operator's") as running:
        shown = await broker.call("orders", {}, timeout=10)
        variables, context = shown["variables"], shown["context"]
        assert shown["same"]
        stream = variables["AWS_LAMBDA_LOG_STREAM_NAME"]
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", stream)
        aws = {name: value for name, value in variables.items() if name.startswith(("AWS_", "LAMBDA_", "_H", "_X"))}
        assert aws == {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": "the operator's",
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
            "LAMBDA_TASK_ROOT": str(running.folder),
            "_HANDLER": "orders/app.handler",
        }
        assert context.pop("aws_request_id")
        assert context == {
            "function_name": "orders",
            "function_version": "$LATEST",
            "memory_limit_in_mb": "128",
            "log_group_name": "/aws/lambda/orders",
            "log_stream_name": stream,
            "invoked_function_arn": "arn:aws:lambda:us-east-1:000000000000:function:orders",
            "tenant_id": None,
            "client_context": None,
        }
        assert shown["identity"] == [None, None]
        assert await broker.call("orders", "clock", timeout=10) == ["UTC", 0]


async def test_reserved_variables_are_ours_whatever_they_were_and_the_others_stay(
    broker: Broker, take_over: TakeOver
) -> None:
    inherited = {
        "AWS_LAMBDA_FUNCTION_NAME": "other",
        "AWS_REGION": "eu-west-1",
        "_X_AMZN_TRACE_ID": "Root=1-2-3",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "TZ": "Asia/Tokyo",
        "PENSTOCK_REGION": "us-east-1",
    }
    async with take_over("app.handler", SHOWS_ITSELF, **inherited) as running:
        variables = (await broker.call("orders", {}, timeout=10))["variables"]
        assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "orders"
        assert variables["AWS_REGION"] == "us-east-1"
        assert variables["TZ"] == "Asia/Tokyo"
        assert not {"_X_AMZN_TRACE_ID", "AWS_LAMBDA_RUNTIME_API"} & variables.keys()
        assert '"event":"variables_replaced"' in running.err
        assert '"names":["AWS_LAMBDA_FUNCTION_NAME","AWS_REGION"]' in running.err


BATCHES = """
def handler(event: "LambdaContext", context):
    failed = [record for record in event["Records"] if record["body"] == "bad"]
    for record in event["Records"]:
        print("got", record["body"], record["attributes"]["ApproximateReceiveCount"], record["eventSource"])
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}
"""


async def test_it_gets_the_messages_of_a_queue_with_its_settings(broker: Broker, take_over: TakeOver) -> None:
    words = ("--queue", "orders-in", "--partial-failures", "--batch-size", "5", "--timeout", "20")
    async with take_over("app.handler", BATCHES, *words) as running:
        await broker.queue("orders-in").send_many(["one", "bad", "two"])

        async def settled() -> bool:
            counts = await broker.queue("orders-in").counts()
            return (counts.visible, counts.in_flight, counts.retrying) == (0, 0, 1)

        await eventually(settled)
        assert sorted(running.out.splitlines()) == ["got bad 1 aws:sqs", "got one 1 aws:sqs", "got two 1 aws:sqs"]
        described = await broker.core.directory.describe(broker.function("orders").resource)
        assert described is not None
        assert b'"timeout_s":20.0' in described.settings
        mapped = (await broker.core.directory.mappings())["orders-in->orders"]
        assert b'"batch_size":5' in mapped


FAILS = """
def handler(event, context):
    raise LookupError(f"no {event}")
"""


async def test_its_events_follow_the_options(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", FAILS, "--retries", "0", "--dead-letter", "dead", "--concurrency", "2"):
        await broker.invoke("orders", "order")
        (message,) = await received(broker, "dead")
        assert message.body == '"order"'
        assert message.attributes["ErrorMessage"] == "no order"
        with pytest.raises(FunctionError, match="LookupError: no call") as error:
            await broker.call("orders", "call", timeout=10)
        # From the handler on, as in Lambda.
        (frame,) = error.value.stack
        assert re.search(r'File ".*app\.py", line 3, in handler', frame)


ONE_AT_A_TIME = """
import time
running, most = 0, 0

def handler(event, context):
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.05)
    running -= 1
    print("most", most)
"""


async def test_a_process_runs_one_call_at_a_time_as_lambda_does(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", ONE_AT_A_TIME) as running:
        await broker.invoke_many("orders", range(8))

        async def all_done() -> bool:
            return len(running.out.splitlines()) == 8

        await eventually(all_done)
        assert set(running.out.splitlines()) == {"most 1"}


TIMES_OUT = """
import os, time

def handler(event, context):
    if event == "sleep":
        time.sleep(30)
    return os.getpid()
"""


async def test_after_a_timeout_another_process_takes_its_place(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", TIMES_OUT, "--timeout", "0.5") as running:
        before = await broker.call("orders", "pid", timeout=10)
        with pytest.raises(FunctionError, match=r"Task timed out after 0\.50 seconds"):
            await broker.call("orders", "sleep", timeout=10)

        async def another() -> Any:
            with_errors = await Shell(running.folder, url=broker.core.address.url, settings=broker.core.settings).run(
                "call", "orders", '"pid"', status=None
            )
            return with_errors.status == 0 and with_errors.json != before

        await eventually(another)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'name an app, as "app:app", or an existing handler with --handler'),
        (["app:app", "--handler", "app.handler"], "goes without an app"),
        (["app:app", "--batch-size", "5"], "--batch-size=5: goes with --handler"),
        (["--handler", "app.handler"], "must name the function"),
        (["--handler", "app", "--function", "orders"], "Runtime.MalformedHandlerName: Bad handler 'app'"),
        (
            ["--handler", "app.handler", "--function", "orders", "--batch-size", "5"],
            "--batch-size=5: goes with --queue",
        ),
        (["--handler", "app.handler", "--function", "orders", "--timeout", "0"], "timeout=0.0: must be a number"),
        (["--handler", "absent.handler", "--function", "o"], "Runtime.ImportModuleError: Unable to import module"),
    ],
)
async def test_what_cannot_be_run_is_said_and_ends_with_status_1(
    tmp_path: Path, broker: Broker, redis_url: str, settings: Settings, words: list[str], said: str
) -> None:
    shell = Shell(tmp_path, url=redis_url, settings=settings)
    assert said in (await shell.run("runtime", *words, status=1)).err


async def test_dev_serves_a_handler_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context):\n    return [event, context.function_name]\n")
    shell = Shell(tmp_path)
    out, err = tmp_path / "out", tmp_path / "err"
    words = ["dev", "--handler", "app.handler", "--function", "orders", "--no-gateway"]
    process = shell.start(words, out=out, err=err)
    try:

        async def ready() -> bool:
            assert process.poll() is None, err.read_text()
            return "app.handler is running: orders" in out.read_text()

        await eventually(ready)
        assert (await shell.run("call", "orders", "1")).json == [1, "orders"]
    finally:
        process.terminate()
        process.wait(15)
    assert os.environ.get("AWS_LAMBDA_FUNCTION_NAME") is None


ENVIRONMENT = """
import os
AT_IMPORT = {name: os.environ.get(name) for name in ("TABLE", "KEPT", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")}

if os.environ.get("TABLE") == "broken":
    raise RuntimeError("no such table")

def handler(event, context):
    return [AT_IMPORT, dict(context.environment), os.getpid()]
"""


async def test_a_new_environment_is_there_when_the_module_is_imported_by_new_processes(
    broker: Broker, take_over: TakeOver
) -> None:
    function = broker.core.resource("function", "orders")

    async def set_through_the_api(**changes: Any) -> None:
        await change_function(broker.core, function, lambda stored: replace(stored, **changes))

    async with take_over("app.handler", ENVIRONMENT, TABLE="inherited", KEPT="kept") as running:
        seen, variables, first = await broker.call("orders", {}, timeout=10)
        assert seen == {"TABLE": "inherited", "KEPT": "kept", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"}
        assert variables == {}

        async def told(table: str) -> Any:
            try:
                answer = await broker.call("orders", {}, timeout=10)
            except FunctionError:  # on its way to a process that was about to end
                return None
            return answer if answer[0]["TABLE"] == table else None

        await set_through_the_api(environment={"TABLE": "s3cret"}, memory_mb=512)
        seen, variables, second = await eventually(lambda: told("s3cret"))
        assert seen == {"TABLE": "s3cret", "KEPT": "kept", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512"}
        assert variables == {"TABLE": "s3cret"}
        assert second != first

        async def logged(event: str) -> bool:
            return f'"event":"{event}"' in running.err

        await eventually(lambda: logged("workers_renewed"))
        await set_through_the_api(environment={"TABLE": "broken"})
        await eventually(lambda: logged("workers_not_renewed"))
        assert (await broker.call("orders", {}, timeout=10))[2] == second
        await set_through_the_api(environment={"TABLE": "mended"})
        assert (await eventually(lambda: told("mended")))[2] != second
        assert "s3cret" not in running.err
        assert '"names":["TABLE"]' in running.err
