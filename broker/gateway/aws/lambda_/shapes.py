"""Inputs and outputs of the operations that run functions, as Lambda's model has them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from broker.gateway.aws.lambda_.names import MAX_NAME_LENGTH, MAX_QUALIFIER_LENGTH, NAME_PATTERN, QUALIFIER_PATTERN


def _at(place: str, name: str, **bounds: Any) -> Meta:
    return Meta(extra={"in": place, "name": name, **bounds})


FunctionName: TypeAlias = Annotated[str, _at("path", "FunctionName", pattern=NAME_PATTERN, min=1, max=MAX_NAME_LENGTH)]
"""For every operation with a function in its path."""
Qualifier: TypeAlias = Annotated[
    str | None, _at("query", "Qualifier", pattern=QUALIFIER_PATTERN, min=1, max=MAX_QUALIFIER_LENGTH)
]
InvocationType: TypeAlias = Literal["Event", "RequestResponse", "DryRun"]
INVOCATION_TYPES: Final = ("Event", "RequestResponse", "DryRun")
STREAMING_TYPES: Final = ("RequestResponse", "DryRun")
_EXECUTION: Final = "[a-zA-Z0-9-_]+"
_TENANT: Final = r"[a-zA-Z0-9\._:\/=+\-@ ]+"


class InvocationRequest(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Input of Invoke."""

    function_name: FunctionName
    qualifier: Qualifier = None
    invocation_type: Annotated[str, _at("header", "X-Amz-Invocation-Type", enum=INVOCATION_TYPES)] = "RequestResponse"
    log_type: Annotated[str, _at("header", "X-Amz-Log-Type", enum=("None", "Tail"))] = "None"
    client_context: Annotated[str | None, _at("header", "X-Amz-Client-Context")] = None
    durable_execution_name: Annotated[
        str | None, _at("header", "X-Amz-Durable-Execution-Name", pattern=_EXECUTION, min=1, max=64)
    ] = None
    tenant_id: Annotated[str | None, _at("header", "X-Amz-Tenant-Id", pattern=_TENANT, min=1, max=256)] = None
    payload: Annotated[bytes, _at("payload", "Payload")] = b""


class InvocationResponse(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Output of Invoke."""

    status_code: Annotated[int, _at("status", "StatusCode")]
    function_error: Annotated[str | None, _at("header", "X-Amz-Function-Error")] = None
    log_result: Annotated[str | None, _at("header", "X-Amz-Log-Result")] = None
    executed_version: Annotated[str | None, _at("header", "X-Amz-Executed-Version")] = None
    payload: Annotated[bytes | None, _at("payload", "Payload")] = None
    request_id: Annotated[str | None, _at("request_id", "x-amzn-RequestId")] = None
    trace_header: Annotated[str | None, _at("header", "X-Amzn-Trace-Id")] = None


class InvokeAsyncRequest(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Input of InvokeAsync."""

    function_name: FunctionName
    invoke_args: Annotated[bytes, _at("payload", "InvokeArgs")] = b""


class InvokeAsyncResponse(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Output of InvokeAsync."""

    status: Annotated[int, _at("status", "Status")]
    request_id: Annotated[str | None, _at("request_id", "x-amzn-RequestId")] = None
    trace_header: Annotated[str | None, _at("header", "X-Amzn-Trace-Id")] = None


class InvokeWithResponseStreamRequest(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Input of InvokeWithResponseStream."""

    function_name: FunctionName
    qualifier: Qualifier = None
    invocation_type: Annotated[str, _at("header", "X-Amz-Invocation-Type", enum=STREAMING_TYPES)] = "RequestResponse"
    log_type: Annotated[str, _at("header", "X-Amz-Log-Type", enum=("None", "Tail"))] = "None"
    client_context: Annotated[str | None, _at("header", "X-Amz-Client-Context")] = None
    tenant_id: Annotated[str | None, _at("header", "X-Amz-Tenant-Id", pattern=_TENANT, min=1, max=256)] = None
    payload: Annotated[bytes, _at("payload", "Payload")] = b""


class InvokeWithResponseStreamResponse(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Output of InvokeWithResponseStream, whose event stream is sent behind it."""

    status_code: Annotated[int, _at("status", "StatusCode")]
    executed_version: Annotated[str | None, _at("header", "X-Amz-Executed-Version")] = None
    response_stream_content_type: Annotated[str | None, _at("header", "Content-Type")] = None
    event_stream: Annotated[bytes | None, _at("payload", "EventStream")] = None
    request_id: Annotated[str | None, _at("request_id", "x-amzn-RequestId")] = None
