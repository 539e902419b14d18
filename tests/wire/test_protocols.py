"""Both protocols as they stand on the wire: forms, headers, statuses, XML (sqs.md 1 and 2)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import Gateway
from tests.wire.raw import JSON_TYPE, NAMESPACE, Answer, RawClient

NO_QUEUE = "AWS.SimpleQueueService.NonExistentQueue"


@pytest.fixture
def raw(gateway: Gateway, account: str) -> RawClient:
    return RawClient(gateway.url, account)


@pytest.fixture
def url(json_sqs: Sqs) -> str:
    return json_sqs.queue("orders")


def texts(answer: Answer, name: str) -> list[str]:
    return [element.text or "" for element in answer.xml.iter(NAMESPACE + name)]


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_queue", [False, True])
def test_json_is_answered_in_json_on_the_root_and_on_the_queues_url(
    raw: RawClient, url: str, *, on_queue: bool
) -> None:
    path = urlsplit(url).path if on_queue else "/"
    answer = raw.json("SendMessage", {"QueueUrl": url, "MessageBody": "hello"}, path=path)
    assert (answer.status, answer.headers["content-type"]) == (200, JSON_TYPE)
    assert answer.json["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592"


def test_an_action_without_output_answers_nothing_or_an_empty_object(raw: RawClient, url: str) -> None:
    answer = raw.json("SetQueueAttributes", {"QueueUrl": url, "Attributes": {"DelaySeconds": "1"}})
    assert answer.status == 200
    assert answer.body in {b"", b"{}"}


@pytest.mark.parametrize(
    ("action", "parameters", "kind", "code"),
    [
        ("GetQueueUrl", {"QueueName": "nothing"}, "com.amazonaws.sqs#QueueDoesNotExist", NO_QUEUE),
        (
            "ReceiveMessage",
            {"QueueUrl": "{url}", "MaxNumberOfMessages": 11},
            "com.amazon.coral.service#InvalidParameterValueException",
            "InvalidParameterValue",
        ),
        (
            "SendMessage",
            {"QueueUrl": "{url}", "MessageBody": ""},
            "com.amazon.coral.service#MissingRequiredParameterException",
            "MissingParameter",
        ),
        (
            "SendMessageBatch",
            {"QueueUrl": "{url}", "Entries": []},
            "com.amazonaws.sqs#EmptyBatchRequest",
            "AWS.SimpleQueueService.EmptyBatchRequest",
        ),
        (
            "SetQueueAttributes",
            {"QueueUrl": "{url}", "Attributes": {"Colour": "red"}},
            "com.amazonaws.sqs#InvalidAttributeName",
            "InvalidAttributeName",
        ),
    ],
)
def test_a_json_error_has_its_type_in_the_body_and_the_old_code_in_a_header(
    raw: RawClient, url: str, action: str, parameters: dict[str, object], kind: str, code: str
) -> None:
    filled = {name: url if value == "{url}" else value for name, value in parameters.items()}
    answer = raw.json(action, filled, query_mode=True)
    assert (answer.status, answer.headers["content-type"]) == (400, JSON_TYPE)
    assert answer.json["__type"] == kind
    assert answer.json["message"]
    assert answer.headers["x-amzn-query-error"] == f"{code};Sender"


@pytest.mark.parametrize(("query_mode", "status"), [(False, 400), (True, 403)])
def test_json_clients_get_the_old_status_only_in_query_mode(
    raw: RawClient, url: str, *, query_mode: bool, status: int
) -> None:
    raw.json("PurgeQueue", {"QueueUrl": url})
    answer = raw.json("PurgeQueue", {"QueueUrl": url}, query_mode=query_mode)
    assert (answer.status, answer.json["__type"]) == (status, "com.amazonaws.sqs#PurgeQueueInProgress")


@pytest.mark.parametrize(("query_mode", "status"), [(False, 400), (True, 404)])
def test_a_missing_resource_is_404_only_in_query_mode(
    raw: RawClient, account: str, *, query_mode: bool, status: int
) -> None:
    arn = f"arn:aws:sqs:us-east-1:{account}:nothing"
    assert raw.json("StartMessageMoveTask", {"SourceArn": arn}, query_mode=query_mode).status == status


@pytest.mark.parametrize("action", ["Fly", "sendMessage", ""])
def test_an_unknown_action_is_refused(raw: RawClient, action: str) -> None:
    for answer in (raw.json(action, {}), raw.query(action, {})):
        assert 400 <= answer.status < 500


def test_members_that_nobody_knows_are_passed_over(raw: RawClient, url: str) -> None:
    assert raw.json("SendMessage", {"QueueUrl": url, "MessageBody": "x", "Colour": "red"}).status == 200


# -- query ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("on_queue", [False, True])
def test_query_is_answered_in_xml_by_get_and_post_on_the_root_and_on_the_queues_url(
    raw: RawClient, url: str, method: str, *, on_queue: bool
) -> None:
    parameters = {"MessageBody": "hello"} | ({} if on_queue else {"QueueUrl": url})
    path = urlsplit(url).path if on_queue else "/"
    answer = raw.query("SendMessage", parameters, path=path, method=method)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/xml")
    assert answer.xml.tag == f"{NAMESPACE}SendMessageResponse"
    assert [child.tag for child in answer.xml] == [f"{NAMESPACE}SendMessageResult", f"{NAMESPACE}ResponseMetadata"]
    assert texts(answer, "MD5OfMessageBody") == ["5d41402abc4b2a76b9719d911017c592"]
    assert texts(answer, "RequestId") == [answer.headers["x-amzn-requestid"]]


@pytest.mark.parametrize(
    ("action", "parameters", "code", "status"),
    [
        ("GetQueueUrl", {"QueueName": "nothing"}, NO_QUEUE, 400),
        ("GetQueueUrl", {}, "MissingParameter", 400),
        (
            "StartMessageMoveTask",
            {"SourceArn": "arn:aws:sqs:us-east-1:{account}:nothing"},
            "ResourceNotFoundException",
            404,
        ),
    ],
)
def test_a_query_error_has_the_old_form_and_status(
    raw: RawClient, account: str, action: str, parameters: dict[str, str], code: str, status: int
) -> None:
    answer = raw.query(action, {name: value.format(account=account) for name, value in parameters.items()})
    assert answer.status == status
    assert answer.headers["content-type"].startswith("text/xml")
    assert answer.xml.tag.endswith("ErrorResponse")
    plain = {re.sub("{.*}", "", element.tag): element.text for element in answer.xml.iter()}
    assert (plain["Type"], plain["Code"]) == ("Sender", code)
    assert plain["Message"]
    assert plain["RequestId"] == answer.headers["x-amzn-requestid"]


def test_flattened_lists_and_maps_are_understood_and_answered(raw: RawClient, account: str) -> None:
    created = raw.query(
        "CreateQueue",
        {
            "QueueName": "flat",
            "Attribute.1.Name": "DelaySeconds",
            "Attribute.1.Value": "7",
            "Attribute.2.Name": "VisibilityTimeout",
            "Attribute.2.Value": "9",
            "Tag.1.Key": "k",
            "Tag.1.Value": "v",
            "Tag.2.Key": "l",
            "Tag.2.Value": "",
        },
    )
    (url,) = texts(created, "QueueUrl")
    asked = {"QueueUrl": url, "AttributeName.1": "DelaySeconds", "AttributeName.2": "VisibilityTimeout"}
    attributes = raw.query("GetQueueAttributes", asked)
    pairs = [tuple(child.text for child in element) for element in attributes.xml.iter(f"{NAMESPACE}Attribute")]
    assert sorted(pairs, key=str) == [("DelaySeconds", "7"), ("VisibilityTimeout", "9")]
    assert texts(raw.query("ListQueueTags", {"QueueUrl": url}), "Key") == ["k", "l"]
    raw.query("UntagQueue", {"QueueUrl": url, "TagKey.1": "k"})
    assert texts(raw.query("ListQueueTags", {"QueueUrl": url}), "Key") == ["l"]
    raw.query("CreateQueue", {"QueueName": "second"})
    assert len(texts(raw.query("ListQueues", {}), "QueueUrl")) == 2


def test_lists_are_in_the_order_of_their_numbers_whatever_the_order_of_the_fields(raw: RawClient, url: str) -> None:
    fields: dict[str, str] = {}
    for number in reversed(range(1, 11)):
        fields |= {
            f"SendMessageBatchRequestEntry.{number}.MessageBody": str(number),
            f"SendMessageBatchRequestEntry.{number}.Id": f"id{number}",
        }
    answer = raw.query("SendMessageBatch", {"QueueUrl": url, **fields})
    assert len(texts(answer, "Id")) == 10
    received = raw.query("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": "10"})
    assert texts(received, "Body") == [str(number) for number in range(1, 11)]


def test_message_attributes_are_flattened_both_ways(raw: RawClient, url: str) -> None:
    raw.query(
        "SendMessage",
        {
            "QueueUrl": url,
            "MessageBody": "<&>",
            "MessageAttribute.1.Name": "s",
            "MessageAttribute.1.Value.DataType": "String",
            "MessageAttribute.1.Value.StringValue": "v",
            "MessageAttribute.2.Name": "b",
            "MessageAttribute.2.Value.DataType": "Binary",
            "MessageAttribute.2.Value.BinaryValue": "AQID",
        },
    )
    asked = {"QueueUrl": url, "MessageAttributeName.1": ".*", "AttributeName.1": "ApproximateReceiveCount"}
    answer = raw.query("ReceiveMessage", asked)
    (message,) = answer.xml.iter(f"{NAMESPACE}Message")
    assert message.findtext(f"{NAMESPACE}Body") == "<&>"
    found = {
        name.text: {re.sub("{.*}", "", member.tag): member.text for member in value}
        for name, value in message.iter(f"{NAMESPACE}MessageAttribute")
    }
    assert found == {
        "s": {"DataType": "String", "StringValue": "v"},
        "b": {"DataType": "Binary", "BinaryValue": "AQID"},
    }
    (attribute,) = message.iter(f"{NAMESPACE}Attribute")
    assert [child.text for child in attribute] == ["ApproximateReceiveCount", "1"]


@pytest.mark.parametrize("name", ["MessageSystemAttributeName.1", "AttributeName.1"])
def test_query_knows_both_names_of_the_list_of_system_attributes(raw: RawClient, url: str, name: str) -> None:
    raw.query("SendMessage", {"QueueUrl": url, "MessageBody": "x"})
    answer = raw.query("ReceiveMessage", {"QueueUrl": url, name: "SenderId"})
    assert texts(answer, "Name") == ["SenderId"]


@pytest.mark.parametrize("value", ["many", "1.5"])
def test_a_number_that_is_none_is_refused(raw: RawClient, url: str, value: str) -> None:
    answer = raw.query("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": value})
    assert answer.status == 400
    answer = raw.json("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": value})
    assert answer.status == 400


# -- both -------------------------------------------------------------------------------------------------------------


def test_every_answer_has_a_request_id_of_its_own(raw: RawClient, url: str) -> None:
    answers = [
        raw.json("ListQueues", {}),
        raw.json("ListQueues", {}),
        raw.json("GetQueueUrl", {"QueueName": "nothing"}),
        raw.query("ListQueues", {}),
        raw.query("GetQueueUrl", {"QueueName": "nothing"}),
        raw.request("GET", "/nothing/at/all"),
    ]
    ids = [answer.headers["x-amzn-requestid"] for answer in answers]
    assert len(set(ids)) == len(ids)
