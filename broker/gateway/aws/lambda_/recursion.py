"""What happens to a chain that comes back to a function: stopped after 16 times, or allowed to go on."""

from __future__ import annotations

from broker.gateway.aws.lambda_.function_shapes import PutRecursionRequest, Recursion, RecursionRequest
from broker.gateway.aws.lambda_.functions import changed, settings_of
from broker.gateway.aws.lambda_.members import described_function
from broker.gateway.aws.service import Call


async def put(call: Call, given: PutRecursionRequest) -> Recursion:
    """PutFunctionRecursionConfig."""
    name, resource, _ = await described_function(call, given.function_name)
    await changed(call, name, resource, {"recursive_loop": given.recursive_loop})
    return Recursion(given.recursive_loop)


async def get(call: Call, given: RecursionRequest) -> Recursion:
    """GetFunctionRecursionConfig."""
    _, _, described = await described_function(call, given.function_name)
    return Recursion(settings_of(described).recursive_loop)
