"""TagQueue, UntagQueue and ListQueueTags (sqs.md 3)."""

from __future__ import annotations

import pytest

from tests.wire.clients import Sqs


def test_without_tags_the_map_is_absent(sqs: Sqs) -> None:
    assert "Tags" not in sqs.list_queue_tags(QueueUrl=sqs.queue())


def test_tags_are_added_replaced_and_removed(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.tag_queue(QueueUrl=url, Tags={"a": "1", "b": "", "é ü": "ß/+@"})
    sqs.tag_queue(QueueUrl=url, Tags={"a": "2", "c": "3"})
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"a": "2", "b": "", "c": "3", "é ü": "ß/+@"}
    sqs.untag_queue(QueueUrl=url, TagKeys=["a", "c", "unknown"])
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"b": "", "é ü": "ß/+@"}
    sqs.untag_queue(QueueUrl=url, TagKeys=["b", "é ü"])
    assert "Tags" not in sqs.list_queue_tags(QueueUrl=url)


def test_keys_are_case_sensitive(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.tag_queue(QueueUrl=url, Tags={"Key": "1", "key": "2"})
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"Key": "1", "key": "2"}


def test_fifty_tags_are_the_most(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.tag_queue(QueueUrl=url, Tags={f"k{number}": "v" for number in range(50)})
    refusal = sqs.refusal("tag_queue", QueueUrl=url, Tags={"one more": "v"})
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
    sqs.tag_queue(QueueUrl=url, Tags={"k0": "another value"})
    assert len(sqs.list_queue_tags(QueueUrl=url)["Tags"]) == 50


@pytest.mark.parametrize("tags", [{"k" * 129: "v"}, {"k": "v" * 257}, {"": "v"}])
def test_a_bad_tag_is_refused(sqs: Sqs, tags: dict[str, str]) -> None:
    refusal = sqs.refusal("tag_queue", QueueUrl=sqs.queue(), Tags=tags)
    assert refusal.code in {"InvalidParameterValue", "MissingParameter"}
    assert refusal.status == 400


def test_creating_a_queue_again_leaves_its_tags(sqs: Sqs) -> None:
    url = sqs.create_queue(QueueName="orders", tags={"a": "1"})["QueueUrl"]
    assert sqs.create_queue(QueueName="orders")["QueueUrl"] == url
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"a": "1"}
