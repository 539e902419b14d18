"""Inputs and outputs of Lambda's configuration against botocore's model: names, places, types, bounds."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from typing import Any, Final, get_type_hints

import msgspec
import pytest
from botocore.session import Session
from msgspec import inspect

from broker.gateway.aws.lambda_.configuration import CONFIGURATION
from broker.gateway.aws.lambda_.failures import FAILURES

MODEL: Final = Session().get_service_model("lambda")
OPERATIONS: Final = {operation.name: operation for operation in CONFIGURATION}
PLACES: Final = {"uri": "path", "querystring": "query"}
TYPES: Final[dict[str, type[inspect.Type]]] = {
    "string": inspect.StrType,
    "integer": inspect.IntType,
    "long": inspect.IntType,
    "boolean": inspect.BoolType,
    "timestamp": inspect.FloatType,
    "list": inspect.ListType,
    "map": inspect.DictType,
}
NARROWER: Final = {"Timeout": {"min": 1, "max": 900}, "MemorySize": {"min": 128, "max": 10_240}}
"""Where the guide of functions says less than the model, which counts managed instances in."""
BOUNDS: Final = ("min", "max", "pattern")


def bare(kind: Any) -> tuple[Any, dict[str, Any]]:
    """A type without what is noted beside it, and without None; and those notes."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra, kind = {**(kind.extra or {}), **extra}, kind.type
        elif isinstance(kind, inspect.UnionType):
            (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
        else:
            return kind, extra


def fields_of(struct: type[msgspec.Struct]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    for field in described.fields:
        kind, extra = bare(field.type)
        yield extra.get("name", field.encode_name), kind, extra


def problems(shape: Any, struct: type[msgspec.Struct], where: str, *, output: bool) -> Iterator[str]:
    members = {theirs.serialization.get("name", name): theirs for name, theirs in shape.members.items()}
    for name, kind, extra in fields_of(struct):
        theirs = members.get(name)
        if theirs is None:
            yield f"{where}.{name} is not in the model"
            continue
        if not output and extra.get("in", "body") != PLACES.get(theirs.serialization.get("location"), "body"):
            yield f"{where}.{name} is in {extra.get('in', 'body')}"
        if isinstance(kind, inspect.StructType):
            yield from problems(theirs, kind.cls, f"{where}.{name}", output=output)
        elif theirs.type_name in TYPES and not isinstance(kind, TYPES[theirs.type_name] | inspect.AnyType):
            shown_as_text = output and theirs.type_name == "timestamp"
            if not shown_as_text:
                yield f"{where}.{name} is {kind}, not {theirs.type_name}"
        expected = NARROWER.get(name, theirs.metadata)
        for bound in set(BOUNDS) & extra.keys() & expected.keys():
            if extra[bound] != expected[bound]:
                yield f"{where}.{name}: {bound} is {expected[bound]}, here {extra[bound]}"


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_is_read_and_answered_is_in_the_model(name: str) -> None:
    operation, theirs = OPERATIONS[name], MODEL.operation_model(name)
    assert operation.route is not None
    assert (operation.route.method, operation.route.path) == (
        theirs.http["method"],
        theirs.http["requestUri"].removesuffix("/"),
    )
    assert operation.route.status == theirs.http["responseCode"]
    if theirs.input_shape is not None:
        assert list(problems(theirs.input_shape, operation.input, name, output=False)) == []
    answer = get_type_hints(unwrap(operation.run))["return"]
    if theirs.output_shape is not None:
        assert list(problems(theirs.output_shape, answer, name, output=True)) == []
    else:
        assert answer is type(None)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_parameter_of_the_model_is_known(name: str) -> None:
    shape = MODEL.operation_model(name).input_shape
    theirs = {} if shape is None else wire_names(shape)
    assert theirs.keys() - {encoded for encoded, _, _ in fields_of(OPERATIONS[name].input)} == set()


def wire_names(shape: Any) -> dict[str, Any]:
    return {theirs.serialization.get("name", name): theirs for name, theirs in shape.members.items()}


REQUIRED_BY_ACTIONS: Final = {("TagResource", "Tags"), ("UntagResource", "tagKeys")}
"""Looked at by the action itself, as AWS has words of its own for them."""


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_the_model_requires_is_required_here_and_nothing_else(name: str) -> None:
    shape = MODEL.operation_model(name).input_shape
    if shape is None:
        return
    theirs = {shape.members[member].serialization.get("name", member) for member in shape.required_members}
    described = inspect.type_info(OPERATIONS[name].input)
    assert isinstance(described, inspect.StructType)
    ours = {bare(field.type)[1].get("name", field.encode_name) for field in described.fields if field.required}
    assert {(name, member) for member in theirs ^ ours} <= REQUIRED_BY_ACTIONS


NEVER_ANSWERED: Final[dict[str, set[str]]] = {
    "EventSourceMappingConfiguration": {
        "AmazonManagedKafkaEventSourceConfig", "BisectBatchOnFunctionError", "DestinationConfig",
        "DocumentDBEventSourceConfig", "FilterCriteriaError", "LastProcessingResult", "LoggingConfig",
        "MaximumRecordAgeInSeconds", "MaximumRetryAttempts", "ParallelizationFactor", "Queues",
        "SelfManagedEventSource", "SelfManagedKafkaEventSourceConfig", "SourceAccessConfigurations",
        "StartingPosition", "StartingPositionTimestamp", "Topics", "TumblingWindowInSeconds",
    },
    "FunctionConfiguration": {
        "AcceleratorConfig", "Architectures", "CapacityProviderConfig", "ConfigSha256", "DurableConfig",
        "EphemeralStorage", "FileSystemConfigs", "Handler", "ImageConfigResponse", "KMSKeyArn",
        "LastUpdateStatusReason", "LastUpdateStatusReasonCode", "Layers", "LoggingConfig", "MasterArn", "Role",
        "Runtime", "RuntimeConfig", "RuntimeVersionConfig", "SigningJobArn", "SigningProfileVersionArn", "SnapStart",
        "TenancyConfig", "VpcConfig",
    },
    "GetFunctionResponse": {"TagsError"},
    "FunctionCodeLocation": {"Error", "ImageUri", "Location", "RepositoryType", "ResolvedImageUri", "SourceKMSKeyArn"},
    "DeadLetterConfig": set(),
    "EnvironmentResponse": {"Error"},
    "ProvisionedPollerConfig": {"PollerGroupName"},
}  # fmt: skip
"""By shape: what is of other kinds of sources, of code and networks that are elsewhere, or of failures that cannot
happen here."""


def unanswered(shape: Any, struct: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """Members of the model, nested ones too, that no answer has; by their shape."""
    ours = {name: kind for name, kind, _ in fields_of(struct)}
    for name, theirs in wire_names(shape).items():
        if name not in ours:
            yield shape.name, name
            continue
        kind, inner = ours[name], theirs
        if isinstance(kind, inspect.ListType):
            (kind, _), inner = bare(kind.item_type), theirs.member
        if isinstance(kind, inspect.StructType):
            yield from unanswered(inner, kind.cls)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_the_model_answers_is_answered_but_for_what_is_listed(name: str) -> None:
    shape = MODEL.operation_model(name).output_shape
    if shape is None:
        return
    found = set(unanswered(shape, get_type_hints(unwrap(OPERATIONS[name].run))["return"]))
    assert {(of, member) for of, member in found if member not in NEVER_ANSWERED.get(of, set())} == set()


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_errors_are_written_as_the_model_says(name: str) -> None:
    shape = MODEL.shape_for(name)
    assert FAILURES[name].status == shape.metadata["error"]["httpStatusCode"]
    assert FAILURES[name].message_key in shape.members
