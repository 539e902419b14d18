"""Functions' configuration over the wire. Texts: spec of Lambda's invoke API, sections 2, 5, 7, 8, 9."""

from __future__ import annotations

from typing import Any

import pytest

from broker import Function, Queue, Stream
from tests.wire.clients import REGION, Refusal
from tests.wire.lambda_control import LambdaClient

UNKNOWN_METHODS: list[tuple[str, dict[str, Any]]] = [
    ("get_function", {}),
    ("get_function_configuration", {}),
    ("update_function_configuration", {"Timeout": 4}),
    ("put_function_concurrency", {"ReservedConcurrentExecutions": 1}),
    ("get_function_concurrency", {}),
    ("delete_function_concurrency", {}),
]
INVOKE_CONFIG = "_function_event_invoke_config"


def invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message, 400)


def missing(message: str) -> Refusal:
    return Refusal("ResourceNotFoundException", message, 404)


# -- functions --------------------------------------------------------------------------------------------------------


def test_a_registered_function_is_described(control: LambdaClient) -> None:
    control.register(timeout_s=7.5, dead_letter=Queue("dead"), concurrency=3)
    found = control.get_function(FunctionName="work")
    configuration = found["Configuration"]
    shown = {key: value for key, value in configuration.items() if key not in {"LastModified", "RevisionId"}}
    assert shown == {
        "FunctionName": "work",
        "FunctionArn": control.function_arn(),
        "CodeSize": 0,
        "CodeSha256": "",
        "Description": "",
        "Timeout": 8,
        "MemorySize": 128,
        "Version": "$LATEST",
        "State": "Inactive",
        "StateReason": "No live worker serves the function.",
        "StateReasonCode": "Idle",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "TracingConfig": {"Mode": "PassThrough"},
        "DeadLetterConfig": {"TargetArn": control.queue_arn("dead")},
    }
    assert found["Concurrency"] == {"ReservedConcurrentExecutions": 3}
    assert configuration["LastModified"].endswith("+0000")
    qualified = control.get_function_configuration(FunctionName="work", Qualifier="$LATEST")
    assert qualified["FunctionArn"] == f"{control.function_arn()}:$LATEST"


@pytest.mark.parametrize(("method", "options"), UNKNOWN_METHODS)
def test_an_unknown_function_is_not_found(control: LambdaClient, method: str, options: dict[str, Any]) -> None:
    refusal = control.refusal(method, FunctionName="nobody", **options)
    assert refusal == missing(f"Function not found: {control.function_arn('nobody')}")


def test_a_name_is_checked(control: LambdaClient) -> None:
    control.register()
    refusal = control.refusal("get_function", FunctionName="a b")
    assert (refusal.code, refusal.status) == ("ValidationException", 400)
    elsewhere = f"arn:aws:lambda:eu-west-1:{control.account}:function:work"
    message = f"Functions from 'eu-west-1' are not reachable in this region ('{REGION}')"
    assert control.refusal("get_function", FunctionName=elsewhere) == missing(message)
    long = "x" * 65
    assert control.refusal("get_function", FunctionName=long).message.endswith(f":function:{long}")
    assert control.refusal("get_function", FunctionName="work:live") == missing(
        f"Cannot find alias arn: {control.function_arn()}:live"
    )
    message = "The derived qualifier from the function name does not match the specified qualifier."
    assert control.refusal("get_function", FunctionName="work:1", Qualifier="2") == invalid(message)


def test_functions_are_listed_in_pages(control: LambdaClient) -> None:
    for number in range(5):
        control.register(f"f{number}")
    first = control.list_functions(MaxItems=3)
    second = control.list_functions(Marker=first["NextMarker"])
    names = [each["FunctionName"] for page in (first, second) for each in page["Functions"]]
    assert names == [f"f{number}" for number in range(5)]
    assert "NextMarker" not in second


def test_timeout_description_and_dead_letters_are_changed(control: LambdaClient) -> None:
    control.register()
    target = control.queue("dead")
    answer = control.update_function_configuration(
        FunctionName="work", Timeout=60, Description="does work", DeadLetterConfig={"TargetArn": target}
    )
    assert (answer["Timeout"], answer["Description"]) == (60, "does work")
    settings = control.settings()
    assert (settings.timeout_s, settings.dead_letter) == (60, Queue("dead"))
    control.update_function_configuration(FunctionName="work", DeadLetterConfig={"TargetArn": ""})
    assert control.settings().dead_letter is None


def test_a_change_holds_until_the_code_declares_something_else_for_that_setting(control: LambdaClient) -> None:
    control.register(timeout_s=5, retries=1)
    control.update_function_configuration(FunctionName="work", Timeout=60, Description="d")
    control.register(timeout_s=5, retries=2)
    assert (control.settings().timeout_s, control.settings().retries) == (60, 2)
    control.register(timeout_s=6, retries=2)
    settings = control.settings()
    assert (settings.timeout_s, settings.description) == (6, "d")


@pytest.mark.parametrize("target", ["sns:us-east-1:{}:x", "sqs:us-east-1:{}:missing", "sqs:us-east-1:{}:jobs.fifo"])
def test_a_dead_letter_target_must_be_there_and_take_events(control: LambdaClient, target: str) -> None:
    control.register()
    control.queue("jobs.fifo")
    arn = f"arn:aws:{target.format(control.account)}"
    refusal = control.refusal("update_function_configuration", FunctionName="work", DeadLetterConfig={"TargetArn": arn})
    assert refusal.code == "InvalidParameterValueException"
    assert arn in refusal.message


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"Handler": "a.b"}, "Handler"),
    ],
)
def test_what_the_workers_process_decides_is_refused(control: LambdaClient, options: dict[str, Any], name: str) -> None:
    control.register()
    refusal = control.refusal("update_function_configuration", FunctionName="work", **options)
    assert refusal.code == "InvalidParameterValueException"
    assert refusal.message.startswith(f"{name} cannot be changed through the API")


def test_what_would_change_nothing_is_taken(control: LambdaClient) -> None:
    control.register()
    control.update_function_configuration(FunctionName="work", Environment={"Variables": {}}, MemorySize=128, Layers=[])


def test_an_old_revision_is_refused(control: LambdaClient) -> None:
    control.register()
    revision = control.get_function_configuration(FunctionName="work")["RevisionId"]
    control.update_function_configuration(FunctionName="work", Timeout=9, RevisionId=revision)
    refusal = control.refusal("update_function_configuration", FunctionName="work", Timeout=10, RevisionId=revision)
    assert (refusal.code, refusal.status) == ("PreconditionFailedException", 412)


@pytest.mark.parametrize("timeout", [0, 901])
def test_a_timeout_has_lambdas_bounds(control: LambdaClient, timeout: int) -> None:
    control.register()
    refusal = control.refusal("update_function_configuration", FunctionName="work", Timeout=timeout)
    assert refusal.code == "ValidationException"


# -- concurrency ------------------------------------------------------------------------------------------------------


def test_a_limit_is_put_read_and_taken_away(control: LambdaClient) -> None:
    control.register()
    assert "ReservedConcurrentExecutions" not in control.get_function_concurrency(FunctionName="work")
    answer = control.put_function_concurrency(FunctionName="work", ReservedConcurrentExecutions=0)
    assert answer["ReservedConcurrentExecutions"] == 0
    assert control.get_function_concurrency(FunctionName="work")["ReservedConcurrentExecutions"] == 0
    assert control.settings().concurrency == 0
    gone = control.delete_function_concurrency(FunctionName="work")
    assert gone["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert control.settings().concurrency is None


def test_taking_a_declared_limit_away_holds_too(control: LambdaClient) -> None:
    control.register(concurrency=5)
    control.delete_function_concurrency(FunctionName="work")
    control.register(concurrency=5)
    assert control.settings().concurrency is None
    control.register(concurrency=6)
    assert control.settings().concurrency == 6


def test_a_limit_is_of_a_function_and_leaves_some_to_others(control: LambdaClient) -> None:
    control.register()
    given = {"FunctionName": "work:$LATEST", "ReservedConcurrentExecutions": 1}
    message = (
        "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
        "Please specify either a function name or an unqualified function ARN."
    )
    assert control.refusal("put_function_concurrency", **given) == invalid(message)
    given = {"FunctionName": "work", "ReservedConcurrentExecutions": 99_901}
    message = (
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below "
        "its minimum value of [100]."
    )
    assert control.refusal("put_function_concurrency", **given) == invalid(message)


def test_the_account_has_settings(control: LambdaClient) -> None:
    control.register()
    control.register("other")
    found = control.get_account_settings()
    assert found["AccountUsage"] == {"TotalCodeSize": 0, "FunctionCount": 2}
    assert found["AccountLimit"]["ConcurrentExecutions"] == 100_000


# -- asynchronous calls -----------------------------------------------------------------------------------------------


def test_a_configuration_is_put_read_and_replaced(control: LambdaClient) -> None:
    arn = control.register()
    bad = control.queue("bad")
    given = {"MaximumRetryAttempts": 2, "DestinationConfig": {"OnFailure": {"Destination": bad}}}
    answer = control.put_function_event_invoke_config(FunctionName="work", **given)
    assert answer["FunctionArn"] == f"{arn}:$LATEST"
    assert answer["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {"Destination": bad}}
    assert answer["MaximumRetryAttempts"] == 2
    assert "MaximumEventAgeInSeconds" not in answer
    found = control.get_function_event_invoke_config(FunctionName="work")
    assert (found["LastModified"], found["MaximumRetryAttempts"]) == (answer["LastModified"], 2)
    control.put_function_event_invoke_config(FunctionName="work", MaximumEventAgeInSeconds=60)
    found = control.get_function_event_invoke_config(FunctionName="work")
    assert found["MaximumEventAgeInSeconds"] == 60
    assert "MaximumRetryAttempts" not in found
    assert found["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {}}
    assert control.settings().max_event_age_s == 60


def test_an_update_keeps_what_is_not_given(control: LambdaClient) -> None:
    control.register()
    control.put_function_event_invoke_config(FunctionName="work", MaximumRetryAttempts=0)
    answer = control.update_function_event_invoke_config(FunctionName="work", MaximumEventAgeInSeconds=90)
    assert (answer["MaximumRetryAttempts"], answer["MaximumEventAgeInSeconds"]) == (0, 90)


def test_a_deleted_configuration_leaves_lambdas_defaults(control: LambdaClient) -> None:
    arn = control.register(retries=5, on_failure=Queue("bad"))
    assert control.get_function_event_invoke_config(FunctionName="work")["MaximumRetryAttempts"] == 5
    answer = control.delete_function_event_invoke_config(FunctionName="work")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    none = missing(f"The function {arn}:$LATEST doesn't have an EventInvokeConfig")
    for method in ("get", "delete"):
        assert control.refusal(f"{method}{INVOKE_CONFIG}", FunctionName="work") == none
    control.register(retries=5, on_failure=Queue("bad"))
    assert (control.settings().retries, control.settings().on_failure) == (2, None)
    control.register(retries=4, on_failure=Queue("bad"))
    assert (control.settings().retries, control.settings().on_failure) == (4, None)


def test_configurations_are_listed(control: LambdaClient) -> None:
    control.register()
    assert control.list_function_event_invoke_configs(FunctionName="work")["FunctionEventInvokeConfigs"] == []
    control.put_function_event_invoke_config(FunctionName="work", MaximumRetryAttempts=1)
    (found,) = control.list_function_event_invoke_configs(FunctionName="work")["FunctionEventInvokeConfigs"]
    assert found["MaximumRetryAttempts"] == 1


def test_every_kind_of_destination_is_taken(control: LambdaClient) -> None:
    control.register(on_success=Stream("good"))
    other = control.register("other")
    stream = f"arn:aws:kinesis:{REGION}:{control.account}:stream/good"
    config = {"OnSuccess": {"Destination": stream}, "OnFailure": {"Destination": other}}
    answer = control.put_function_event_invoke_config(FunctionName="work", DestinationConfig=config)
    assert answer["DestinationConfig"] == config
    assert (control.settings().on_success, control.settings().on_failure) == (Stream("good"), Function("other"))


def destined(control: LambdaClient, arn: str) -> Refusal:
    config = {"OnFailure": {"Destination": arn}}
    return control.refusal(f"put{INVOKE_CONFIG}", FunctionName="work", DestinationConfig=config)


def test_destinations_are_checked(control: LambdaClient) -> None:
    own = control.register()
    fifo = control.queue("jobs.fifo")
    unknown = control.function_arn("nobody")
    bucket = "arn:aws:s3:::bucket"
    assert destined(control, own) == invalid("You can't specify the function as a destination for itself.")
    assert destined(control, unknown) == invalid(f"The destination ARN {unknown} is invalid.")
    missing_queue = control.queue_arn("missing")
    assert destined(control, missing_queue) == invalid(f"The destination ARN {missing_queue} is invalid.")
    for arn in (bucket, fifo):
        said = f"DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={arn}))"
        assert destined(control, arn) == invalid(f"The provided destination config {said} is invalid.")
    assert destined(control, "bucket").code == "ValidationException"


def test_a_configuration_says_something_of_a_function_that_is_there(control: LambdaClient) -> None:
    arn = control.register()
    message = "You must specify at least one of error handling or destination setting."
    assert control.refusal(f"put{INVOKE_CONFIG}", FunctionName="work") == invalid(message)
    given = {"MaximumRetryAttempts": 1}
    nobody = missing("The function doesn't exist.")
    assert control.refusal(f"put{INVOKE_CONFIG}", FunctionName="nobody", **given) == nobody
    assert control.refusal(f"put{INVOKE_CONFIG}", FunctionName="work", Qualifier="live", **given) == nobody
    none = missing(f"The function {arn}:$LATEST doesn't have an EventInvokeConfig")
    assert control.refusal(f"update{INVOKE_CONFIG}", FunctionName="work", **given) == none
    for wrong in ({"MaximumRetryAttempts": 3}, {"MaximumEventAgeInSeconds": 59}):
        assert control.refusal(f"put{INVOKE_CONFIG}", FunctionName="work", **wrong).code == "ValidationException"


# -- tags -------------------------------------------------------------------------------------------------------------


def test_functions_have_tags_that_outlive_a_redeploy(control: LambdaClient) -> None:
    arn = control.register()
    answer = control.tag_resource(Resource=arn, Tags={"team": "a", "stage": "test"})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    control.untag_resource(Resource=arn, TagKeys=["stage", "other"])
    control.register(timeout_s=4)
    assert control.list_tags(Resource=arn)["Tags"] == {"team": "a"}
    assert control.get_function(FunctionName="work")["Tags"] == {"team": "a"}


def test_mappings_have_tags(control: LambdaClient) -> None:
    control.register()
    control.declare()
    (found,) = control.list_event_source_mappings()["EventSourceMappings"]
    control.tag_resource(Resource=found["EventSourceMappingArn"], Tags={"a": "1", "b": "2"})
    control.untag_resource(Resource=found["EventSourceMappingArn"], TagKeys=["a", "x"])
    assert control.list_tags(Resource=found["EventSourceMappingArn"])["Tags"] == {"b": "2"}


def test_tags_are_checked(control: LambdaClient) -> None:
    arn = control.register()
    many = {str(number): "" for number in range(51)}
    assert control.refusal("tag_resource", Resource=arn, Tags=many) == invalid(
        "Number of tags exceeds resource tag limit."
    )
    message = "Tags on function aliases and versions are not supported. Please specify a function ARN."
    assert control.refusal("tag_resource", Resource=f"{arn}:$LATEST", Tags={"a": "b"}) == invalid(message)
    assert control.refusal("tag_resource", Resource=arn, Tags={"aws:a": "b"}).code == "InvalidParameterValueException"
    unknown = control.function_arn("nobody")
    assert control.refusal("list_tags", Resource=unknown) == missing(f"Function not found: {unknown}")
