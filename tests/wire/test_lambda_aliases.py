"""The operations on versions and aliases: answers, refusals, pages, revisions. Texts: as the service gives them where
they are known."""

from __future__ import annotations

from typing import Any

import pytest

from broker.builds import code_digest
from tests.wire.clients import Refusal
from tests.wire.lambda_control import LambdaClient

STALE = (
    "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve "
    "the latest Revision Id"
)


def invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message, 400)


def missing(message: str) -> Refusal:
    return Refusal("ResourceNotFoundException", message, 404)


def versions_of(control: LambdaClient, **options: Any) -> list[str]:
    return [each["Version"] for each in control.list_versions_by_function(FunctionName="work", **options)["Versions"]]


def published(control: LambdaClient, count: int = 1) -> None:
    for number in range(1, count + 1):
        control.register(build=f"build-{number}")
        assert control.publish_version(FunctionName="work")["Version"] == str(number)


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_published_version_is_what_was_registered_and_stays_so(control: LambdaClient) -> None:
    control.register(build="a1b2", timeout_s=7, description="first")
    made = control.publish_version(FunctionName="work", Description="the first")
    arn = control.function_arn()
    assert (made["Version"], made["FunctionArn"], made["Description"]) == ("1", f"{arn}:1", "the first")
    assert made["CodeSha256"] == code_digest("a1b2")
    control.register(build="c3d4", timeout_s=9)
    control.update_function_configuration(FunctionName="work", Timeout=11)
    kept = control.get_function(FunctionName="work:1")["Configuration"]
    assert {**kept, "LastModified": "", "RevisionId": ""} == {**shown(made), "LastModified": "", "RevisionId": ""}
    assert control.get_function_configuration(FunctionName="work", Qualifier="1")["Timeout"] == 7
    assert control.get_function_configuration(FunctionName="work")["Timeout"] == 11


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "ResponseMetadata"}


def test_publishing_what_has_not_changed_answers_the_newest_version(control: LambdaClient) -> None:
    published(control)
    again = control.publish_version(FunctionName="work", Description="once more")
    assert (again["Version"], again["Description"]) == ("1", "")
    control.update_function_configuration(FunctionName="work", Timeout=4)
    assert control.publish_version(FunctionName="work")["Version"] == "2"
    control.register(build="build-2")
    assert control.publish_version(FunctionName="work")["Version"] == "3"


def test_a_build_without_a_name_cannot_be_published(control: LambdaClient) -> None:
    control.register()
    refusal = control.refusal("publish_version", FunctionName="work")
    assert (refusal.code, refusal.status) == ("InvalidParameterValueException", 400)
    assert "penstock runtime --build NAME" in refusal.message
    assert versions_of(control) == ["$LATEST"]


def test_publishing_can_be_bound_to_a_revision_and_to_code(control: LambdaClient) -> None:
    control.register(build="a1b2")
    stale = control.get_function_configuration(FunctionName="work")["RevisionId"]
    control.update_function_configuration(FunctionName="work", Timeout=4)
    refusal = control.refusal("publish_version", FunctionName="work", RevisionId=stale)
    assert refusal == Refusal("PreconditionFailedException", STALE, 412)
    other, current = code_digest("other"), code_digest("a1b2")
    assert control.refusal("publish_version", FunctionName="work", CodeSha256=other) == invalid(
        f"CodeSHA256 ({other}) is different from current CodeSHA256 in $LATEST ({current}). "
        "Please try again with the CodeSHA256 in $LATEST."
    )
    fresh = control.get_function_configuration(FunctionName="work")
    made = control.publish_version(FunctionName="work", RevisionId=fresh["RevisionId"], CodeSha256=fresh["CodeSha256"])
    assert made["Version"] == "1"


def test_versions_are_listed_in_pages(control: LambdaClient) -> None:
    published(control, 11)
    assert versions_of(control) == ["$LATEST", *map(str, range(1, 12))]
    page = control.list_versions_by_function(FunctionName="work", MaxItems=5)
    assert [each["Version"] for each in page["Versions"]] == ["$LATEST", "1", "2", "3", "4"]
    assert [each["FunctionArn"] for each in page["Versions"]][:2] == [
        f"{control.function_arn()}:$LATEST",
        f"{control.function_arn()}:1",
    ]
    assert versions_of(control, Marker=page["NextMarker"], MaxItems=50) == list(map(str, range(5, 12)))
    everything = control.list_functions(FunctionVersion="ALL")["Functions"]
    assert [each["Version"] for each in everything] == ["$LATEST", *map(str, range(1, 12))]
    page = control.list_functions(FunctionVersion="ALL", MaxItems=4)
    assert [each["Version"] for each in page["Functions"]] == ["$LATEST", "1", "2", "3"]
    page = control.list_functions(FunctionVersion="ALL", MaxItems=4, Marker=page["NextMarker"])
    assert [each["Version"] for each in page["Functions"]] == ["4", "5", "6", "7"]
    assert [each["FunctionName"] for each in control.list_functions()["Functions"]] == ["work"]


def test_a_version_is_deleted_unless_an_alias_names_it_and_its_number_is_not_given_again(control: LambdaClient) -> None:
    published(control, 3)
    weights = {"AdditionalVersionWeights": {"2": 0.5}}
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1", RoutingConfig=weights)
    for version in ("1", "2"):
        refusal = control.refusal("delete_function", FunctionName="work", Qualifier=version)
        assert (refusal.code, refusal.status) == ("ResourceConflictException", 409)
        assert "live" in refusal.message
    answer = control.delete_function(FunctionName="work:3")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert versions_of(control) == ["$LATEST", "1", "2"]
    assert control.refusal("get_function", FunctionName="work:3") == missing(
        f"Function not found: {control.function_arn()}:3"
    )
    control.delete_function(FunctionName="work", Qualifier="3")  # once more is no error
    control.register(build="build-4")
    assert control.publish_version(FunctionName="work")["Version"] == "4"


def test_latest_and_aliases_are_not_deleted_so(control: LambdaClient) -> None:
    published(control)
    assert control.refusal("delete_function", FunctionName="work", Qualifier="$LATEST") == invalid(
        "$LATEST version cannot be deleted without deleting the function."
    )
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    assert control.refusal("delete_function", FunctionName="work", Qualifier="live") == invalid(
        "Deletion of aliases is not currently supported."
    )


def test_a_deleted_function_takes_its_versions_and_aliases_with_it(control: LambdaClient) -> None:
    published(control, 2)
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    control.invoke(FunctionName="work:live", InvocationType="Event", Payload=b"1")
    control.delete_function(FunctionName="work")
    for name in ("work", "work:1", "work:live"):
        assert control.refusal("get_function", FunctionName=name).code == "ResourceNotFoundException"
    assert control.refusal("delete_function", FunctionName="work") == missing(
        f"Function not found: {control.function_arn()}"
    )
    assert control.list_functions(FunctionVersion="ALL")["Functions"] == []
    published(control)
    assert versions_of(control) == ["$LATEST", "1"]
    assert control.list_aliases(FunctionName="work")["Aliases"] == []


def test_what_holds_events_is_not_deleted(control: LambdaClient) -> None:
    published(control, 2)
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    for name in ("work:2", "work:live"):
        control.invoke(FunctionName=name, InvocationType="Event", Payload=b"1")
    for method, options in (("delete_function", {"Qualifier": "2"}), ("delete_alias", {"Name": "live"})):
        refusal = control.refusal(method, FunctionName="work", **options)
        assert (refusal.code, refusal.status) == ("ResourceConflictException", 409)
    assert versions_of(control) == ["$LATEST", "1", "2"]
    assert control.get_alias(FunctionName="work", Name="live")["FunctionVersion"] == "1"


# -- aliases ----------------------------------------------------------------------------------------------------------


def test_an_alias_is_made_changed_listed_and_deleted(control: LambdaClient) -> None:
    published(control, 3)
    made = shown(control.create_alias(FunctionName="work", Name="live", FunctionVersion="1", Description="for all"))
    revision = made.pop("RevisionId")
    arn = f"{control.function_arn()}:live"
    assert made == {"AliasArn": arn, "Name": "live", "FunctionVersion": "1", "Description": "for all"}
    assert control.get_function(FunctionName="work:live")["Configuration"]["Version"] == "1"
    assert control.get_function_configuration(FunctionName=arn)["FunctionArn"] == arn
    weights = {"AdditionalVersionWeights": {"3": 0.1}}
    changed = control.update_alias(FunctionName="work", Name="live", FunctionVersion="2", RoutingConfig=weights)
    assert (changed["FunctionVersion"], changed["RoutingConfig"]) == ("2", weights)
    assert changed["Description"] == "for all"
    assert changed["RevisionId"] != revision
    assert shown(control.get_alias(FunctionName="work", Name="live")) == shown(changed)
    control.create_alias(FunctionName="work", Name="beta", FunctionVersion="$LATEST")
    assert [each["Name"] for each in control.list_aliases(FunctionName="work")["Aliases"]] == ["beta", "live"]
    for version, names in (("2", ["live"]), ("3", ["live"]), ("$LATEST", ["beta"]), ("1", [])):
        found = control.list_aliases(FunctionName="work", FunctionVersion=version)["Aliases"]
        assert [each["Name"] for each in found] == names
    page = control.list_aliases(FunctionName="work", MaxItems=1)
    rest = control.list_aliases(FunctionName="work", MaxItems=1, Marker=page["NextMarker"])
    assert [each["Name"] for each in (*page["Aliases"], *rest["Aliases"])] == ["beta", "live"]
    control.delete_alias(FunctionName="work", Name="live")
    control.delete_alias(FunctionName="work", Name="live")  # once more is no error
    assert control.refusal("get_alias", FunctionName="work", Name="live") == missing(f"Cannot find alias arn: {arn}")


def test_an_alias_changes_only_from_the_revision_given(control: LambdaClient) -> None:
    published(control)
    first = control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")["RevisionId"]
    second = control.update_alias(FunctionName="work", Name="live", Description="a", RevisionId=first)["RevisionId"]
    refusal = control.refusal("update_alias", FunctionName="work", Name="live", Description="b", RevisionId=first)
    assert refusal == Refusal("PreconditionFailedException", STALE, 412)
    assert control.get_alias(FunctionName="work", Name="live")["Description"] == "a"
    control.update_alias(FunctionName="work", Name="live", Description="b", RevisionId=second)


def test_an_alias_of_an_unknown_function_or_version_is_refused(control: LambdaClient) -> None:
    options = {"Name": "live", "FunctionVersion": "7"}
    unknown = missing(f"Function not found: {control.function_arn()}")
    assert control.refusal("create_alias", FunctionName="work", **options) == unknown
    published(control, 2)
    unknown = missing(f"Function not found: {control.function_arn()}:7")
    assert control.refusal("create_alias", FunctionName="work", **options) == unknown
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    assert control.refusal("update_alias", FunctionName="work", **options) == unknown
    weights = {"AdditionalVersionWeights": {"7": 0.5}}
    assert control.refusal("update_alias", FunctionName="work", Name="live", RoutingConfig=weights) == unknown
    arn = f"{control.function_arn()}:live"
    assert control.refusal("create_alias", FunctionName="work", Name="live", FunctionVersion="2") == Refusal(
        "ResourceConflictException", f"Alias already exists: {arn}", 409
    )
    assert control.refusal("update_alias", FunctionName="work", Name="other", FunctionVersion="1") == missing(
        f"Cannot find alias arn: {control.function_arn()}:other"
    )


_TOO_MANY = "Number of items in AdditionalVersionWeights cannot be greater than 1"
_TWICE = "Invalid function version 1. Function version 1 is already included in routing configuration."
_BROKEN = "1 validation error detected: Value '{{{}}}' at 'routingConfig.additionalVersionWeights' failed to satisfy "
_VALUES = (
    "constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must "
    "have value greater than or equal to 0.0, Member must not be null]"
)
_KEYS = (
    "constraint: Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must "
    "have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must not "
    "be null]"
)


@pytest.mark.parametrize(
    ("weights", "code", "message"),
    [
        ({"2": 0.1, "3": 0.1}, "InvalidParameterValueException", _TOO_MANY),
        ({"1": 0.1}, "InvalidParameterValueException", _TWICE),
        ({"2": 1.5}, "ValidationException", f"{_BROKEN.format('2=1.5')}{_VALUES}"),
        ({"live": 0.5}, "ValidationException", f"{_BROKEN.format('live=0.5')}{_KEYS}"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    control: LambdaClient, weights: dict[str, float], code: str, message: str
) -> None:
    published(control, 3)
    routing = {"AdditionalVersionWeights": weights}
    made = {"FunctionName": "work", "Name": "live", "FunctionVersion": "1", "RoutingConfig": routing}
    assert control.refusal("create_alias", **made) == Refusal(code, message, 400)
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    assert control.refusal("update_alias", FunctionName="work", Name="live", RoutingConfig=routing).message == message


def test_an_alias_of_latest_has_no_second_version(control: LambdaClient) -> None:
    published(control)
    routing = {"AdditionalVersionWeights": {"1": 0.5}}
    made = {"FunctionName": "work", "Name": "live", "FunctionVersion": "$LATEST", "RoutingConfig": routing}
    text = "$LATEST is not supported for an alias pointing to more than 1 version"
    assert control.refusal("create_alias", **made) == invalid(text)


@pytest.mark.parametrize("name", ["7", "a b", "x" * 129])
def test_names_of_aliases_have_lambdas_pattern(control: LambdaClient, name: str) -> None:
    published(control)
    refusal = control.refusal("create_alias", FunctionName="work", Name=name, FunctionVersion="1")
    assert (refusal.code, refusal.status) == ("ValidationException", 400)
    assert "'name'" in refusal.message


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("publish_version", {}),
        ("create_alias", {"Name": "live", "FunctionVersion": "1"}),
        ("update_alias", {"Name": "live"}),
        ("get_alias", {"Name": "live"}),
        ("delete_alias", {"Name": "live"}),
        ("list_aliases", {}),
        ("put_function_concurrency", {"ReservedConcurrentExecutions": 1}),
        ("update_function_configuration", {"Timeout": 4}),
    ],
)
def test_operations_on_functions_take_no_qualifier(control: LambdaClient, method: str, options: dict[str, Any]) -> None:
    published(control)
    refusal = control.refusal(method, FunctionName="work:1", **options)
    assert (refusal.code, refusal.status) == ("InvalidParameterValueException", 400)


# -- what versions share with their function --------------------------------------------------------------------------


def test_the_limit_and_the_dead_letters_of_the_function_hold_for_its_versions(control: LambdaClient) -> None:
    published(control)
    control.create_alias(FunctionName="work", Name="live", FunctionVersion="1")
    control.put_function_concurrency(FunctionName="work", ReservedConcurrentExecutions=5)
    control.update_function_configuration(FunctionName="work", DeadLetterConfig={"TargetArn": control.queue("dead")})
    for name in ("work:1", "work:live"):
        assert control.settings(name).concurrency == 5
        assert control.get_function_configuration(FunctionName=name)["DeadLetterConfig"] == {
            "TargetArn": control.queue_arn("dead")
        }


def test_a_version_takes_what_the_code_declares_and_not_what_the_api_said_of_latest(control: LambdaClient) -> None:
    control.register(build="one", retries=1)
    control.put_function_event_invoke_config(FunctionName="work", MaximumRetryAttempts=0)
    control.publish_version(FunctionName="work")
    assert control.settings("work:1").retries == 1
    config = control.put_function_event_invoke_config(FunctionName="work", Qualifier="1", MaximumEventAgeInSeconds=90)
    assert config["FunctionArn"] == f"{control.function_arn()}:1"
    assert (control.settings("work:1").retries, control.settings("work:1").max_event_age_s) == (2, 90)
    control.update_function_event_invoke_config(FunctionName="work", Qualifier="1", MaximumRetryAttempts=0)
    found = control.get_function_event_invoke_config(FunctionName="work:1")
    assert (found["MaximumRetryAttempts"], found["MaximumEventAgeInSeconds"]) == (0, 90)
    itself = {"OnFailure": {"Destination": control.function_arn()}}
    assert control.refusal(
        "put_function_event_invoke_config", FunctionName="work:1", DestinationConfig=itself
    ) == invalid("You can't specify the function as a destination for itself.")
    unknown = control.refusal("put_function_event_invoke_config", FunctionName="work:9", MaximumRetryAttempts=0)
    assert unknown == missing("The function doesn't exist.")
