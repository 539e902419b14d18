"""Inputs, outputs and errors of Lambda's operations against botocore's model."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from botocore.session import Session

from broker.gateway.aws.lambda_ import shapes
from broker.gateway.aws.lambda_.dispatch import LAMBDA
from broker.gateway.aws.lambda_.errors import ERRORS

MODEL = Session().get_service_model("lambda")
PLACES = {"uri": "path", "querystring": "query", "header": "header", "statusCode": "status"}
OUTPUTS = {
    "Invoke": shapes.InvocationResponse,
    "InvokeAsync": shapes.InvokeAsyncResponse,
    "InvokeWithResponseStream": shapes.InvokeWithResponseStreamResponse,
}


def _members(struct: Any) -> dict[str, tuple[str, str, Any]]:
    """Place, name and bounds of every member, by the name in the model."""
    found = {}
    for field in struct.__struct_fields__:
        annotation = get_type_hints(struct, include_extras=True)[field]
        extra = next(each.extra for each in annotation.__metadata__ if each.extra)
        name = "".join(word.capitalize() for word in field.split("_"))
        bounds = {key: extra[key] for key in ("min", "max", "pattern") if key in extra}
        if "enum" in extra:
            bounds["enum"] = list(extra["enum"])
        found[name] = (extra["in"], extra["name"], bounds)
    return found


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_inputs_and_outputs_are_those_of_the_model(name: str) -> None:
    operation = MODEL.operation_model(name)
    ours = LAMBDA.operations[name]
    assert ours.route is not None
    assert (ours.route.method, ours.route.path) == (operation.http["method"], operation.http["requestUri"].rstrip("/"))
    assert ours.route.status == operation.http["responseCode"]
    for shape, struct in ((operation.input_shape, ours.input), (operation.output_shape, OUTPUTS[name])):
        found = _members(struct)
        for member, theirs in shape.members.items():
            if member == "DurableExecutionArn":
                continue
            place, wire_name, bounds = found.pop(member)
            location = theirs.serialization.get("location")
            assert place == (PLACES[location] if location else "payload"), member
            assert wire_name == theirs.serialization.get("name", member), member
            if struct is ours.input:
                assert bounds == dict(theirs.metadata) or not bounds, member
        assert set(found) <= {"RequestId", "TraceHeader"}  # of Lambda's answers, and in no model


def test_errors_have_the_statuses_and_spellings_of_the_model() -> None:
    for shape in MODEL.error_shapes:
        if shape.name in ERRORS:
            kind = ERRORS[shape.name]
            assert kind.status == shape.metadata["error"]["httpStatusCode"], shape.name
            assert kind.message_key in shape.members, shape.name
