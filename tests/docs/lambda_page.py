"""docs/reference/lambda.md, made of the gateway's own tables: `python -m tests.docs.lambda_page` writes it anew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from broker.gateway.aws.lambda_.dispatch import LAMBDA
from broker.gateway.aws.lambda_.errors import REASONS
from broker.gateway.aws.service import ErrorKind, Operation

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "lambda.md"

_INTRODUCTION: Final = """\
# Lambda over the AWS wire

What the gateway (`penstock broker`, and `penstock dev` with it) serves of AWS Lambda, version {version}, and where it
differs. Functions are registered by their workers; whoever runs `boto3.client("lambda")` or `aws lambda` against the
gateway can run them. Its settings, access keys and limits: [the gateway](gateway.md). The same from Python without
HTTP: [functions](functions.md). Settings of functions and mappings that the API changes, and which of code and API
wins: [configuration](lambda-configuration.md). This page is made of the gateway's own tables, and a test holds it to
them.

```sh
export AWS_ENDPOINT_URL=http://127.0.0.1:4566
aws lambda invoke --function-name orders --payload '{{"order": 7}}' --log-type Tail answer.json
```

Version 2 of the aws command wants `--cli-binary-format raw-in-base64-out` as well, where the payload stands as text.

The gateway needs none of your code: a synchronous invocation goes through Redis to any live worker that has the
function, an asynchronous one into the function's queue.

## Operations

A path that none of them has is answered with 403 `AccessDeniedException`, as AWS does it.

"""

_TYPES: Final = (
    (
        "`RequestResponse`",
        "a live worker runs the function, once; nobody tries again",
        "200, and the result",
    ),
    (
        "`Event`",
        "the event is stored; [retries, destinations](functions.md) as for every event",
        "202, empty; neither concurrency nor a pause refuses it",
    ),
    (
        "`DryRun`",
        "name, qualifier and payload are checked",
        "204, empty",
    ),
)
_INVOKING: Final = (
    (
        "a function that failed",
        "200 with `X-Amz-Function-Error: Unhandled` and the [error object](functions.md#error-objects)",
    ),
    (
        "names",
        "`NAME`, `NAME:QUALIFIER`, `ACCOUNT:function:NAME`, ARNs. Of another region: 404. Of another account: 403",
    ),
    (
        "qualifiers",
        (
            "`$LATEST`, [versions and aliases](functions.md#versions-and-aliases). Unknown numbers: `Function not "
            "found`, other names: `Cannot find alias arn`. In the name and beside it: they must be the same"
        ),
    ),
    (
        "payloads",
        (
            "`RequestResponse`, `DryRun`: 6 MB (6,291,456 bytes); `Event`: 1 MB; InvokeAsync: 256 KB. Results: "
            "6,291,556 bytes. None at all is `{}`"
        ),
    ),
    (
        "request id",
        "`x-amzn-RequestId` is the id that the function sees; of an event, on every attempt, and the id of its records",
    ),
    (
        "client context",
        (
            "`X-Amz-Client-Context`, a JSON object in base64, up to 3,583 bytes: `context.client_context` of a "
            "synchronous invocation"
        ),
    ),
    (
        "deadline",
        "the function's timeout; if its worker says nothing for 5 s more, the answer is `Sandbox.Timedout`",
    ),
    (
        "a client that goes away",
        "its call is cancelled, as the caller's deadline does it; AWS lets it go on",
    ),
    (
        "a gateway that stops",
        "calls under way have its `--grace`",
    ),
)

_STREAMS: Final = """
### Streams

`InvokeWithResponseStream` passes on what a [handler yields](functions.md#handlers-that-yield) as it comes, framed as
`application/vnd.amazon.eventstream` over chunked HTTP (without chunks, up to the connection's end, where that is
HTTP/1.0): `PayloadChunk` for each chunk, then one `InvokeComplete`. A
plain Invoke of such a handler answers the chunks put together, up to 6,291,556 bytes, whether they are JSON or not.

"""
_STREAMING: Final = (
    (
        "status and head",
        "sent when a worker has begun with it; what goes wrong before that (404, 429, 502) is an error as of Invoke",
    ),
    (
        "a handler that returns",
        "one `PayloadChunk` with its result",
    ),
    (
        "a handler that fails, times out, or loses its worker",
        (
            "`InvokeComplete` has `ErrorCode` `Unhandled`, and in `ErrorDetails` the error object as JSON; the chunks "
            "before it came"
        ),
    ),
    (
        "`LogType=Tail`",
        "`LogResult` in `InvokeComplete`",
    ),
    (
        "`InvocationType`",
        "`RequestResponse` or `DryRun`",
    ),
    (
        "size",
        "200 MB (209,715,200 bytes), not slowed down; over that `Function.ResponseSizeTooLarge`",
    ),
    (
        "a client that reads slowly",
        "makes the handler wait; one that reads nothing for 30 s is cut off",
    ),
    (
        "a client that goes away",
        "the handler is cancelled and closed; AWS lets it go on",
    ),
    (
        "a gateway that stops",
        "streams have its `--grace`; what is left then breaks off without `InvokeComplete`",
    ),
)

_INVOKE: Final = """
### Log tail

With `LogType=Tail` (synchronous only) the answer has the last 4 KB of the call's log, in whole characters, in base64:
START, what the handler wrote with `print`, to `sys.stdout` and `sys.stderr`, and to `logging`, then END and REPORT.
Each call has its own, also beside others on one event loop, in plain functions and in `asyncio.to_thread`; threads that
a handler starts by itself are not seen, nor what goes to a stream object that was kept from before the call, as
structlog does. A logger with a handler and formatter of its own for standard output is told in that form. Nothing is
watched while nobody asks. `Max Memory Used` is the most that the whole worker process has used.

### Throttling

429 `TooManyRequestsException`, `Retry-After: 1`; SDKs try again by themselves.

| `Reason` | when |
|---|---|
| `{reserved}` | the function is at its `concurrency`, or [paused](functions.md) |
| `{account}` | live workers have the function, and none has had room for a second |
| `{memory}` | Redis is [nearly full](../operations/redis.md#memory) |

A call counts towards `concurrency` from when it is handed to a worker, also while it waits there for room.

**No live worker** is answered at once, with 502 `ResourceNotReadyException`, which SDKs try again too. It is not the
same as a failure: nothing has run.
"""

_ERRORS: Final = """\

## Errors

The header `x-amzn-ErrorType` has the name; the body has the text, whose key differs by error as in AWS's models.
Errors of signatures, of the protocol and the store: [the gateway](gateway.md#protocols).

"""


def _with(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def lambda_page() -> str:
    """The whole page."""
    reasons = {"reserved": REASONS["concurrency"], "account": REASONS["workers"], "memory": REASONS["memory"]}
    return "".join(
        (
            _INTRODUCTION.format(version=LAMBDA.version),
            _table(("operation", "path", "input", "what differs"), map(_operation_row, LAMBDA.operations.values())),
            "\n## Invoke\n\n",
            _table(("`InvocationType`", "what is done", "answer"), _TYPES),
            "\n",
            _table(("about", "rule"), _INVOKING),
            _STREAMS,
            _table(("about", "rule"), _STREAMING),
            _with(_INVOKE, reasons),
            _ERRORS,
            _table(("error", "status", "`Type`", "text in"), map(_error_row, _written_once())),
        )
    )


def _operation_row(operation: Operation) -> tuple[str, ...]:
    route = operation.route
    assert route is not None
    hints = get_type_hints(operation.input, include_extras=True)
    members = sorted(msgspec.structs.fields(operation.input), key=lambda member: not member.required)
    listed = ", ".join(_member(each, hints[each.name]) for each in members)
    return (f"`{operation.name}`", f"`{route.method} {route.path}`", listed, operation.differs)


def _member(field: msgspec.structs.FieldInfo, hint: Any) -> str:
    extra: dict[str, Any] = next((meta.extra for meta in getattr(hint, "__metadata__", ()) if meta.extra), {})
    name = f"**`{field.encode_name}`**" if field.required else f"`{field.encode_name}`"
    return f"{name} (`{extra['name']}`)" if extra.get("in") == "header" else name


def _written_once() -> list[ErrorKind]:
    return list({kind.json_type: kind for kind in LAMBDA.errors.values()}.values())


def _error_row(kind: ErrorKind) -> tuple[str, ...]:
    return (f"`{kind.json_type}`", str(kind.status), kind.fault, f"`{kind.message_key}`")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(lambda_page(), encoding="utf-8")
