"""GetQueueAttributes and SetQueueAttributes: every attribute, its range and its default (sqs.md 4)."""

from __future__ import annotations

import json
import time

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
    "SqsManagedSseEnabled": "true",
    "ApproximateNumberOfMessages": "0",
    "ApproximateNumberOfMessagesNotVisible": "0",
    "ApproximateNumberOfMessagesDelayed": "0",
}
FIFO_DEFAULTS = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "queue",
    "FifoThroughputLimit": "perQueue",
}
RANGES = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1_024, 1_048_576),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "VisibilityTimeout": (0, 43_200),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
}
IN_RANGE = [(name, str(bound)) for name, bounds in RANGES.items() for bound in bounds]
OUT_OF_RANGE = [
    (name, value)
    for name, (lowest, highest) in RANGES.items()
    for value in (str(lowest - 1), str(highest + 1), "many", "1.5")
]
READ_ONLY = ["QueueArn", "CreatedTimestamp", "LastModifiedTimestamp", *list(DEFAULTS)[-3:]]
NOT_FOR_STANDARD = {
    "FifoQueue": ("true", "Unknown Attribute FifoQueue."),
    "ContentBasedDeduplication": ("true", "Unknown Attribute ContentBasedDeduplication."),
    "DeduplicationScope": (
        "messageGroup",
        "You can specify the DeduplicationScope only when FifoQueue is set to true.",
    ),
    "FifoThroughputLimit": (
        "perQueue",
        "You can specify the FifoThroughputLimit only when FifoQueue is set to true.",
    ),
}


def policy(sqs: Sqs, url: str) -> dict[str, object]:
    statement = {"Sid": "all", "Effect": "Allow", "Principal": "*", "Action": "SQS:*", "Resource": sqs.arn(url)}
    return {"Version": "2012-10-17", "Statement": [statement]}


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), [("orders", {}), ("orders.fifo", FIFO_DEFAULTS)])
def test_a_new_queue_has_the_default_attributes_and_no_others(sqs: Sqs, name: str, more: dict[str, str]) -> None:
    before = int(time.time())
    url = sqs.queue(name)
    found = sqs.attributes(url)
    created, modified = found.pop("CreatedTimestamp"), found.pop("LastModifiedTimestamp")
    assert found == DEFAULTS | more | {"QueueArn": f"arn:aws:sqs:us-east-1:{sqs.account}:{name}"}
    assert before <= int(created) <= int(modified) <= int(time.time()) + 1


def test_only_the_attributes_asked_for_are_answered(sqs: Sqs) -> None:
    url = sqs.queue()
    assert sqs.attributes(url, "DelaySeconds", "QueueArn") == {"DelaySeconds": "0", "QueueArn": sqs.arn(url)}
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=url)
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy", "RedrivePolicy"])


def test_unknown_names_are_refused(sqs: Sqs) -> None:
    url = sqs.queue()
    assert sqs.refusal("get_queue_attributes", QueueUrl=url, AttributeNames=["Colour"]).code == "InvalidAttributeName"
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={"Colour": "red"})
    assert refusal == ("InvalidAttributeName", "Unknown Attribute Colour.", 400)
    assert sqs.refusal("create_queue", QueueName="x", Attributes={"Colour": "red"}) == refusal


def test_messages_are_counted_by_what_they_wait_for(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue(VisibilityTimeout="60")
    for delay in (0, 0, 0, 20):
        sqs.send(url, DelaySeconds=delay)
    assert sqs.counts(url) == (3, 0, 1)
    assert len(sqs.receive(url, 2)) == 2
    assert sqs.counts(url) == (1, 2, 1)
    clock.advance(21)
    assert sqs.counts(url) == (2, 2, 0)
    clock.advance(40)
    assert sqs.counts(url) == (4, 0, 0)


# -- setting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), IN_RANGE)
def test_the_ends_of_a_range_are_accepted_when_creating_and_when_setting(sqs: Sqs, name: str, value: str) -> None:
    more = {"KmsMasterKeyId": "alias/key"} if name.startswith("Kms") else {}
    created = sqs.queue("created", **{name: value}, **more)
    other = sqs.queue("other")
    sqs.configure(other, **{name: value}, **more)
    assert sqs.attributes(created, name) == {name: value}
    assert sqs.attributes(other, name) == {name: value}


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_outside_its_range_is_refused(sqs: Sqs, name: str, value: str) -> None:
    refusal = sqs.refusal("create_queue", QueueName="orders", Attributes={name: value})
    assert (refusal.code, refusal.status) == ("InvalidAttributeValue", 400)
    assert refusal.message.startswith(f"Invalid value for the parameter {name}.")
    url = sqs.queue()
    before = sqs.attributes(url)
    assert sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={name: value}) == refusal
    assert sqs.attributes(url) == before


def test_attributes_that_are_not_named_keep_their_values(sqs: Sqs) -> None:
    url = sqs.queue("orders", DelaySeconds="5", VisibilityTimeout="60")
    sqs.configure(url, VisibilityTimeout="90")
    assert sqs.attributes(url, "DelaySeconds", "VisibilityTimeout") == {"DelaySeconds": "5", "VisibilityTimeout": "90"}


def test_either_all_attributes_of_a_call_are_set_or_none(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={"DelaySeconds": "5", "VisibilityTimeout": "-1"})
    assert sqs.attributes(url, "DelaySeconds", "VisibilityTimeout") == {"DelaySeconds": "0", "VisibilityTimeout": "30"}


@pytest.mark.parametrize("name", READ_ONLY)
def test_what_the_service_tells_cannot_be_set(sqs: Sqs, name: str) -> None:
    url = sqs.queue()
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={name: "1"})
    assert refusal == ("InvalidAttributeName", f"Unknown Attribute {name}.", 400)


def test_a_policy_is_kept_and_an_empty_one_clears_it(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.configure(url, Policy=json.dumps(policy(sqs, url)))
    assert json.loads(sqs.attributes(url, "Policy")["Policy"]) == policy(sqs, url)
    sqs.configure(url, Policy="")
    assert "Policy" not in sqs.attributes(url)


@pytest.mark.parametrize("name", ["Policy", "RedrivePolicy", "RedriveAllowPolicy"])
@pytest.mark.parametrize("value", ["{", "[]", "7"])
def test_a_policy_that_is_no_json_object_is_refused(sqs: Sqs, name: str, value: str) -> None:
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=sqs.queue(), Attributes={name: value})
    assert refusal.code in {"InvalidAttributeValue", "InvalidParameterValue"}
    assert refusal.status == 400


def test_lowering_the_retention_expires_messages_that_are_older(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue()
    sqs.send(url, "old")
    clock.advance(100)
    sqs.send(url, "new")
    sqs.configure(url, MessageRetentionPeriod="60")
    assert sqs.bodies(url) == ["new"]
    clock.advance(60)
    assert sqs.receive(url) == []


# -- FIFO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOT_FOR_STANDARD)
def test_a_standard_queue_refuses_attributes_of_fifo_queues(sqs: Sqs, name: str) -> None:
    value, said = NOT_FOR_STANDARD[name]
    url = sqs.queue()
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={name: value})
    assert refusal == ("InvalidAttributeName", said, 400)
    if name != "FifoQueue":
        assert sqs.refusal("create_queue", QueueName="other", Attributes={name: value}) == refusal


def test_a_standard_queue_cannot_be_created_by_saying_that_it_is_not_fifo(sqs: Sqs) -> None:
    refusal = sqs.refusal("create_queue", QueueName="orders", Attributes={"FifoQueue": "false"})
    assert refusal == ("InvalidAttributeName", "Unknown Attribute FifoQueue.", 400)


def test_a_queues_kind_cannot_be_changed(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={"FifoQueue": "false"})
    said = "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."
    assert refusal == ("InvalidAttributeValue", said, 400)


def test_a_fifo_queues_own_attributes_can_be_set(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    wanted = {
        "ContentBasedDeduplication": "true",
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
    }
    sqs.configure(url, **wanted)
    assert sqs.attributes(url, *wanted) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [("ContentBasedDeduplication", "maybe"), ("DeduplicationScope", "group"), ("FifoThroughputLimit", "none")],
)
def test_a_fifo_attribute_has_only_its_own_values(sqs: Sqs, name: str, value: str) -> None:
    url = sqs.queue("orders.fifo")
    assert sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={name: value}).code == "InvalidAttributeValue"


def test_high_throughput_needs_deduplication_by_group(sqs: Sqs) -> None:
    url = sqs.queue("orders.fifo")
    high = {"FifoThroughputLimit": "perMessageGroupId"}
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes=high)
    assert refusal.code in {"InvalidAttributeValue", "InvalidParameterValue"}
    sqs.configure(url, DeduplicationScope="messageGroup")
    sqs.configure(url, **high)


# -- encryption -------------------------------------------------------------------------------------------------------


def test_one_kind_of_encryption_at_a_time(sqs: Sqs) -> None:
    both = {"KmsMasterKeyId": "alias/key", "SqsManagedSseEnabled": "true"}
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=sqs.queue(), Attributes=both)
    said = "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE or SQS SSE."
    assert refusal == ("InvalidAttributeName", said, 400)
    assert sqs.refusal("create_queue", QueueName="other", Attributes=both) == refusal


def test_a_key_is_kept_with_its_reuse_period_and_replaces_the_managed_one(sqs: Sqs) -> None:
    url = sqs.queue()
    wanted = {"KmsMasterKeyId": "alias/key", "KmsDataKeyReusePeriodSeconds": "6000", "SqsManagedSseEnabled": "false"}
    sqs.configure(url, **wanted)
    assert sqs.attributes(url, *wanted) == wanted


def test_a_reuse_period_back_at_its_default_without_a_key_is_not_shown(sqs: Sqs) -> None:
    url = sqs.queue("orders", KmsMasterKeyId="alias/key", KmsDataKeyReusePeriodSeconds="6000")
    sqs.configure(url, KmsMasterKeyId="", KmsDataKeyReusePeriodSeconds="300")
    found = sqs.attributes(url)
    assert "KmsDataKeyReusePeriodSeconds" not in found
    assert "KmsMasterKeyId" not in found


def test_managed_encryption_can_be_switched_off(sqs: Sqs) -> None:
    url = sqs.queue("orders", SqsManagedSseEnabled="false")
    assert sqs.attributes(url, "SqsManagedSseEnabled") == {"SqsManagedSseEnabled": "false"}
    sqs.configure(url, SqsManagedSseEnabled="true")
    assert sqs.attributes(url, "SqsManagedSseEnabled") == {"SqsManagedSseEnabled": "true"}
