"""Inputs, outputs and errors of the gateway against botocore's models: the current one, and the last in query form."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from inspect import unwrap
from typing import Any, Final, get_type_hints

import msgspec
import pytest
from botocore.model import ServiceModel
from botocore.session import Session
from msgspec import inspect

from broker.gateway.aws.sqs.dispatch import SQS
from broker.gateway.aws.wire import Form, form_of
from tests.wire.clients import QUERY_BOTOCORE, Sqs

TYPES: Final[dict[str, type[inspect.Type]]] = {
    "string": inspect.StrType,
    "integer": inspect.IntType,
    "long": inspect.IntType,
    "boolean": inspect.BoolType,
    "blob": inspect.BytesType,
    "list": inspect.ListType,
    "map": inspect.DictType,
    "structure": inspect.StructType,
}
BOUNDS: Final = {"min", "max", "pattern"}
LEFT_OUT_WHEN_EMPTY: Final = {"Successful", "Failed"}
"""Required by the model, absent from the service's answers when they are empty (sqs.md 3)."""


@cache
def current_model() -> Any:
    return Session().get_service_model("sqs")


@cache
def query_model() -> Any:
    (path,) = (QUERY_BOTOCORE / "botocore/data/sqs/2012-11-05").glob("service-2.json*")
    data = path.read_bytes()
    return ServiceModel(json.loads(gzip.decompress(data) if path.suffix == ".gz" else data), "sqs")


NAMES: Final = sorted(current_model().operation_names)


def structs(operation: Any) -> Iterator[tuple[Any, type[msgspec.Struct]]]:
    """The model's shapes of an operation's input and output, each with our struct."""
    yield operation.input_shape, SQS.operations[operation.name].input
    if operation.output_shape is not None:
        yield operation.output_shape, get_type_hints(unwrap(SQS.operations[operation.name].run))["return"]


def bare(kind: Any) -> Any:
    """A type without what is noted beside it, and without None."""
    while True:
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
        else:
            return kind


def differences(shape: Any, kind: Any, where: str, *, output: bool) -> Iterator[str]:
    """Where a type is not what the model says."""
    kind = bare(kind)
    if not isinstance(kind, TYPES[shape.type_name]):
        yield f"{where}: {kind} is not a {shape.type_name}"
    elif isinstance(kind, inspect.ListType):
        yield from differences(shape.member, kind.item_type, f"{where}[]", output=output)
    elif isinstance(kind, inspect.DictType):
        yield from differences(shape.key, kind.key_type, f"{where} key", output=output)
        yield from differences(shape.value, kind.value_type, f"{where} value", output=output)
    elif isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field for field in kind.fields}
        if set(fields) != set(shape.members):
            yield f"{where}: the members {set(fields) ^ set(shape.members)} are only on one side"
        required = set(shape.required_members) - (LEFT_OUT_WHEN_EMPTY if output else set())
        ours = {name for name, field in fields.items() if field.required}
        if required - ours or (not output and ours - required):
            yield f"{where}: required are {sorted(required)}, and here {sorted(ours)}"
        for name in fields.keys() & shape.members.keys():
            yield from differences(shape.members[name], fields[name].type, f"{where}.{name}", output=output)


def test_there_are_exactly_the_operations_of_the_model() -> None:
    assert sorted(SQS.operations) == NAMES
    assert sorted(query_model().operation_names) == NAMES


def test_the_service_is_named_as_in_the_model() -> None:
    metadata = current_model().metadata
    assert (SQS.target_prefix, SQS.version) == (metadata["targetPrefix"], metadata["apiVersion"])
    assert SQS.xml_namespace == query_model().metadata["xmlNamespace"]


@pytest.mark.parametrize("name", NAMES)
def test_members_required_members_and_types_are_those_of_the_model(name: str) -> None:
    operation = current_model().operation_model(name)
    for shape, struct in structs(operation):
        output = shape is operation.output_shape
        assert list(differences(shape, inspect.type_info(struct), shape.name, output=output)) == []


def test_the_model_has_no_bounds_that_could_be_broken() -> None:
    """It has none today; a new one belongs into the check above."""
    model = current_model()
    bounded = {name for name in model.shape_names if BOUNDS & model.shape_for(name).metadata.keys()}
    assert bounded == set()


def query_differences(shape: Any, form: Form, where: str) -> Iterator[str]:
    """Where the names of the query form are not those of the older model."""
    if shape.type_name == "structure":
        members = {member.json_name: member for member in form.members}
        for name, theirs in shape.members.items():
            ours = members[name]
            if theirs.type_name == "list":
                expected = theirs.member.serialization.get("name", "member")
                assert theirs.serialization.get("flattened") or name.endswith("ListValues")
            else:
                expected = theirs.serialization.get("name", name)
            if ours.query_name != expected:
                yield f"{where}.{name} is {ours.query_name} and should be {expected}"
            yield from query_differences(theirs, ours.form, f"{where}.{name}")
    elif shape.type_name == "list":
        assert form.item is not None
        yield from query_differences(shape.member, form.item, f"{where}[]")
    elif shape.type_name == "map":
        assert form.item is not None
        expected = (shape.key.serialization["name"], shape.value.serialization["name"])
        if (form.key_name, form.value_name) != expected:
            yield f"{where} has {form.key_name} and {form.value_name} and should have {expected}"
        yield from query_differences(shape.value, form.item, f"{where} value")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_query_form_are_those_of_the_older_model(name: str) -> None:
    for shape, struct in structs(query_model().operation_model(name)):
        assert list(query_differences(shape, form_of(struct), shape.name)) == []


def test_every_error_of_the_model_is_known() -> None:
    names = {shape.name for shape in current_model().error_shapes}
    assert names - set(SQS.errors) == set()
    for name in names & set(SQS.errors):
        assert SQS.errors[name].json_type == f"com.amazonaws.sqs#{name}"


def test_codes_and_statuses_of_errors_are_those_of_the_older_model() -> None:
    for shape in query_model().error_shapes:
        told = shape.metadata.get("error", {})
        kind = SQS.errors[shape.name]
        expected = (told.get("code", shape.name), told.get("httpStatusCode", 400))
        assert (kind.code, kind.status) == expected, shape.name


@pytest.mark.parametrize("enum", ["QueueAttributeName", "MessageSystemAttributeName"])
def test_every_attribute_that_the_model_names_can_be_asked_for(json_sqs: Sqs, enum: str) -> None:
    url = json_sqs.queue()
    names = current_model().shape_for(enum).enum
    if enum == "QueueAttributeName":
        assert set(json_sqs.attributes(url, *names)) == set(json_sqs.attributes(url))
    else:
        assert json_sqs.receive(url, AttributeNames=names, MessageSystemAttributeNames=names) == []
