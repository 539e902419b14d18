"""Members that the operations of configuration have in common, and what a request means by them."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from broker.errors import InvalidName
from broker.gateway.aws.lambda_.errors import unknown_function
from broker.gateway.aws.lambda_.names import (
    MAX_NAME_LENGTH,
    MAX_QUALIFIER_LENGTH,
    NAME_PATTERN,
    QUALIFIER_PATTERN,
    FunctionName,
    no_such_qualifier,
    read_name,
)
from broker.gateway.aws.service import Call
from broker.names import Function, Queue, Resource, Stream, Target, check_name
from broker.store.directory import Described

ARN_PATTERN: Final = (
    r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
)
FunctionInPath: TypeAlias = Annotated[
    str, Meta(extra={"in": "path", "name": "FunctionName", "pattern": NAME_PATTERN, "min": 1, "max": MAX_NAME_LENGTH})
]
_PLAIN_PATTERN: Final = NAME_PATTERN.replace(r"_\.]", "_]").replace(r"(\.PUBLISHED)?", "")
PlainFunctionInPath: TypeAlias = Annotated[
    str, Meta(extra={"in": "path", "name": "FunctionName", "pattern": _PLAIN_PATTERN, "min": 1, "max": 140})
]
"""Of the operations that are on functions alone; the model is stricter there."""
_UNQUALIFIED_PATTERN: Final = NAME_PATTERN[: NAME_PATTERN.index(r"([a-zA-Z0-9-_\.]+)")] + "([a-zA-Z0-9-_]+)"
UnqualifiedInPath: TypeAlias = Annotated[
    str, Meta(extra={"in": "path", "name": "FunctionName", "pattern": _UNQUALIFIED_PATTERN, "min": 1, "max": 140})
]
"""Of the operations that refuse any qualifier by the model's own pattern."""
QualifierInQuery: TypeAlias = Annotated[
    str | None,
    Meta(
        extra={"in": "query", "name": "Qualifier", "pattern": QUALIFIER_PATTERN, "min": 1, "max": MAX_QUALIFIER_LENGTH}
    ),
]
MarkerInQuery: TypeAlias = Annotated[str | None, Meta(extra={"in": "query", "name": "Marker"})]
MaxItemsInQuery: TypeAlias = Annotated[
    int | None, Meta(extra={"in": "query", "name": "MaxItems", "min": 1, "max": 10_000})
]


async def described_function(
    call: Call, given: str, qualifier: str | None = None
) -> tuple[FunctionName, Resource, Described]:
    """The function, version or alias that a request names, as it is now. Raises ServiceError where it is not there."""
    name = read_name(call, given, qualifier)
    resource = unqualified(call, name)
    directory = call.broker.core.directory
    described = await directory.describe(resource)
    if described is None:
        raise unknown_function(shown_arn(call, name))
    if name.latest:
        return name, resource, described
    resource = call.broker.core.resource("function", name.stored)
    described = await directory.describe(resource)
    if described is None:
        raise no_such_qualifier(call, name)
    return name, resource, described


def unqualified(call: Call, name: FunctionName) -> Resource:
    """The function in the store. Raises ServiceError for a name that none can have, which does not exist then."""
    try:
        return call.broker.core.resource("function", check_name("function", name.name))
    except InvalidName:
        raise unknown_function(shown_arn(call, name)) from None


def shown_arn(call: Call, name: FunctionName) -> str:
    """Its ARN, with the qualifier only where one was given."""
    return name.arn(call) if name.qualifier is None else name.qualified_arn(call)


def target_of(call: Call, arn: str) -> Target | None:
    """What an ARN names, as a target for records; None for what is none here: another account, region or service."""
    try:
        resource = Resource.from_arn(arn.removesuffix(":$LATEST"))
        if (resource.account, resource.region) != (call.account, call.region):
            return None
        match resource.kind:
            case "queue":
                return Queue(resource.name)
            case "function":
                return Function(resource.name)
            case "stream":
                return Stream(resource.name)
    except InvalidName:
        return None


def resource_of(call: Call, target: Target) -> Resource:
    """The resource that a target is."""
    match target:
        case Queue():
            return call.broker.core.resource("queue", target.name)
        case Function():
            return call.broker.core.resource("function", target.name)
        case Stream():
            return call.broker.core.resource("stream", target.name)
