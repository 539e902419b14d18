"""Every error of Lambda that there is here, as it stands on the wire: status, ``x-amzn-ErrorType``, and the body to the
letter. Sources: the error tables of the invoke API, EventInvokeConfig, concurrency and event source mappings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest

from tests.wire.lambda_control import LambdaClient
from tests.wire.lambdas import Functions
from tests.wire.raw import RawClient

MAPPINGS: Final = "/2015-03-31/event-source-mappings"
FUNCTION: Final = "/2015-03-31/functions/{}"
INVOKE: Final = "/2015-03-31/functions/{}/invocations"
CONCURRENCY: Final = "/2017-10-31/functions/{}/concurrency"
INVOKE_CONFIG: Final = "/2019-09-25/functions/{}/event-invoke-config"
UNKNOWN: Final = "00000000-0000-0000-0000-000000000000"
ARN: Final = "arn:aws:lambda:us-east-1:{account}:function:"

NOT_FOUND, INVALID, CONTENT, TOO_LARGE, THROTTLED, CONFLICT, VALIDATION = (
    "ResourceNotFoundException", "InvalidParameterValueException", "InvalidRequestContentException",
    "RequestTooLargeException", "TooManyRequestsException", "ResourceConflictException", "ValidationException",
)  # fmt: skip
STATUSES: Final = {NOT_FOUND: 404, INVALID: 400, CONTENT: 400, TOO_LARGE: 413, THROTTLED: 429, CONFLICT: 409,
                   VALIDATION: 400}  # fmt: skip


class Row(NamedTuple):
    """One error. ``{account}``, ``{queue}`` and ``{fifo}`` stand for the account and the ARNs of its queues."""

    name: str
    method: str
    path: str
    body: Any
    error: str
    message: str
    headers: Mapping[str, str] = MappingProxyType({})


def invoke(name: str, function: str, error: str, message: str, body: Any = b"{}", **headers: str) -> Row:
    sent = {f"X-Amz-{key.replace('_', '-')}": value for key, value in headers.items()}
    return Row(name, "POST", INVOKE.format(function), body, error, message, sent)


def mapping(name: str, error: str, message: str, **changed: Any) -> Row:
    body = {"EventSourceArn": "{queue}", "FunctionName": "echo", **changed}
    return Row(name, "POST", MAPPINGS, {key: value for key, value in body.items() if value is not None}, error, message)


def config(name: str, error: str, message: str, *, function: str = "echo", **body: Any) -> Row:
    return Row(name, "PUT", INVOKE_CONFIG.format(function), body, error, message)


def failing(arn: str) -> dict[str, Any]:
    return {"OnFailure": {"Destination": arn}}


NOT_JSON: Final = "Could not parse request body into json: Could not parse payload into json: "
QUALIFIERS: Final = "The derived qualifier from the function name does not match the specified qualifier."
PERMITTED: Final = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please "
    "specify either a function name or an unqualified function ARN."
)
MIB: Final = 1_048_576

ROWS: Final = (
    # -- Invoke, before the function runs -----------------------------------------------------------------------------
    invoke("unknown function", "absent", NOT_FOUND, f"Function not found: {ARN}absent:$LATEST"),
    invoke("a name of 65 characters", "x" * 65, NOT_FOUND, f"Function not found: {ARN}{'x' * 65}:$LATEST"),
    invoke("unknown alias", "echo:live", NOT_FOUND, f"Cannot find alias arn: {ARN}echo:live"),
    invoke("$latest in small letters", "echo?Qualifier=$latest", NOT_FOUND, f"Function not found: {ARN}echo:$latest"),
    invoke("another region", quote("arn:aws:lambda:eu-west-1:{account}:function:echo", safe="{}"), NOT_FOUND,
           "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"),
    invoke("two qualifiers", "echo:1?Qualifier=2", INVALID, QUALIFIERS),
    invoke("an event that is not JSON", "echo", CONTENT, NOT_JSON, b"{"),
    invoke("an event that is not UTF-8", "echo", CONTENT, NOT_JSON, b'"\xff"'),
    invoke("no JSON, asynchronous", "echo", CONTENT, NOT_JSON, b"{", Invocation_Type="Event"),
    invoke("a client context that is not base64", "echo", CONTENT,
           "Client context must be a valid Base64-encoded JSON object.", Client_Context="####"),
    invoke("too large, synchronous", "echo", TOO_LARGE,
           "Request must be smaller than 6291456 bytes for the InvokeFunction operation", b"1" * (6 * MIB + 1)),
    invoke("too large, asynchronous", "echo", TOO_LARGE,
           "Request must be smaller than 1048576 bytes for the InvokeFunction operation", b"1" * (MIB + 1),
           Invocation_Type="Event"),
    invoke("throttled by reserved concurrency", "none", THROTTLED, "Rate Exceeded."),
    invoke("an invocation type in small letters", "echo", VALIDATION,
           "1 validation error detected: Value 'event' at 'invocationType' failed to satisfy constraint: Member must "
           "satisfy enum value set: [Event, RequestResponse, DryRun]", Invocation_Type="event"),
    Row("more items than there can be", "GET", "/2015-03-31/functions?MaxItems=10001", b"", VALIDATION,
        "1 validation error detected: Value '10001' at 'maxItems' failed to satisfy constraint: Member must have value "
        "less than or equal to 10000"),
    Row("a version of what is listed", "GET", "/2015-03-31/functions?FunctionVersion=some", b"", VALIDATION,
        "1 validation error detected: Value 'some' at 'functionVersion' failed to satisfy constraint: Member must "
        "satisfy enum value set: [ALL]"),
    Row("no number for the concurrency", "PUT", CONCURRENCY.format("echo"), {}, VALIDATION,
        "1 validation error detected: Value null at 'reservedConcurrentExecutions' failed to satisfy constraint: "
        "Member must not be null"),
    # -- functions and concurrency ------------------------------------------------------------------------------------
    Row("unknown function on Get", "GET", FUNCTION.format("absent"), b"", NOT_FOUND,
        f"Function not found: {ARN}absent"),
    Row("unknown function on its concurrency", "GET", "/2019-09-30/functions/absent/concurrency", b"", NOT_FOUND,
        f"Function not found: {ARN}absent"),
    Row("concurrency of a version", "PUT", CONCURRENCY.format("echo:1"), {"ReservedConcurrentExecutions": 1}, INVALID,
        PERMITTED),
    Row("all of the account's concurrency", "PUT", CONCURRENCY.format("echo"), {"ReservedConcurrentExecutions": 10**6},
        INVALID, "Specified ReservedConcurrentExecutions for function decreases account's "
        "UnreservedConcurrentExecution below its minimum value of [100]."),
    # -- EventInvokeConfig --------------------------------------------------------------------------------------------
    config("nothing is set", INVALID, "You must specify at least one of error handling or destination setting."),
    config("a configuration of nobody", NOT_FOUND, "The function doesn't exist.", function="absent",
           MaximumRetryAttempts=1),
    config("a configuration of an unknown alias", NOT_FOUND, "The function doesn't exist.",
           function="echo?Qualifier=live", MaximumRetryAttempts=1),
    Row("no configuration", "GET", INVOKE_CONFIG.format("echo"), b"", NOT_FOUND,
        f"The function {ARN}echo:$LATEST doesn't have an EventInvokeConfig"),
    Row("no configuration to delete", "DELETE", INVOKE_CONFIG.format("echo"), b"", NOT_FOUND,
        f"The function {ARN}echo:$LATEST doesn't have an EventInvokeConfig"),
    config("itself as a destination", INVALID, "You can't specify the function as a destination for itself.",
           DestinationConfig=failing(f"{ARN}echo")),
    config("a function that is missing", INVALID, f"The destination ARN {ARN}absent is invalid.",
           DestinationConfig=failing(f"{ARN}absent")),
    config("a wrong service", INVALID, "The provided destination config DestinationConfig(onSuccess=null, "
           "onFailure=OnFailure(destination=arn:aws:ec2:us-east-1:{account}:vpc/x)) is invalid.",
           DestinationConfig=failing("arn:aws:ec2:us-east-1:{account}:vpc/x")),
    # -- event source mappings ----------------------------------------------------------------------------------------
    *(Row(f"{method} of an unknown UUID", method, f"{MAPPINGS}/{UNKNOWN}", {} if method == "PUT" else b"", NOT_FOUND,
          "The resource you requested does not exist.") for method in ("GET", "PUT", "DELETE")),
    mapping("no function", VALIDATION, "1 validation error detected: Value null at 'functionName' failed to satisfy "
            "constraint: Member must not be null", FunctionName=None),
    mapping("no event source", INVALID, "Unrecognized event source.", EventSourceArn=None),
    mapping("a mapping of nobody", INVALID, "Function does not exist", FunctionName="absent"),
    mapping("a large batch without a window", INVALID,
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
            BatchSize=11),
    mapping("a destination of a queue's mapping", INVALID,
            "Unsupported DestinationConfig parameter for given event source mapping type.",
            DestinationConfig=failing("{queue}")),
    mapping("a bad filter", INVALID, "Invalid filter pattern definition.",
            FilterCriteria={"Filters": [{"Pattern": "{"}]}),
    mapping("a queue that shows messages too early", INVALID,
            "Queue visibility timeout: 5 seconds is less than Function timeout: 20 seconds", EventSourceArn="{short}"),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_error(row: Row, raw_lambda: RawClient, control: LambdaClient, work: Functions) -> None:
    control.queue()
    control.queue("short", visibility_timeout=5)

    names = {"account": control.account, "queue": control.queue_arn(), "short": control.queue_arn("short")}

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    body = row.body if isinstance(row.body, bytes) else filled(json.dumps(row.body)).encode()
    answer = raw_lambda.request(row.method, addressed(filled(row.path)), body=body, headers=row.headers)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (STATUSES[row.error], row.error)
    assert_body(answer.json, row, filled)


def addressed(path: str) -> str:
    """A query that a row has in the middle, behind the name, goes to the end."""
    before, mark, after = path.partition("?")
    query, slash, rest = after.partition("/")
    return f"{before}{slash}{rest}{mark}{query}"


def assert_body(found: dict[str, Any], row: Row, filled: Callable[[str], str]) -> None:
    key = "Message" if row.error == NOT_FOUND else "message"
    said = found.pop(key)
    assert said.startswith(NOT_JSON) if row.message == NOT_JSON else said == filled(row.message)
    expected = {} if row.error == VALIDATION else {"Type": "User"}
    if row.error == THROTTLED:
        expected["Reason"] = "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert found == expected


def test_a_pair_that_is_mapped_already_is_named_with_its_uuid(
    raw_lambda: RawClient, control: LambdaClient, work: Functions
) -> None:
    queue = control.queue()
    body = json.dumps({"EventSourceArn": queue, "FunctionName": "echo"}).encode()
    uuid = raw_lambda.request("POST", MAPPINGS, body=body).json["UUID"]
    answer = raw_lambda.request("POST", MAPPINGS, body=body)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (409, CONFLICT)
    message = (
        f'An event source mapping with SQS arn (" {queue} ") and function (" echo ") already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}"
    )
    assert answer.json == {"Type": "User", "message": message}
