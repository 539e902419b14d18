"""Invocations that are refused: type, status, headers and text of every error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.session import Session

from broker import Broker
from tests.wire.clients import REGION
from tests.wire.gateway import Gateway
from tests.wire.lambdas import INVOKE, Functions, Lambda, Served, posted
from tests.wire.raw import RawClient

MIB = 1_048_576


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
@pytest.mark.parametrize("function", ["absent", "a" * 65, "a.b"])
def test_an_unknown_function_is_named_with_its_qualifier(aws_lambda: Lambda, kind: str, function: str) -> None:
    answer = aws_lambda.refused(function, 1, InvocationType=kind)
    assert answer["Error"]["Code"] == "ResourceNotFoundException"
    assert answer["Error"]["Message"] == f"Function not found: {aws_lambda.arn(function, '$LATEST')}"
    assert (answer["Type"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("User", 404)


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
@pytest.mark.parametrize(
    ("qualifier", "words"),
    [("prod", "Cannot find alias arn"), ("7", "Function not found"), ("$latest", "Function not found"),
     ("$LATEST.PUBLISHED", "Function not found")],
)  # fmt: skip
def test_there_is_no_version_but_the_latest(
    aws_lambda: Lambda, work: Functions, qualifier: str, words: str, kind: str
) -> None:
    expected = ("ResourceNotFoundException", f"{words}: {aws_lambda.arn('echo', qualifier)}", 404)
    assert aws_lambda.refusal("echo", 1, Qualifier=qualifier, InvocationType=kind) == expected
    if qualifier != "$latest":
        assert aws_lambda.refusal(f"echo:{qualifier}", 1, InvocationType=kind) == expected
    absent = f"Function not found: {aws_lambda.arn('absent', qualifier)}"
    assert aws_lambda.refusal("absent", 1, Qualifier=qualifier) == ("ResourceNotFoundException", absent, 404)


def test_two_different_qualifiers_are_refused(aws_lambda: Lambda) -> None:
    assert aws_lambda.refusal("echo:1", 1, Qualifier="2") == (
        "InvalidParameterValueException",
        "The derived qualifier from the function name does not match the specified qualifier.",
        400,
    )


def test_functions_of_other_regions_and_accounts_are_not_reachable(aws_lambda: Lambda) -> None:
    elsewhere = f"arn:aws:lambda:eu-west-1:{aws_lambda.account}:function:echo"
    assert aws_lambda.refusal(elsewhere, 1) == (
        "ResourceNotFoundException",
        "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')",
        404,
    )
    code, message, status = aws_lambda.refusal("999999999999:function:echo", 1)
    assert (code, status) == ("AccessDeniedException", 403)
    assert "lambda:InvokeFunction on resource: arn:aws:lambda:us-east-1:999999999999:function:echo" in message


@pytest.mark.parametrize("name", ["a b", "a/b", "ü", "echo:$latest"])
def test_a_name_outside_the_pattern_is_a_validation_error(raw_lambda: RawClient, name: str) -> None:
    quoted = {"a b": "a%20b", "a/b": "a%2Fb", "ü": "%C3%BC"}.get(name, name)
    answer = posted(raw_lambda, quoted)
    pattern = Session().get_service_model("lambda").shape_for("NamespacedFunctionName").metadata["pattern"]
    assert answer.headers["x-amzn-errortype"] == "ValidationException"
    assert (answer.status, answer.json) == (
        400,
        {
            "message": f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: "
            f"Member must satisfy regular expression pattern: {pattern}"
        },
    )


def test_several_validation_errors_are_told_together(aws_lambda: Lambda) -> None:
    code, message, status = aws_lambda.refusal("echo", 1, InvocationType="event", LogType="tail")
    assert (code, status) == ("ValidationException", 400)
    assert message == (
        "2 validation errors detected: Value 'event' at 'invocationType' failed to satisfy constraint: Member must "
        "satisfy enum value set: [Event, RequestResponse, DryRun]; Value 'tail' at 'logType' failed to satisfy "
        "constraint: Member must satisfy enum value set: [None, Tail]"
    )


@pytest.mark.parametrize("kind", ["RequestResponse", "Event", "DryRun"])
@pytest.mark.parametrize("payload", [b"{", b"\xff\xfe", b'"\xff"', b"[1,]", b" ", b"[" * 100_000])
def test_a_payload_that_is_not_json_is_refused(aws_lambda: Lambda, work: Functions, kind: str, payload: bytes) -> None:
    code, message, status = aws_lambda.refusal("echo", payload, InvocationType=kind)
    assert (code, status) == ("InvalidRequestContentException", 400)
    assert message.startswith("Could not parse request body into json: Could not parse payload into json: ")


@pytest.mark.parametrize("context", ["e", "####", "MQ==", "W10=", "/w==", "ü"])
def test_a_bad_client_context_is_refused(raw_lambda: RawClient, work: Functions, context: str) -> None:
    answer = posted(raw_lambda, "echo", X_Amz_Client_Context=context)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (400, "InvalidRequestContentException")
    assert answer.json == {"Type": "User", "message": "Client context must be a valid Base64-encoded JSON object."}


def test_a_client_context_over_its_limit_is_refused(aws_lambda: Lambda, work: Functions) -> None:
    code, message, _ = aws_lambda.refusal("echo", 1, context={"custom": "x" * 3000})
    assert (code, message) == (
        "InvalidRequestContentException", "Client context must be no more than 3583 bytes when base64-encoded.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "limit"), [("RequestResponse", 6 * MIB), ("DryRun", 6 * MIB), ("Event", MIB), ("invoke_async", 262_144)]
)
def test_payloads_may_be_as_large_as_lambdas(aws_lambda: Lambda, work: Functions, kind: str, limit: int) -> None:
    def send(payload: bytes) -> Any:
        if kind == "invoke_async":
            return aws_lambda.invoke_async(FunctionName="context", InvokeArgs=payload)
        return aws_lambda.run("context", payload, InvocationType=kind)

    send(b'"' + b"x" * (limit - 2) + b'"')
    with pytest.raises(Exception, match="Request must be smaller than") as caught:
        send(b'"' + b"x" * (limit - 1) + b'"')
    operation = "InvokeAsync" if kind == "invoke_async" else "InvokeFunction"
    assert caught.value.response["Error"] == {  # type: ignore[attr-defined]
        "Code": "RequestTooLargeException",
        "Message": f"Request must be smaller than {limit} bytes for the {operation} operation",
    }


def test_a_payload_over_the_gateways_own_limit_is_refused_alike(aws_lambda: Lambda, work: Functions) -> None:
    message = "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
    assert aws_lambda.refusal("echo", b"1" * 9 * MIB) == ("RequestTooLargeException", message, 413)


def test_a_call_over_the_concurrency_limit_is_throttled(
    aws_lambda: Lambda, raw_lambda: RawClient, work: Functions
) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(aws_lambda.run, "one", 1)
        assert work.arrived.wait(10)
        answer = posted(raw_lambda, "one")
        work.release.set()
        assert first.result(10).result == "done"
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"
    assert answer.json == {
        "Type": "User",
        "message": "Rate Exceeded.",
        "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
    }


def test_a_reserved_concurrency_of_zero_refuses_every_call(aws_lambda: Lambda, work: Functions) -> None:
    answer = aws_lambda.refused("none", 1)
    assert (answer["Error"]["Code"], answer["Error"]["Message"]) == ("TooManyRequestsException", "Rate Exceeded.")
    assert (answer["Reason"], answer["retryAfterSeconds"]) == ("ReservedFunctionConcurrentInvocationLimitExceeded", "1")
    assert not work.seen


def test_a_paused_function_refuses_calls_and_stores_events(
    aws_lambda: Lambda, work: Functions, gateway: Gateway, account: str
) -> None:
    async def pause(broker: Broker) -> None:
        await broker.function("echo").pause()

    gateway.run(pause, account=account)
    assert aws_lambda.refused("echo", 1)["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert aws_lambda.run("echo", 1, InvocationType="Event").status == 202


def test_workers_without_room_are_the_accounts_limit(aws_lambda: Lambda, served: Served, functions: Functions) -> None:
    with served(functions.app, max_calls=1), ThreadPoolExecutor(1) as pool:
        first = pool.submit(aws_lambda.run, "long", 1)
        assert functions.arrived.wait(10)
        assert aws_lambda.refused("echo", 1)["Reason"] == "ConcurrentInvocationLimitExceeded"
        functions.release.set()
        first.result(10)


def test_a_function_without_live_worker_is_refused_at_once_by_name(
    aws_lambda: Lambda, raw_lambda: RawClient, served: Served, functions: Functions
) -> None:
    with served(functions.app):
        pass
    answer = posted(raw_lambda, "echo")
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (502, "ResourceNotReadyException")
    assert answer.json == {
        "Type": "Service",
        "message": "No live worker serves the function echo. Start one and try the request again.",
    }
    assert aws_lambda.run("echo", 1, InvocationType="DryRun").status == 204


def test_boto3_tries_again_by_itself_when_no_worker_was_there(
    gateway: Gateway, account: str, served: Served, functions: Functions
) -> None:
    with served(functions.app):
        pass
    client = boto3.Session().client(
        "lambda", region_name=REGION, endpoint_url=gateway.url, aws_access_key_id=account,
        aws_secret_access_key="x", config=Config(retries={"mode": "standard", "total_max_attempts": 2}, proxies={}),
    )  # fmt: skip
    with pytest.raises(client.exceptions.ResourceNotReadyException) as caught:
        client.invoke(FunctionName="echo")
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 1
    client.close()


def test_a_client_that_goes_away_ends_its_call(gateway: Gateway, account: str, work: Functions) -> None:
    client = RawClient(gateway.url, account, service="lambda")
    with client.left_open("POST", INVOKE.format("long"), body=b"1"):
        assert work.arrived.wait(10)
    assert work.cancelled.wait(10)


@pytest.mark.parametrize(("method", "path"), [("GET", INVOKE.format("echo")), ("POST", "/2015-03-31/nothing")])
def test_an_unknown_path_is_told_in_the_words_of_aws(raw_lambda: RawClient, method: str, path: str) -> None:
    answer = raw_lambda.request(method, path)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert answer.json == {"message": "Unable to determine service/operation name to be authorized"}
