"""AWS Lambda as a service of the gateway: its operations, where they are found, and how each differs."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.gateway.aws.lambda_ import invoking, shapes
from broker.gateway.aws.lambda_.configuration import CONFIGURATION
from broker.gateway.aws.lambda_.errors import ERRORS, Action, too_large, translated
from broker.gateway.aws.lambda_.failures import FAILURES
from broker.gateway.aws.service import Operation, Route, Service
from broker.limits import MAX_SYNC_PAYLOAD_BYTES


def _operation(
    name: str,
    wanted: type[msgspec.Struct],
    run: Action,
    route: Route,
    *,
    differs: str = "",
    ends_with_client: bool = False,
) -> Operation:
    return Operation(name, wanted, translated(run), differs, route=route, ends_with_client=ends_with_client)


_INVOKING: Final = (
    _operation(
        "Invoke",
        shapes.InvocationRequest,
        invoking.invoke,
        Route(
            "POST",
            "/2015-03-31/functions/{FunctionName}/invocations",
            too_large=too_large(MAX_SYNC_PAYLOAD_BYTES, "InvokeFunction"),
        ),
        differs="Durable executions and tenants are not known; their headers are checked and "
        "ignored. With no live worker: 502 ResourceNotReadyException at once.",
        ends_with_client=True,
    ),
    _operation(
        "InvokeWithResponseStream",
        shapes.InvokeWithResponseStreamRequest,
        invoking.invoke_with_response_stream,
        Route(
            "POST",
            "/2021-11-15/functions/{FunctionName}/response-streaming-invocations",
            too_large=too_large(MAX_SYNC_PAYLOAD_BYTES, "InvokeWithResponseStream"),
        ),
        differs="Tenants are not known; their header is checked and ignored. A client that goes away cancels the "
        "function.",
        ends_with_client=True,
    ),
    _operation(
        "InvokeAsync",
        shapes.InvokeAsyncRequest,
        invoking.invoke_async,
        Route(
            "POST",
            "/2014-11-13/functions/{FunctionName}/invoke-async",
            202,
            too_large=too_large(invoking.MAX_INVOKE_ASYNC_BYTES, "InvokeAsync"),
        ),
    ),
)

LAMBDA: Final = Service(
    name="lambda",
    target_prefix="",
    version="2015-03-31",
    xml_namespace="",
    operations={operation.name: operation for operation in (*_INVOKING, *CONFIGURATION)},
    errors={**ERRORS, **FAILURES},
)
"""The service."""
