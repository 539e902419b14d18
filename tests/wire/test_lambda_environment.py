"""Environment and MemorySize over the wire. Texts: spec of Lambda's runtime, section 2, and of its invoke API, 9."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import App, Context
from tests.wire.clients import Refusal
from tests.wire.lambda_control import LambdaClient
from tests.wire.lambdas import Lambda, Served

CANNOT = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
)


def set_variables(control: LambdaClient, **variables: str) -> dict[str, Any]:
    return control.update_function_configuration(FunctionName="work", Environment={"Variables": variables})


def test_variables_and_memory_are_kept_shown_and_taken_away(control: LambdaClient) -> None:
    control.register()
    assert "Environment" not in control.get_function_configuration(FunctionName="work")
    answer = control.update_function_configuration(
        FunctionName="work", Environment={"Variables": {"TABLE": "orders", "EMPTY": ""}}, MemorySize=512
    )
    assert (answer["Environment"], answer["MemorySize"]) == ({"Variables": {"TABLE": "orders", "EMPTY": ""}}, 512)
    assert control.get_function(FunctionName="work")["Configuration"]["Environment"] == answer["Environment"]
    assert "Environment" not in set_variables(control)
    assert control.settings().environment == {}
    assert control.settings().memory_mb == 512


def test_variables_that_cannot_be_are_refused_in_lambdas_words(control: LambdaClient) -> None:
    control.register()
    reserved = {"A1": "x", "AWS_REGION": "here", "_HANDLER": "x"}
    named = control.refusal("update_function_configuration", FunctionName="work", Environment={"Variables": reserved})
    assert named.code == "ValidationException"
    assert "x" not in named.message.partition("failed")[0].replace("***", "")
    del reserved["_HANDLER"]
    refusal = control.refusal("update_function_configuration", FunctionName="work", Environment={"Variables": reserved})
    text = f"{CANNOT}contains reserved keys that are currently not supported for modification. "
    assert refusal == Refusal(
        "InvalidParameterValueException", f"{text}Reserved keys used in this request: AWS_REGION", 400
    )
    for name in ("a", "1A", "A-B", "A B", "_A"):
        variables = {"Variables": {name: "secret"}}
        refusal = control.refusal("update_function_configuration", FunctionName="work", Environment=variables)
        assert (refusal.code, refusal.status) == ("ValidationException", 400)
        assert refusal.message == (
            f"1 validation error detected: Value '{{{name}=***}}' at 'environment.variables' failed to satisfy "
            "constraint: Map keys must satisfy constraint: "
            "[Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+]"
        )
    assert control.settings().environment == {}


def test_variables_are_limited_to_4_kb_of_json(control: LambdaClient) -> None:
    control.register()
    fitting = "x" * (4_096 - len('{"AB":""}'))
    assert set_variables(control, AB=fitting)["Environment"]["Variables"]["AB"] == fitting
    for value in (f"{fitting}x", "é" * 2_044):
        given = {"AB": value}
        refusal = control.refusal(
            "update_function_configuration", FunctionName="work", Environment={"Variables": given}
        )
        measured = json.dumps(given, separators=(",", ":"), ensure_ascii=False)
        assert refusal.message == f"{CANNOT}exceeded the 4KB limit. String measured: {measured}"


@pytest.mark.parametrize("size", [127, 10_241])
def test_memory_has_lambdas_bounds(control: LambdaClient, size: int) -> None:
    control.register()
    refusal = control.refusal("update_function_configuration", FunctionName="work", MemorySize=size)
    assert (refusal.code, refusal.status) == ("ValidationException", 400)
    assert "'memorySize'" in refusal.message


def test_what_the_api_has_set_holds_until_the_code_says_something_else(control: LambdaClient) -> None:
    control.register(environment={"TABLE": "code"}, memory_mb=256)
    control.update_function_configuration(FunctionName="work", MemorySize=1_024)
    set_variables(control, TABLE="api")
    control.register(environment={"TABLE": "code"}, memory_mb=256)
    assert (control.settings().environment, control.settings().memory_mb) == ({"TABLE": "api"}, 1_024)
    control.register(environment={"TABLE": "new"}, memory_mb=256)
    assert (control.settings().environment, control.settings().memory_mb) == ({"TABLE": "new"}, 1_024)


def test_handlers_of_an_app_see_each_its_own_at_the_next_event(served: Served, aws_lambda: Lambda) -> None:
    app = App()

    async def tell(event: Any, context: Context) -> Any:
        return [context.memory_limit_in_mb, dict(context.environment)]

    app.function(name="one", environment={"WHO": "code"}, memory=256)(tell)
    app.function(name="two")(tell)
    with served(app):
        assert aws_lambda.run("one").result == ["256", {"WHO": "code"}]
        variables = {"Variables": {"WHO": "api", "MORE": "1"}}
        aws_lambda.update_function_configuration(FunctionName="one", Environment=variables, MemorySize=3_008)
        told = aws_lambda.run("one", LogType="Tail")
        while told.result[0] == "256":  # workers hear of it within a moment
            told = aws_lambda.run("one", LogType="Tail")
        assert told.result == ["3008", {"WHO": "api", "MORE": "1"}]
        assert "Memory Size: 3008 MB" in told.log
        assert aws_lambda.run("two").result == ["128", {}]
