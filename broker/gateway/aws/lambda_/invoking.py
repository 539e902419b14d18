"""Invoke, InvokeWithResponseStream and InvokeAsync: calls to a live worker, events into a function's queue, and the
checks before both."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Final

import msgspec

from broker import errors, limits, tracing
from broker.call_streams import chunk_reader
from broker.calls import CallResult
from broker.gateway.aws import event_stream
from broker.gateway.aws.lambda_.errors import bad_content, too_large, unknown_function
from broker.gateway.aws.lambda_.names import LATEST, FunctionName, no_such_qualifier, read_name
from broker.gateway.aws.lambda_.shapes import (
    InvocationRequest,
    InvocationResponse,
    InvokeAsyncRequest,
    InvokeAsyncResponse,
    InvokeWithResponseStreamRequest,
    InvokeWithResponseStreamResponse,
)
from broker.gateway.aws.lambda_.streaming import EventFrames
from broker.gateway.aws.service import Call, ServiceError, Streamed
from broker.names import Resource, Route
from broker.records import decode_json, pack
from broker.store.values import NewMessage
from broker.versions import route_call, route_events

MAX_INVOKE_ASYNC_BYTES: Final = 256 * limits.KIB
MAX_CLIENT_CONTEXT_BYTES: Final = 3_583
CALL_MARGIN_S: Final = 5.0
"""A call may take so much longer than its function's timeout: the worker tells of a timeout by itself."""
_BAD_CONTEXT: Final = "Client context must be a valid Base64-encoded JSON object."
_EMPTY_EVENT: Final = b"{}"


async def invoke(call: Call, given: InvocationRequest) -> InvocationResponse:
    """Runs the function and answers how it ended, stores an event for it, or only checks that either could be."""
    name = read_name(call, given.function_name, given.qualifier)
    resource = name.resource(call)
    asynchronous = given.invocation_type == "Event"
    limit_bytes = limits.MAX_ASYNC_EVENT_BYTES if asynchronous else limits.MAX_SYNC_PAYLOAD_BYTES
    client_context = _client_context(given.client_context)
    payload = _event(given.payload, limit_bytes, "InvokeFunction")
    try:
        if given.invocation_type == "DryRun":
            await _route(call, name)
            await call.broker.function(name.name).settings()
            return InvocationResponse(status_code=204)
        if asynchronous:
            accepted = await _store(call, name, resource, payload)
            return InvocationResponse(status_code=202, request_id=accepted, trace_header=_answered(call))
        wants_log = given.log_type == "Tail"
        result = await _run(call, await _route(call, name), payload, client_context, wants_log=wants_log)
        return _response(result, _answered(call))
    except errors.FunctionNotFound:
        raise unknown_function(name.qualified_arn(call)) from None
    except errors.VersionNotFound:
        raise no_such_qualifier(call, name) from None


async def invoke_with_response_stream(
    call: Call, given: InvokeWithResponseStreamRequest
) -> InvokeWithResponseStreamResponse | Streamed:
    """Runs the function and passes on what it yields as it comes, or only checks that it could be run."""
    name = read_name(call, given.function_name, given.qualifier)
    name.resource(call)
    client_context = _client_context(given.client_context)
    payload = _event(given.payload, limits.MAX_SYNC_PAYLOAD_BYTES, "InvokeWithResponseStream")
    try:
        route = await _route(call, name)
        if given.invocation_type == "DryRun":
            await call.broker.function(name.stored).settings()
            return InvokeWithResponseStreamResponse(status_code=204)
        timeout_s = await call.broker.caller.timeout_of(route.function)
        reader = chunk_reader(
            call.broker.core,
            call.broker.caller,
            route,
            payload,
            timeout_s=min(timeout_s + CALL_MARGIN_S, limits.MAX_TIMEOUT_S),
            request_id=call.request_id,
            client_context=client_context,
            wants_log=given.log_type == "Tail",
            trace=call.trace,
        )
        with suppress(errors.CallTimeout):  # which the frames tell, as the first thing and the last
            await reader.open()
    except errors.FunctionNotFound:
        raise unknown_function(name.qualified_arn(call)) from None
    except errors.VersionNotFound:
        raise no_such_qualifier(call, name) from None
    head = InvokeWithResponseStreamResponse(
        status_code=200,
        executed_version=reader.executed_version,
        response_stream_content_type=event_stream.CONTENT_TYPE,
        request_id=reader.request_id,
    )
    return Streamed(head, EventFrames(reader, timed_out=_timed_out(call, timeout_s)))


async def invoke_async(call: Call, given: InvokeAsyncRequest) -> InvokeAsyncResponse:
    """Stores an event for the function; the older form of Invoke."""
    name = read_name(call, given.function_name)
    resource = name.resource(call)
    payload = _event(given.invoke_args, MAX_INVOKE_ASYNC_BYTES, "InvokeAsync")
    try:
        accepted = await _store(call, name, resource, payload)
        return InvokeAsyncResponse(status=202, request_id=accepted, trace_header=_answered(call))
    except errors.FunctionNotFound:
        raise unknown_function(name.qualified_arn(call)) from None
    except errors.VersionNotFound:
        raise no_such_qualifier(call, name) from None


async def _store(call: Call, name: FunctionName, resource: Resource, payload: bytes) -> str:
    """The event's id, which is what the function sees on every attempt."""
    if not name.latest:
        _check_qualifier(call, name)
        resource = (await route_events(call.broker.core, name.stored))(None)
    blob = pack(payload, tracing.stamped(None, call.trace))
    return (await call.broker.sender.send(resource, NewMessage(blob, len(payload)))).id


def _answered(call: Call) -> str | None:
    """The trace header that came in."""
    return call.trace.header or None


async def _route(call: Call, name: FunctionName) -> Route:
    if name.latest:
        return Route(name.name)
    _check_qualifier(call, name)
    return await route_call(call.broker.core, name.stored)


def _check_qualifier(call: Call, name: FunctionName) -> None:
    """Whether a version or alias can be called so at all."""
    if "$" in (name.qualifier or ""):
        raise no_such_qualifier(call, name)


# -- what comes in ----------------------------------------------------------------------------------------------------


def _event(payload: bytes, limit_bytes: int, operation: str) -> bytes:
    if len(payload) > limit_bytes:
        raise ServiceError("RequestTooLargeException", too_large(limit_bytes, operation))
    if not payload:
        return _EMPTY_EVENT
    try:
        decode_json("payload", payload)
    except errors.PayloadNotJson as error:
        raise bad_content(
            f"Could not parse request body into json: Could not parse payload into json: {error.reason}"
        ) from None
    return payload


def _client_context(given: str | None) -> bytes | None:
    if given is None:
        return None
    if len(given) > MAX_CLIENT_CONTEXT_BYTES:
        raise bad_content(f"Client context must be no more than {MAX_CLIENT_CONTEXT_BYTES} bytes when base64-encoded.")
    try:
        text = b64decode(given, validate=True)
        if not isinstance(decode_json("client context", text), dict):
            raise bad_content(_BAD_CONTEXT)
    except (binascii.Error, ValueError, errors.PayloadNotJson):
        raise bad_content(_BAD_CONTEXT) from None
    return text


# -- calls ------------------------------------------------------------------------------------------------------------


async def _run(
    call: Call, route: Route, payload: bytes, client_context: bytes | None, *, wants_log: bool
) -> CallResult:
    timeout_s = await call.broker.caller.timeout_of(route.function)
    try:
        return await call.broker.caller.invoke(
            route.function,
            payload,
            timeout_s=min(timeout_s + CALL_MARGIN_S, limits.MAX_TIMEOUT_S),
            request_id=call.request_id,
            client_context=client_context,
            wants_log=wants_log,
            trace=call.trace,
            invoked=route.invoked,
        )
    except errors.CallTimeout:
        # The function has had its time and its worker does not say so. A 5xx would make SDKs run it once more.
        return CallResult(
            payload=_timed_out(call, timeout_s),
            function_error="Unhandled",
            executed_version=route.function.partition(":")[2] or LATEST,
            request_id=call.request_id,
        )


def _timed_out(call: Call, timeout_s: float) -> bytes:
    message = f"RequestId: {call.request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    return msgspec.json.encode({"errorType": "Sandbox.Timedout", "errorMessage": message})


def _response(result: CallResult, trace_header: str | None) -> InvocationResponse:
    return InvocationResponse(
        status_code=200,
        payload=result.payload,
        function_error=result.function_error or None,
        executed_version=result.executed_version,
        log_result=b64encode(result.log_tail).decode() if result.log_tail else None,
        request_id=result.request_id,
        trace_header=trace_header,
    )
