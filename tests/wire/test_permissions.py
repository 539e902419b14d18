"""AddPermission and RemovePermission: what they write into a queue's policy (sqs.md 2, 3 and 8)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.clients import Sqs

ONE = "111122223333"
TWO = "444455556666"


def root(account: str) -> str:
    return f"arn:aws:iam::{account}:root"


def policy(sqs: Sqs, url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sqs.attributes(url, "Policy")["Policy"])
    return found


def add(sqs: Sqs, url: str, label: str, accounts: list[str], actions: list[str]) -> None:
    sqs.add_permission(QueueUrl=url, Label=label, AWSAccountIds=accounts, Actions=actions)


def test_a_permission_is_a_statement_of_the_policy(sqs: Sqs) -> None:
    url = sqs.queue()
    add(sqs, url, "label", [ONE], ["ReceiveMessage"])
    arn = sqs.arn(url)
    statement = {
        "Sid": "label",
        "Effect": "Allow",
        "Principal": {"AWS": root(ONE)},
        "Action": "SQS:ReceiveMessage",
        "Resource": arn,
    }
    written = policy(sqs, url)
    assert written.pop("Id").startswith(arn + "/")
    assert written == {"Version": "2008-10-17", "Statement": [statement]}


def test_several_accounts_and_actions_are_lists(sqs: Sqs) -> None:
    url = sqs.queue()
    add(sqs, url, "label", [ONE, TWO], ["ReceiveMessage", "DeleteMessage"])
    (statement,) = policy(sqs, url)["Statement"]
    assert statement["Principal"] == {"AWS": [root(ONE), root(TWO)]}
    assert statement["Action"] == ["SQS:ReceiveMessage", "SQS:DeleteMessage"]


def test_all_actions_are_a_star(sqs: Sqs) -> None:
    url = sqs.queue()
    add(sqs, url, "label", [ONE], ["*"])
    assert policy(sqs, url)["Statement"][0]["Action"] == "SQS:*"


def test_permissions_are_added_and_removed_one_by_one(sqs: Sqs) -> None:
    url = sqs.queue()
    add(sqs, url, "a", [ONE], ["SendMessage"])
    add(sqs, url, "b", [TWO], ["SendMessage"])
    assert [statement["Sid"] for statement in policy(sqs, url)["Statement"]] == ["a", "b"]
    sqs.remove_permission(QueueUrl=url, Label="a")
    assert [statement["Sid"] for statement in policy(sqs, url)["Statement"]] == ["b"]
    sqs.remove_permission(QueueUrl=url, Label="b")
    assert "Policy" not in sqs.attributes(url)


def test_a_permission_is_added_to_a_policy_that_was_set(sqs: Sqs) -> None:
    url = sqs.queue()
    statement = {"Sid": "mine", "Effect": "Allow", "Principal": "*", "Action": "SQS:*", "Resource": sqs.arn(url)}
    sqs.configure(url, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    add(sqs, url, "label", [ONE], ["SendMessage"])
    assert [each["Sid"] for each in policy(sqs, url)["Statement"]] == ["mine", "label"]
    sqs.remove_permission(QueueUrl=url, Label="mine")
    assert [each["Sid"] for each in policy(sqs, url)["Statement"]] == ["label"]


def test_a_label_is_used_once(sqs: Sqs) -> None:
    url = sqs.queue()
    add(sqs, url, "label", [ONE], ["SendMessage"])
    arguments = {"Label": "label", "AWSAccountIds": [TWO], "Actions": ["SendMessage"]}
    said = "Value label for parameter Label is invalid. Reason: Already exists."
    assert sqs.refusal("add_permission", QueueUrl=url, **arguments) == ("InvalidParameterValue", said, 400)


def test_an_unknown_label_cannot_be_removed(sqs: Sqs) -> None:
    said = "Value label for parameter Label is invalid. Reason: can't find label."
    refusal = sqs.refusal("remove_permission", QueueUrl=sqs.queue(), Label="label")
    assert refusal == ("InvalidParameterValue", said, 400)


@pytest.mark.parametrize(
    "changed",
    [
        {"Label": "a b"},
        {"Label": "l" * 81},
        {"AWSAccountIds": ["1"]},
        {"Actions": ["Fly"]},
    ],
)
def test_a_bad_permission_is_refused(sqs: Sqs, changed: dict[str, Any]) -> None:
    arguments = {"Label": "label", "AWSAccountIds": [ONE], "Actions": ["SendMessage"]} | changed
    refusal = sqs.refusal("add_permission", QueueUrl=sqs.queue(), **arguments)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


def test_seven_actions_are_the_most(sqs: Sqs) -> None:
    url = sqs.queue()
    eight = [
        "SendMessage",
        "ReceiveMessage",
        "DeleteMessage",
        "ChangeMessageVisibility",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ListDeadLetterSourceQueues",
        "PurgeQueue",
    ]
    arguments = {"Label": "label", "AWSAccountIds": [ONE]}
    refusal = sqs.refusal("add_permission", QueueUrl=url, Actions=eight, **arguments)
    assert refusal.code in {"OverLimit", "InvalidParameterValue"}
    sqs.add_permission(QueueUrl=url, Actions=eight[:7], **arguments)
    assert len(policy(sqs, url)["Statement"][0]["Action"]) == 7
