"""Attributes of queues as texts: what is read, what is refused in which words, what is shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.attributes import (
    KNOWN,
    asked_for,
    attribute_of,
    changed,
    check_new_name,
    compared_fields,
    read_attributes,
    shown,
)
from broker.names import Resource
from broker.queue_settings import DescribedQueue
from broker.records import QueueSettings

STANDARD = Resource("queue", "000000000000", "us-east-1", "orders")
FIFO = Resource("queue", "000000000000", "us-east-1", "orders.fifo")
DEAD = "arn:aws:sqs:us-east-1:000000000000:dead"
DUMMY = '{"deadLetterTargetArn":"dummy"}'
BAD_TARGET = "for parameter RedrivePolicy is invalid. Reason: Dead-letter target ARN should be fully qualified ARN."


def refusal(queue: Resource, **attributes: str) -> tuple[str, str]:
    with pytest.raises(ServiceError) as caught:
        read_attributes(attributes, queue)
    return caught.value.name, caught.value.message


def visible(settings: QueueSettings, queue: Resource = STANDARD) -> dict[str, str]:
    described = DescribedQueue(
        resource=queue, settings=settings, nonce=1, created_ms=1_999, changed_ms=2_000, implied=False
    )
    return shown(described, KNOWN, None)


def set_to(queue: Resource, **attributes: str) -> dict[str, str]:
    return visible(changed(QueueSettings(fifo=queue.fifo), read_attributes(attributes, queue)), queue)


@pytest.mark.parametrize(
    ("queue", "attributes"),
    [
        (STANDARD, {"DelaySeconds": "900", "VisibilityTimeout": "0", "MessageRetentionPeriod": "1209600"}),
        (STANDARD, {"MaximumMessageSize": "1048576", "ReceiveMessageWaitTimeSeconds": "20"}),
        (
            STANDARD,
            {"KmsMasterKeyId": "alias/k", "KmsDataKeyReusePeriodSeconds": "300", "SqsManagedSseEnabled": "false"},
        ),
        (STANDARD, {"Policy": '{"Statement":{"Effect":"Deny","Principal":"*","Action":"SQS:*"}}'}),
        (STANDARD, {"RedrivePolicy": f'{{"deadLetterTargetArn":"{DEAD}","maxReceiveCount":7}}'}),
        (STANDARD, {"RedriveAllowPolicy": '{"redrivePermission":"allowAll"}'}),
        (STANDARD, {"RedriveAllowPolicy": f'{{"redrivePermission":"byQueue","sourceQueueArns":["{DEAD}"]}}'}),
        (FIFO, {"FifoQueue": "true", "ContentBasedDeduplication": "true"}),
        (FIFO, {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}),
    ],
)
def test_what_is_set_is_shown_as_it_was_given(queue: Resource, attributes: dict[str, str]) -> None:
    assert attributes.items() <= set_to(queue, **attributes).items()


def test_an_empty_text_clears() -> None:
    before = changed(
        QueueSettings(),
        read_attributes({"RedrivePolicy": json.dumps({"deadLetterTargetArn": DEAD}), "KmsMasterKeyId": "k"}, STANDARD),
    )
    assert (before.dead_letter, before.max_receives, before.kms_key) == ("dead", 10, "k")
    names = ("Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId")
    after = changed(before, read_attributes(dict.fromkeys(names, ""), STANDARD))
    assert visible(after).keys().isdisjoint(names)


def test_what_a_queue_does_not_have_is_not_shown() -> None:
    assert visible(QueueSettings()) == {
        "QueueArn": STANDARD.arn,
        "CreatedTimestamp": "1",
        "LastModifiedTimestamp": "2",
        "DelaySeconds": "0",
        "MaximumMessageSize": "1048576",
        "MessageRetentionPeriod": "345600",
        "ReceiveMessageWaitTimeSeconds": "0",
        "VisibilityTimeout": "30",
        "SqsManagedSseEnabled": "true",
    }


@pytest.mark.parametrize(
    ("queue", "attributes", "expected"),
    [
        (STANDARD, {"DelaySeconds": ""}, ("InvalidAttributeValue", "Invalid value for the parameter DelaySeconds.")),
        (STANDARD, {"DelaySeconds": "٣"}, ("InvalidAttributeValue", "Invalid value for the parameter DelaySeconds.")),
        (STANDARD, {"Colour": "red"}, ("InvalidAttributeName", "Unknown Attribute Colour.")),
        (STANDARD, {"All": "1"}, ("InvalidAttributeName", "Unknown Attribute All.")),
        (STANDARD, {"QueueArn": DEAD}, ("InvalidAttributeName", "Unknown Attribute QueueArn.")),
        (STANDARD, {"FifoQueue": "false"}, ("InvalidAttributeName", "Unknown Attribute FifoQueue.")),
        (
            FIFO,
            {"FifoQueue": "false"},
            (
                "InvalidAttributeValue",
                "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
            ),
        ),
        (
            STANDARD,
            {"RedrivePolicy": DUMMY},
            (
                "InvalidParameterValue",
                f"Value {DUMMY} {BAD_TARGET}",
            ),
        ),
    ],
)
def test_what_is_refused_is_refused_in_sqss_words(
    queue: Resource, attributes: dict[str, str], expected: tuple[str, str]
) -> None:
    assert refusal(queue, **attributes) == expected


@pytest.mark.parametrize("text", ["{", "[]", "7", '"x"', "[" * 100_000, '{"redrivePermission":["byQueue"]}'])
@pytest.mark.parametrize("name", ["Policy", "RedrivePolicy", "RedriveAllowPolicy"])
def test_a_policy_that_is_none_is_refused(name: str, text: str) -> None:
    assert refusal(STANDARD, **{name: text})[0] in {"InvalidAttributeValue", "InvalidParameterValue"}


def test_throughput_by_group_needs_the_scope_that_is_set_or_was_set_before() -> None:
    high = read_attributes({"FifoThroughputLimit": "perMessageGroupId"}, FIFO)
    with pytest.raises(ServiceError, match="DeduplicationScope is messageGroup"):
        changed(QueueSettings(fifo=True), high)
    by_group = QueueSettings(fifo=True, deduplication_scope="messageGroup")
    high_by_group = changed(by_group, high)
    assert high_by_group.throughput_limit == "perMessageGroupId"
    with pytest.raises(ServiceError, match="DeduplicationScope is messageGroup"):
        changed(high_by_group, read_attributes({"DeduplicationScope": "queue"}, FIFO))


def test_the_later_kind_of_encryption_replaces_the_earlier() -> None:
    with_key = changed(QueueSettings(), read_attributes({"KmsMasterKeyId": "k"}, STANDARD))
    assert (with_key.kms_key, with_key.managed_sse) == ("k", False)
    managed = changed(with_key, read_attributes({"SqsManagedSseEnabled": "true"}, STANDARD))
    assert (managed.kms_key, managed.managed_sse) == ("", True)


@pytest.mark.parametrize(
    ("name", "attributes", "said"),
    [
        ("x.fifo", {}, "Can only include alphanumeric"),
        ("x.fifo", {"FifoQueue": "false"}, "Can only include alphanumeric"),
        ("x", {"FifoQueue": "true"}, "The name of a FIFO queue"),
    ],
)
def test_a_name_and_its_kind_belong_together(name: str, attributes: dict[str, str], said: str) -> None:
    with pytest.raises(ServiceError, match=said):
        check_new_name(name, attributes, valid=True)


def test_every_field_that_is_compared_belongs_to_an_attribute() -> None:
    settable = KNOWN - {"All", "QueueArn", "CreatedTimestamp", "LastModifiedTimestamp"}
    settable -= {name for name in KNOWN if name.startswith("Approximate")}
    fields = compared_fields(settable)
    ours = {"tags", "durability", "partitions"}
    assert set(fields) == {field.name for field in msgspec.structs.fields(QueueSettings)} - ours
    assert attribute_of("max_receives") == "RedrivePolicy"
    assert attribute_of("visibility_timeout") == "VisibilityTimeout"


def test_all_means_all_and_unknown_names_are_refused() -> None:
    assert asked_for(["All", "DelaySeconds"]) == KNOWN
    assert asked_for(None) == frozenset()
    with pytest.raises(ServiceError, match="Unknown Attribute Colour"):
        asked_for(["All", "Colour"])
