"""Policies of queues: what they allow, and how statements are added and removed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.policies import check_policy_text, judge, with_permission, without_permission

ARN = "arn:aws:sqs:us-east-1:000000000000:orders"
ONE = "111122223333"
KEY = "AKIAIOSFODNN7EXAMPLE"
USER = f"arn:aws:iam::{ONE}:user/{KEY}"
ROOT = f"arn:aws:iam::{ONE}:root"
ALLOW: dict[str, Any] = {"Effect": "Allow", "Principal": "*", "Action": "SQS:*", "Resource": ARN}
DENY = ALLOW | {"Effect": "Deny"}
NO_PRINCIPAL = {name: value for name, value in ALLOW.items() if name != "Principal"}


def judged(*statements: dict[str, Any], action: str = "SendMessage") -> str:
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    return judge(json.dumps(policy), account=ONE, key_id=KEY, action=action, arn=ARN)


@pytest.mark.parametrize(
    "principal", ["*", {"AWS": "*"}, {"AWS": ONE}, {"AWS": ROOT}, {"AWS": ["x", ROOT]}, {"AWS": USER}]
)
@pytest.mark.parametrize(
    "action", ["SQS:SendMessage", "sqs:sendmessage", "sqs:*", "*", "SQS:Send*", ["x", "sqs:S?nd*"]]
)
@pytest.mark.parametrize("resource", [ARN, "*", "arn:aws:sqs:*:*:ord*", ["x", ARN]])
def test_a_statement_allows_whom_what_and_where_it_says(principal: object, action: object, resource: object) -> None:
    assert judged(ALLOW | {"Principal": principal, "Action": action, "Resource": resource}) == "allowed"


@pytest.mark.parametrize(
    "changed",
    [
        {"Principal": {"AWS": "444455556666"}},
        {"Principal": {"AWS": f"arn:aws:iam::{ONE}:user/u"}},
        {"Principal": {"Service": "*"}},
        {"Principal": []},
        {"Action": "SQS:ReceiveMessage"},
        {"Action": "SendMessage"},
        {"Action": 1},
        {"Resource": ARN + "-not"},
        {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
    ],
)
def test_a_statement_allows_nothing_else(changed: dict[str, object]) -> None:
    assert judged(ALLOW | changed) == "not said"


def test_without_a_policy_nothing_is_said() -> None:
    assert judge("", account=ONE, key_id=KEY, action="SendMessage", arn=ARN) == "not said"


@pytest.mark.parametrize("deny", [DENY, DENY | {"Condition": {"Bool": {"x": "y"}}}, DENY | {"Action": "sqs:send*"}])
def test_a_deny_wins_wherever_it_stands(deny: dict[str, Any]) -> None:
    assert judged(ALLOW, deny) == judged(deny, ALLOW) == "denied"


@pytest.mark.parametrize(
    "principal",
    [USER, f"arn:aws:iam::{ONE}:user/somebody", f"arn:aws:iam::{ONE}:role/r", f"arn:aws:sts::{ONE}:assumed-role/r/s"],
)
def test_a_deny_for_anybody_of_an_account_is_one_for_its_keys(principal: str) -> None:
    assert judged(ALLOW, DENY | {"Principal": {"AWS": principal}}) == "denied"


@pytest.mark.parametrize("principal", ["arn:aws:iam::444455556666:user/u", "arn:aws:iam", "AIDAEXAMPLE"])
def test_a_deny_for_somebody_else_does_not_matter(principal: str) -> None:
    assert judged(ALLOW, DENY | {"Principal": {"AWS": principal}}) == "allowed"


def test_a_deny_for_all_but_one_user_spares_that_user_alone() -> None:
    def but(user: str) -> dict[str, Any]:
        return NO_PRINCIPAL | {"NotPrincipal": {"AWS": f"arn:aws:iam::{ONE}:user/{user}"}, "Effect": "Deny"}

    assert judged(ALLOW, but(KEY)) == "allowed"
    assert judged(ALLOW, but("somebody")) == "denied"


def test_a_deny_of_something_else_does_not_matter() -> None:
    assert judged(ALLOW, DENY | {"Action": "sqs:ReceiveMessage"}) == "allowed"


def test_not_forms_deny_but_never_allow() -> None:
    others = {"NotPrincipal": {"AWS": "444455556666"}}
    assert judged(NO_PRINCIPAL | others) == "not said"
    assert judged(ALLOW, NO_PRINCIPAL | others | {"Effect": "Deny"}) == "denied"
    assert judged(ALLOW, NO_PRINCIPAL | {"NotPrincipal": {"AWS": ONE}, "Effect": "Deny"}) == "allowed"


def test_a_pattern_with_many_stars_is_quick() -> None:
    assert judged(ALLOW | {"Resource": "*a" * 2_000 + "b"}) == "not said"


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"Statement": []},
        {"Statement": [7]},
        {"Statement": ALLOW | {"Effect": "Maybe"}},
        {"Statement": NO_PRINCIPAL},
        {"Statement": {"Effect": "Allow", "Principal": "*"}},
        {"Statement": ALLOW, "Id": "x" * 9_000},
    ],
)
def test_what_is_no_policy_is_refused(policy: dict[str, object]) -> None:
    with pytest.raises(ServiceError, match="Invalid value for the parameter Policy"):
        check_policy_text(json.dumps(policy))


def test_twenty_statements_are_the_most() -> None:
    check_policy_text(json.dumps({"Statement": [ALLOW] * 20}))
    with pytest.raises(ServiceError, match="21 statements were found") as caught:
        check_policy_text(json.dumps({"Statement": [ALLOW] * 21}))
    assert caught.value.name == "OverLimit"


def permitted(text: str, label: str) -> str:
    return with_permission(text, arn=ARN, label=label, accounts=[ONE], actions=["SendMessage"])


def test_a_permission_is_written_as_sqs_writes_it_and_allows() -> None:
    text = permitted("", "mine")
    assert json.loads(text) == {
        "Version": "2008-10-17",
        "Id": f"{ARN}/SQSDefaultPolicy",
        "Statement": [
            {
                "Sid": "mine",
                "Effect": "Allow",
                "Principal": {"AWS": ROOT},
                "Action": "SQS:SendMessage",
                "Resource": ARN,
            }
        ],
    }
    assert judge(text, account=ONE, key_id=KEY, action="SendMessage", arn=ARN) == "allowed"
    assert judge(text, account=ONE, key_id=KEY, action="ReceiveMessage", arn=ARN) == "not said"


def test_permissions_go_by_their_labels() -> None:
    both = permitted(permitted("", "a"), "b")
    with pytest.raises(ServiceError, match=r"Value a for parameter Label is invalid\. Reason: Already exists\."):
        permitted(both, "a")
    assert without_permission(without_permission(both, "a"), "b") == ""
    with pytest.raises(ServiceError, match=r"Value c for parameter Label is invalid\. Reason: can't find label\."):
        without_permission(both, "c")


def test_permissions_add_up_to_twenty_statements() -> None:
    text = ""
    for number in range(20):
        text = permitted(text, f"l{number}")
    with pytest.raises(ServiceError, match="21 statements"):
        permitted(text, "one-more")
