"""Invoke and InvokeAsync over HTTP: a gateway without user code, a worker beside it, boto3 and the aws CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.embedded import EmbeddedRedis
from broker.gateway.access import AccessKey
from broker.settings import Settings
from tests.wire.clients import REGION
from tests.wire.gateway import Gateway, running_gateway
from tests.wire.lambdas import Functions, Lambda, Served
from tests.wire.raw import RawClient

# -- synchronous -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [{"a": [1, None, "é"]}, None, "text", 1.5, []])
def test_a_call_answers_the_functions_result(aws_lambda: Lambda, work: Functions, event: Any) -> None:
    answer = aws_lambda.run("echo", event)
    assert (answer.status, answer.result, answer.error, answer.version) == (200, event, None, "$LATEST")
    assert answer.headers["content-type"] == "application/json"


def test_the_answers_request_id_is_the_one_that_the_function_sees(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("echo", 1)
    assert work.seen == [(answer.request_id, 1)]


def test_an_invocation_without_payload_gets_an_empty_object(aws_lambda: Lambda, work: Functions) -> None:
    assert aws_lambda.run("echo", b"").result == {}


@pytest.mark.parametrize("form", ["echo", "echo:$LATEST", "{account}:function:echo", "{arn}", "{arn}:$LATEST",
                                  "function:echo", "us-east-1:{account}:function:echo"])  # fmt: skip
def test_a_function_is_found_by_every_form_of_its_name(aws_lambda: Lambda, work: Functions, form: str) -> None:
    assert aws_lambda.run(form.format(account=aws_lambda.account, arn=aws_lambda.arn("echo")), 1).result == 1


def test_the_qualifier_may_be_said_twice_when_it_is_the_same(aws_lambda: Lambda, work: Functions) -> None:
    assert aws_lambda.run("echo:$LATEST", 1, Qualifier="$LATEST").result == 1


def test_an_exception_is_lambdas_error_object_with_status_200(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("fail", "luck")
    assert (answer.status, answer.error, answer.version) == (200, "Unhandled", "$LATEST")
    error = answer.result
    assert (error["errorType"], error["errorMessage"], error["requestId"]) == (
        "ValueError", "no luck", answer.request_id,
    )  # fmt: skip
    assert error["stackTrace"][-1].startswith("  File ")


def test_a_timeout_is_told_with_two_decimals(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("slow", 1)
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.result["errorType"] == "Sandbox.Timedout"
    message = f"RequestId: {answer.request_id} Error: Task timed out after 0.05 seconds"
    assert answer.result["errorMessage"] == message


@pytest.mark.parametrize(("code", "reason"), [(3, "with error: exit status 3"), (0, "without providing a reason")])
def test_an_exit_is_an_exit_error(aws_lambda: Lambda, work: Functions, code: int, reason: str) -> None:
    answer = aws_lambda.run("leave", code)
    assert answer.result["errorType"] == "Runtime.ExitError"
    assert answer.result["errorMessage"] == f"RequestId: {answer.request_id} Error: Runtime exited {reason}"


def test_an_unusable_result_is_a_marshal_error(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("unusable", 1)
    assert (answer.error, answer.result["errorType"]) == ("Unhandled", "Runtime.MarshalError")


def test_results_of_six_megabytes_come_back_and_larger_ones_do_not(aws_lambda: Lambda, work: Functions) -> None:
    assert len(aws_lambda.run("of_size", 6_291_556).body) == 6_291_556
    too_large = aws_lambda.run("of_size", 6_291_557)
    assert too_large.result["errorType"] == "Function.ResponseSizeTooLarge"
    assert too_large.result["errorMessage"] == (
        "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
    )


def test_the_client_context_reaches_the_function(aws_lambda: Lambda, work: Functions) -> None:
    given = {"custom": {"a": 1}, "env": {"b": "2"}, "client": {"app_title": "shop"}}
    assert aws_lambda.run("context", 1, context=given).result == {
        "custom": {"a": 1},
        "env": {"b": "2"},
        "title": "shop",
    }
    assert aws_lambda.run("context", 1, context={}).result == {"custom": None, "env": None, "title": None}
    assert aws_lambda.run("context", 1).result is None


def test_many_callers_are_served_at_a_time(aws_lambda: Lambda, work: Functions) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: aws_lambda.run("echo", number).result, range(200))) == list(range(200))


# -- asynchronous ------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_and_its_id_is_the_answers_request_id(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("echo", {"n": 1}, InvocationType="Event", LogType="Tail")
    assert (answer.status, answer.body, answer.error, answer.version, answer.log) == (202, b"", None, None, "")
    assert work.arrived.wait(10)
    assert work.seen == [(answer.request_id, {"n": 1})]


def test_an_event_waits_for_a_worker_and_is_not_throttled(
    aws_lambda: Lambda, served: Served, functions: Functions
) -> None:
    with served(functions.app):
        pass
    for function in ("echo", "none"):
        assert aws_lambda.run(function, 1, InvocationType="Event").status == 202
    with served(functions.app):
        assert functions.arrived.wait(10)


def test_the_older_form_stores_an_event_too(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.invoke_async(FunctionName=aws_lambda.arn("echo"), InvokeArgs=b'{"n": 2}')
    assert (answer["Status"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (202, 202)
    assert work.arrived.wait(10)
    assert work.seen == [(answer["ResponseMetadata"]["RequestId"], {"n": 2})]


def test_the_older_form_may_end_with_a_slash(raw_lambda: RawClient, work: Functions) -> None:
    answer = raw_lambda.request("POST", "/2014-11-13/functions/echo/invoke-async/", body=b"1")
    assert (answer.status, answer.body) == (202, b"")


def test_a_dry_run_runs_nothing(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.run("echo", 1, InvocationType="DryRun")
    assert (answer.status, answer.body, answer.version) == (204, b"", None)
    assert not work.seen


# -- where it works ----------------------------------------------------------------------------------------------------


def test_two_gateways_serve_the_same_functions(
    redis_server: EmbeddedRedis,
    wire_settings: Settings,
    work: Functions,
    connect_lambda: Callable[..., Lambda],
    account: str,
) -> None:
    with running_gateway(redis_server.url, wire_settings) as second:
        assert connect_lambda(account, at=second).run("echo", 1).result == 1
        assert connect_lambda(account).run("echo", 2).result == 2


def test_regions_are_kept_apart(
    served: Served, connect_lambda: Callable[..., Lambda], account: str, functions: Functions
) -> None:
    with served(functions.app, region="eu-west-1"):
        there = connect_lambda(account, region="eu-west-1")
        assert there.run(there.arn("echo"), 1).result == 1
        assert connect_lambda(account).refusal("echo", 1)[0] == "ResourceNotFoundException"


def test_signatures_are_verified_where_there_are_keys(
    redis_server: EmbeddedRedis,
    wire_settings: Settings,
    work: Functions,
    connect_lambda: Callable[..., Lambda],
    account: str,
) -> None:
    key = AccessKey("AKIDLAMBDA", "secret", account)
    with running_gateway(redis_server.url, wire_settings, key) as guarded:
        known = connect_lambda(key.id, at=guarded)
        for name in ("echo", f"arn:aws:lambda:{REGION}:{account}:function:echo:$LATEST"):
            assert known.run(name, 1).result == 1
        forged = connect_lambda(key.id, at=guarded, secret="other")
        assert forged.refusal("echo", 1)[::2] == ("InvalidSignatureException", 403)


# -- the aws CLI -------------------------------------------------------------------------------------------------------


def test_the_aws_cli_invokes_functions(gateway: Gateway, account: str, work: Functions, tmp_path: Path) -> None:
    def cli(*words: str) -> tuple[dict[str, Any], Any]:
        output = tmp_path / "answer"
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": gateway.url, "AWS_CONFIG_FILE": str(tmp_path / "none"),
        }  # fmt: skip
        command = [sys.executable, "-m", "awscli", "lambda", *words, str(output)]
        done = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=60)
        return json.loads(done.stdout), json.loads(output.read_bytes() or b"null")

    told, result = cli("invoke", "--function-name", "echo", "--payload", '{"n": 1}', "--log-type", "Tail")
    assert (told["StatusCode"], told["ExecutedVersion"], result) == (200, "$LATEST", {"n": 1})
    assert told["LogResult"]
    told, _ = cli("invoke", "--function-name", "echo", "--invocation-type", "Event")
    assert told == {"StatusCode": 202}
