"""Event source mappings over the wire. Texts and defaults: spec of event source mappings, recorded 2025-11."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runtime import App, Context
from tests.wire.clients import REGION, Refusal
from tests.wire.lambda_control import LambdaClient
from tests.wire.lambdas import Served

ARRIVED_S = 10.0

UNKNOWN = "00000000-0000-0000-0000-000000000000"
NO_MAPPING = Refusal("ResourceNotFoundException", "The resource you requested does not exist.", 404)


def invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message, 400)


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in {"ResponseMetadata", "LastModified"}}


@pytest.fixture
def mapped(control: LambdaClient) -> LambdaClient:
    """A queue and a function that can be mapped."""
    control.register()
    control.queue()
    control.queue("orders.fifo")
    return control


def made(control: LambdaClient, queue: str = "orders", function: str = "work", **options: Any) -> dict[str, Any]:
    return control.create_event_source_mapping(
        EventSourceArn=control.queue_arn(queue), FunctionName=function, **options
    )


# -- create -----------------------------------------------------------------------------------------------------------


def test_a_new_mapping_is_creating_and_has_lambdas_defaults(mapped: LambdaClient) -> None:
    answer = made(mapped)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    uuid = answer["UUID"]
    assert plain(answer) == {
        "UUID": uuid,
        "EventSourceMappingArn": f"arn:aws:lambda:{REGION}:{mapped.account}:event-source-mapping:{uuid}",
        "EventSourceArn": mapped.queue_arn(),
        "FunctionArn": mapped.function_arn(),
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        "State": "Creating",
        "StateTransitionReason": "USER_INITIATED",
    }
    found = mapped.get_event_source_mapping(UUID=uuid)
    assert (found["ResponseMetadata"]["HTTPStatusCode"], found["State"]) == (200, "Enabled")
    assert found["LastModified"] == answer["LastModified"]


def test_every_parameter_of_a_queue_is_kept(mapped: LambdaClient) -> None:
    options: dict[str, Any] = {
        "BatchSize": 500,
        "MaximumBatchingWindowInSeconds": 7,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 5},
        "MetricsConfig": {"Metrics": ["EventCount"]},
        "KMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k",
    }
    uuid = made(mapped, **options, Enabled=False, Tags={"team": "a"})["UUID"]
    found = mapped.get_event_source_mapping(UUID=uuid)
    assert {name: found[name] for name in options} == options
    assert found["State"] == "Disabled"
    assert mapped.list_tags(Resource=found["EventSourceMappingArn"])["Tags"] == {"team": "a"}


def test_provisioned_pollers_are_kept(mapped: LambdaClient) -> None:
    pollers = {"MinimumPollers": 3, "MaximumPollers": 30}
    assert made(mapped, ProvisionedPollerConfig=pollers)["ProvisionedPollerConfig"] == pollers


@pytest.mark.parametrize("form", ["work", "{account}:function:work", "{arn}", "{arn}:$LATEST"])
def test_a_function_is_named_in_any_form_and_keeps_its_qualifier(mapped: LambdaClient, form: str) -> None:
    given = form.format(account=mapped.account, arn=mapped.function_arn())
    answer = made(mapped, function=given)
    assert answer["FunctionArn"] == mapped.function_arn() + (":$LATEST" if given.endswith("$LATEST") else "")


def test_filters_are_kept_changed_and_taken_away(mapped: LambdaClient) -> None:
    first = {"Filters": [{"Pattern": '{"body":{"kind":["new"]}}'}, {"Pattern": '{"body":{"n":[{"numeric":[">",1]}]}}'}]}
    uuid = made(mapped, FilterCriteria=first)["UUID"]
    assert mapped.get_event_source_mapping(UUID=uuid)["FilterCriteria"] == first
    second = {"Filters": [{"Pattern": '{"body":{"kind":["old"]}}'}]}
    assert mapped.update_event_source_mapping(UUID=uuid, FilterCriteria=second)["FilterCriteria"] == second
    assert "FilterCriteria" not in mapped.update_event_source_mapping(UUID=uuid, FilterCriteria={"Filters": []})


def test_an_empty_list_of_filters_is_taken_and_left_out(mapped: LambdaClient) -> None:
    assert "FilterCriteria" not in made(mapped, FilterCriteria={"Filters": []})


BAD_PATTERN = "Invalid filter pattern definition."
NO_QUEUE = (
    "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
    "SQS Error Message: The specified queue does not exist."
)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"FilterCriteria": {"Filters": [{"Pattern": '{"body":{"n":[{"wildcard":"*"}]}}'}]}}, BAD_PATTERN),
    ({"FilterCriteria": {"Filters": [{}]}}, BAD_PATTERN),
    (
        {"BatchSize": 11},
        "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
    ),
    (
        {"DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:x"}}},
        "Unsupported DestinationConfig parameter for given event source mapping type.",
    ),
    (
        {"StartingPosition": "LATEST"},
        "Unsupported StartingPosition parameter for given event source mapping type.",
    ),
    (
        {"ParallelizationFactor": 2},
        "Unsupported ParallelizationFactor parameter for given event source mapping type.",
    ),
    ({"FunctionName": "nobody"}, "Function does not exist"),
    ({"FunctionName": "work:1"}, "Function does not exist"),
    ({"EventSourceArn": None}, "Unrecognized event source."),
    ({"EventSourceArn": "arn:aws:sns:us-east-1:000000000000:topic"}, "Unrecognized event source."),
    ({"EventSourceArn": "{queue}-missing"}, NO_QUEUE),
    (
        {"EventSourceArn": "{queue}.fifo", "MaximumBatchingWindowInSeconds": 1},
        "Batching window is not supported for FIFO queues",
    ),
    (
        {"EventSourceArn": "{queue}.fifo", "BatchSize": 11},
        "Batch size 11 is not supported for FIFO queues: the maximum is 10",
    ),
    (
        {"ScalingConfig": {"MaximumConcurrency": 2}, "ProvisionedPollerConfig": {"MinimumPollers": 2}},
        "ScalingConfig and ProvisionedPollerConfig exclude each other: give one of them",
    ),
    (
        {"ProvisionedPollerConfig": {"MinimumPollers": 9, "MaximumPollers": 8}},
        "MinimumPollers (9) must not be greater than MaximumPollers (8)",
    ),
    (
        {"ProvisionedPollerConfig": {"MinimumPollers": 1}},
        "MinimumPollers and MaximumPollers of an SQS event source mapping must be at least 2",
    ),
    (
        {"MetricsConfig": {"Metrics": ["KafkaMetrics"]}},
        "Unsupported MetricsConfig parameter for given event source mapping type: only EventCount.",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_breaks_a_rule_is_refused(mapped: LambdaClient, options: dict[str, Any], message: str) -> None:
    given = {"EventSourceArn": "{queue}", "FunctionName": "work", **options}
    if given["EventSourceArn"]:
        given["EventSourceArn"] = given["EventSourceArn"].format(queue=mapped.queue_arn())
    given = {key: value for key, value in given.items() if value is not None}
    assert mapped.refusal("create_event_source_mapping", **given) == invalid(message)
    assert mapped.list_event_source_mappings()["EventSourceMappings"] == []


OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"BatchSize": 0}, "Value '0' at 'batchSize' failed to satisfy constraint: Member must have value greater than or"),
    ({"BatchSize": 10_001}, "Value '10001' at 'batchSize' failed to satisfy constraint: Member must have value less"),
    ({"MaximumBatchingWindowInSeconds": 301}, "Value '301' at 'maximumBatchingWindowInSeconds' failed"),
    ({"ScalingConfig": {"MaximumConcurrency": 1}}, "Value '1' at 'scalingConfig.maximumConcurrency' failed"),
    ({"FunctionResponseTypes": ["Nothing"]}, "Value '[Nothing]' at 'functionResponseTypes' failed"),
    ({"EventSourceArn": "orders"}, "Value 'orders' at 'eventSourceArn' failed to satisfy constraint"),
    ({"FunctionName": "a b"}, "Value 'a b' at 'functionName' failed to satisfy constraint"),
]


@pytest.mark.parametrize(("options", "message"), OUT_OF_BOUNDS)
def test_what_is_out_of_bounds_is_a_validation_error(
    mapped: LambdaClient, options: dict[str, Any], message: str
) -> None:
    given = {"EventSourceArn": mapped.queue_arn(), "FunctionName": "work", **options}
    refusal = mapped.refusal("create_event_source_mapping", **given)
    assert (refusal.code, refusal.status) == ("ValidationException", 400)
    assert refusal.message.startswith(f"1 validation error detected: {message}")


def test_a_queue_that_shows_messages_while_they_run_is_refused(control: LambdaClient) -> None:
    control.register(timeout_s=31)
    control.queue()
    message = "Queue visibility timeout: 30 seconds is less than Function timeout: 31 seconds"
    given = {"EventSourceArn": control.queue_arn(), "FunctionName": "work"}
    assert control.refusal("create_event_source_mapping", **given) == invalid(message)


def test_a_pair_is_mapped_once(mapped: LambdaClient) -> None:
    uuid = made(mapped)["UUID"]
    given = {"EventSourceArn": mapped.queue_arn(), "FunctionName": "work"}
    message = (
        f'An event source mapping with SQS arn (" {mapped.queue_arn()} ") and function (" work ") already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}"
    )
    refusal = mapped.refusal("create_event_source_mapping", **given)
    assert refusal == Refusal("ResourceConflictException", message, 409)


# -- update and delete ------------------------------------------------------------------------------------------------


def test_an_update_changes_what_is_given_and_nothing_else(mapped: LambdaClient) -> None:
    uuid = made(mapped, ScalingConfig={"MaximumConcurrency": 5}, BatchSize=3)["UUID"]
    answer = mapped.update_event_source_mapping(UUID=uuid, BatchSize=4)
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["State"]) == (202, "Updating")
    found = mapped.get_event_source_mapping(UUID=uuid)
    assert (found["BatchSize"], found["ScalingConfig"]) == (4, {"MaximumConcurrency": 5})
    assert "ScalingConfig" not in mapped.update_event_source_mapping(UUID=uuid, ScalingConfig={})


def test_switching_it_off_and_on_passes_through_the_states(mapped: LambdaClient) -> None:
    uuid = made(mapped)["UUID"]
    assert mapped.update_event_source_mapping(UUID=uuid, Enabled=False)["State"] == "Disabling"
    assert mapped.get_event_source_mapping(UUID=uuid)["State"] == "Disabled"
    assert mapped.update_event_source_mapping(UUID=uuid, Enabled=True)["State"] == "Enabling"
    assert mapped.get_event_source_mapping(UUID=uuid)["State"] == "Enabled"


def test_an_update_obeys_the_same_rules(mapped: LambdaClient) -> None:
    uuid = made(mapped)["UUID"]
    message = "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
    assert mapped.refusal("update_event_source_mapping", UUID=uuid, BatchSize=11) == invalid(message)
    mapped.register(timeout_s=60)
    message = "Queue visibility timeout: 30 seconds is less than Function timeout: 60 seconds"
    assert mapped.refusal("update_event_source_mapping", UUID=uuid, BatchSize=5) == invalid(message)


def test_a_mapping_goes_over_to_another_function_and_keeps_its_uuid(mapped: LambdaClient) -> None:
    mapped.register("other")
    uuid = made(mapped)["UUID"]
    mapped.update_event_source_mapping(UUID=uuid, FunctionName="other")
    assert mapped.get_event_source_mapping(UUID=uuid)["FunctionArn"] == mapped.function_arn("other")
    assert len(mapped.list_event_source_mappings()["EventSourceMappings"]) == 1
    second = made(mapped)["UUID"]
    refusal = mapped.refusal("update_event_source_mapping", UUID=second, FunctionName="other")
    assert (refusal.code, refusal.status) == ("ResourceConflictException", 409)
    assert refusal.message.endswith(uuid)


def test_a_deleted_mapping_is_deleting_and_then_unknown(mapped: LambdaClient) -> None:
    uuid = made(mapped)["UUID"]
    answer = mapped.delete_event_source_mapping(UUID=uuid)
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["State"], answer["UUID"]) == (202, "Deleting", uuid)
    for method in ("get", "update", "delete"):
        assert mapped.refusal(f"{method}_event_source_mapping", UUID=uuid) == NO_MAPPING
    assert made(mapped)["UUID"] != uuid


@pytest.mark.parametrize("method", ["get", "update", "delete"])
def test_an_unknown_uuid_is_not_found(control: LambdaClient, method: str) -> None:
    assert control.refusal(f"{method}_event_source_mapping", UUID=UNKNOWN) == NO_MAPPING


# -- lists ------------------------------------------------------------------------------------------------------------


def test_lists_are_narrowed_by_queue_and_function(mapped: LambdaClient) -> None:
    mapped.register("other")
    first = made(mapped)["UUID"]
    second = made(mapped, function="other")["UUID"]
    third = made(mapped, queue="orders.fifo")["UUID"]

    def listed(**options: Any) -> set[str]:
        return {each["UUID"] for each in mapped.list_event_source_mappings(**options)["EventSourceMappings"]}

    assert listed() == {first, second, third}
    assert listed(EventSourceArn=mapped.queue_arn()) == {first, second}
    assert listed(FunctionName="work") == {first, third}
    assert listed(FunctionName=mapped.function_arn("other"), EventSourceArn=mapped.queue_arn()) == {second}
    assert listed(FunctionName="nobody") == set()


def test_a_list_comes_in_pages(mapped: LambdaClient) -> None:
    for number in range(5):
        mapped.register(f"f{number}")
        made(mapped, function=f"f{number}")
    seen: list[str] = []
    options: dict[str, Any] = {"MaxItems": 2}
    while True:
        page = mapped.list_event_source_mappings(**options)
        seen += [each["FunctionArn"][-2:] for each in page["EventSourceMappings"]]
        if "NextMarker" not in page:
            break
        options["Marker"] = page["NextMarker"]
    assert seen == [f"f{number}" for number in range(5)]
    message = "The marker is not one that this service has given."
    assert mapped.refusal("list_event_source_mappings", Marker="?") == invalid(message)


# -- what code declares -----------------------------------------------------------------------------------------------


def declared(control: LambdaClient) -> dict[str, Any]:
    (found,) = control.list_event_source_mappings()["EventSourceMappings"]
    answer: dict[str, Any] = found
    return answer


def test_what_code_declares_is_there_too(control: LambdaClient) -> None:
    control.register()
    control.declare(batch_size=50, max_concurrency=1, partial_failures=True)
    found = declared(control)
    assert (found["BatchSize"], found["ScalingConfig"]) == (50, {"MaximumConcurrency": 1})
    assert found["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert control.get_event_source_mapping(UUID=found["UUID"])["UUID"] == found["UUID"]


def test_a_change_holds_until_the_code_declares_something_else_for_that_setting(control: LambdaClient) -> None:
    control.register()
    control.declare(batch_size=50, batch_window_s=1)
    uuid = declared(control)["UUID"]
    control.update_event_source_mapping(UUID=uuid, BatchSize=60, Enabled=False)
    control.declare(batch_size=50, batch_window_s=2)
    found = declared(control)
    assert (found["UUID"], found["State"], found["BatchSize"]) == (uuid, "Disabled", 60)
    assert found["MaximumBatchingWindowInSeconds"] == 2
    control.declare(batch_size=70, batch_window_s=2)
    assert (declared(control)["BatchSize"], declared(control)["State"]) == (70, "Disabled")


def test_what_code_declares_beyond_the_bounds_of_the_api_can_be_switched_off(control: LambdaClient) -> None:
    control.register(timeout_s=600)
    control.declare(batch_size=500)
    uuid = declared(control)["UUID"]
    assert control.update_event_source_mapping(UUID=uuid, Enabled=False)["State"] == "Disabling"
    assert declared(control)["BatchSize"] == 500


def test_its_function_cannot_be_changed(control: LambdaClient) -> None:
    control.register()
    control.register("other")
    control.declare()
    uuid = declared(control)["UUID"]
    refusal = control.refusal("update_event_source_mapping", UUID=uuid, FunctionName="other")
    assert refusal.message.startswith("The function of mapping orders->work is declared by code")


# -- on a live worker -------------------------------------------------------------------------------------------------


def test_a_running_worker_polls_what_is_made_and_stops_with_what_is_deleted(
    control: LambdaClient, served: Served
) -> None:
    app, arrived = App(), threading.Event()
    bodies: list[str] = []

    @app.function()
    async def work(event: Any, context: Context) -> None:
        bodies.extend(record["body"] for record in event["Records"])
        arrived.set()

    control.queue()
    with served(app):
        assert control.get_function(FunctionName="work")["Configuration"]["State"] == "Active"
        uuid = made(control)["UUID"]
        control.send("first")
        assert arrived.wait(ARRIVED_S)
        arrived.clear()
        control.update_event_source_mapping(UUID=uuid, Enabled=False)
        control.send("second")
        control.update_event_source_mapping(UUID=uuid, Enabled=True)
        assert arrived.wait(ARRIVED_S)
        control.delete_event_source_mapping(UUID=uuid)
    assert bodies == ["first", "second"]


def test_a_mapping_of_code_that_nobody_runs_any_more_is_disabled_and_says_why(control: LambdaClient) -> None:
    control.register()
    control.declare(undeclared=True)
    found = declared(control)
    assert found["State"] == "Disabled"
    assert found["StateTransitionReason"].startswith("No live worker declares this mapping")
