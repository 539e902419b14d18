"""Errors that no other file tells of: unknown queues, missing parameters, pages (sqs.md 2 and 3)."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.session import Session

from tests.wire.clients import Refused, Sqs

FOR_A_QUEUE: dict[str, dict[str, Any]] = {
    "add_permission": {"Label": "l", "AWSAccountIds": ["111122223333"], "Actions": ["SendMessage"]},
    "change_message_visibility": {"ReceiptHandle": "h", "VisibilityTimeout": 1},
    "change_message_visibility_batch": {"Entries": [{"Id": "a", "ReceiptHandle": "h", "VisibilityTimeout": 1}]},
    "delete_message": {"ReceiptHandle": "h"},
    "delete_message_batch": {"Entries": [{"Id": "a", "ReceiptHandle": "h"}]},
    "delete_queue": {},
    "get_queue_attributes": {"AttributeNames": ["All"]},
    "list_dead_letter_source_queues": {},
    "list_queue_tags": {},
    "purge_queue": {},
    "receive_message": {},
    "remove_permission": {"Label": "l"},
    "send_message": {"MessageBody": "x"},
    "send_message_batch": {"Entries": [{"Id": "a", "MessageBody": "x"}]},
    "set_queue_attributes": {"Attributes": {"DelaySeconds": "1"}},
    "tag_queue": {"Tags": {"k": "v"}},
    "untag_queue": {"TagKeys": ["k"]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "create_queue": {"QueueName": "q"},
    "get_queue_url": {"QueueName": "orders"},
    "start_message_move_task": {"SourceArn": "arn:aws:sqs:us-east-1:000000000000:q"},
    "list_message_move_tasks": {"SourceArn": "arn:aws:sqs:us-east-1:000000000000:q"},
    "cancel_message_move_task": {"TaskHandle": "h"},
}
SCALARS = [
    "QueueUrl",
    "QueueName",
    "MessageBody",
    "ReceiptHandle",
    "VisibilityTimeout",
    "Label",
    "SourceArn",
    "TaskHandle",
]
REQUIRED_PARAMETERS = [
    *[(method, name) for method, parameters in FOR_A_QUEUE.items() for name in ("QueueUrl", *parameters)],
    *[(method, name) for method, parameters in OTHERS.items() for name in parameters],
]
NOT_REQUIRED = {("get_queue_attributes", "AttributeNames")}
REQUIRED_IN_ENTRIES = [
    ("send_message_batch", "MessageBody"),
    ("delete_message_batch", "ReceiptHandle"),
    ("change_message_visibility_batch", "ReceiptHandle"),
]
PAGED = ["list_queues", "list_dead_letter_source_queues"]
URLS = ["", "nothing", "http://127.0.0.1/", "http://127.0.0.1/orders", "http://127.0.0.1/abc/orders"]


def test_every_action_is_in_the_tables() -> None:
    model = Session().get_service_model("sqs")
    names = {name.replace("_", "") for name in (*FOR_A_QUEUE, *OTHERS, "list_queues")}
    assert names == {name.lower() for name in model.operation_names}


# -- queues that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FOR_A_QUEUE)
def test_an_unknown_queue_is_told_in_the_words_of_the_protocol(sqs: Sqs, method: str) -> None:
    url = f"{sqs.endpoint}/{sqs.account}/nothing"
    assert sqs.refusal(method, QueueUrl=url, **FOR_A_QUEUE[method]) == sqs.no_queue


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_names_no_queue_is_refused(sqs: Sqs, url: str) -> None:
    refusal = sqs.refusal("receive_message", QueueUrl=url)
    assert refusal.code in {sqs.no_queue.code, "InvalidAddress", "InvalidParameterValue", "MissingParameter"}
    assert refusal.status in {400, 404}


def test_nothing_is_created_by_being_named(sqs: Sqs) -> None:
    for method, parameters in FOR_A_QUEUE.items():
        sqs.refusal(method, QueueUrl=f"{sqs.endpoint}/{sqs.account}/nothing", **parameters)
    assert "QueueUrls" not in sqs.list_queues()


# -- parameters that are not there ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "name"), [each for each in REQUIRED_PARAMETERS if each not in NOT_REQUIRED])
def test_a_missing_parameter_is_named(sqs: Sqs, method: str, name: str) -> None:
    parameters = dict(OTHERS.get(method) or FOR_A_QUEUE[method] | {"QueueUrl": sqs.queue()})
    del parameters[name]
    refusal = sqs.refusal(method, **parameters)
    if name == "Entries":
        assert refusal.code in {"MissingParameter", "AWS.SimpleQueueService.EmptyBatchRequest"}
    else:
        assert refusal.code == "MissingParameter"
    if name in SCALARS:
        assert refusal.message == f"The request must contain the parameter {name}."
    assert refusal.status == 400


@pytest.mark.parametrize(("method", "name"), REQUIRED_IN_ENTRIES)
def test_a_parameter_missing_in_an_entry_is_told_of_the_entry_or_the_call(sqs: Sqs, method: str, name: str) -> None:
    (entry,) = FOR_A_QUEUE[method]["Entries"]
    entry = {key: value for key, value in entry.items() if key != name}
    url = sqs.queue()
    try:
        answer = getattr(sqs, method)(QueueUrl=url, Entries=[entry])
    except Refused as error:
        code = error.refusal.code
    else:
        (failed,) = answer["Failed"]
        code = failed["Code"]
    assert code in {"MissingParameter", "InvalidParameterValue", "ReceiptHandleIsInvalid"}


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PAGED)
@pytest.mark.parametrize("size", [-1, 0, 1001])
def test_a_page_has_from_one_to_a_thousand_entries(sqs: Sqs, method: str, size: int) -> None:
    parameters = {"QueueUrl": sqs.queue()} if method != "list_queues" else {}
    refusal = sqs.refusal(method, MaxResults=size, **parameters)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


@pytest.mark.parametrize("method", PAGED)
def test_a_token_that_is_none_is_refused(sqs: Sqs, method: str) -> None:
    parameters = {"QueueUrl": sqs.queue()} if method != "list_queues" else {}
    refusal = sqs.refusal(method, MaxResults=1, NextToken="garbage", **parameters)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
