"""Redrive: when a message becomes a dead letter, what it keeps, and which queue may be whose (sqs.md 4, 5, 7 and 8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

WAIT_S = 10
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793"
ATTRIBUTES = {"k": {"DataType": "String", "StringValue": "v"}}


def redrive_policy(arn: str, count: object = 1) -> str:
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": count})


def pair(sqs: Sqs, suffix: str = "", *, count: int = 1, **attributes: str) -> tuple[str, str]:
    """A source and its dead-letter queue, both with messages that are visible again at once."""
    dead = sqs.queue("dead" + suffix, **attributes)
    policy = redrive_policy(sqs.arn(dead), count)
    return sqs.queue("source" + suffix, VisibilityTimeout="0", RedrivePolicy=policy, **attributes), dead


def dead_letters(sqs: Sqs, dead: str, count: int = 10) -> list[dict[str, Any]]:
    """What has arrived, waiting for the first of it."""
    return sqs.receive(dead, count, WaitTimeSeconds=WAIT_S, MessageAttributeNames=["All"])


# -- moving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_message_moves_when_its_receives_would_exceed_the_maximum(sqs: Sqs, count: int) -> None:
    source, dead = pair(sqs, count=count)
    sqs.send(source)
    for _ in range(count):
        assert sqs.bodies(source) == ["x"]
        assert sqs.counts(dead) == (0, 0, 0)
    assert sqs.bodies(source) == []
    assert [message["Body"] for message in dead_letters(sqs, dead)] == ["x"]
    assert sqs.counts(source) == (0, 0, 0)


def test_a_message_that_is_deleted_in_time_does_not_move(sqs: Sqs) -> None:
    source, dead = pair(sqs)
    sqs.send(source)
    (message,) = sqs.receive(source)
    sqs.delete(source, message)
    assert sqs.receive(source) == []
    assert sqs.counts(dead) == (0, 0, 0)


def test_a_dead_letter_keeps_what_it_was_and_goes_on_counting(sqs: Sqs) -> None:
    source, dead = pair(sqs)
    header = {"AWSTraceHeader": {"DataType": "String", "StringValue": TRACE}}
    sent = sqs.send(source, "body", MessageAttributes=ATTRIBUTES, MessageSystemAttributes=header)
    (before,) = sqs.receive(source)
    assert sqs.receive(source) == []
    (after,) = dead_letters(sqs, dead)
    assert (after["MessageId"], after["Body"], after["MessageAttributes"]) == (sent["MessageId"], "body", ATTRIBUTES)
    told = after["Attributes"]
    assert told["SentTimestamp"] == before["Attributes"]["SentTimestamp"]
    assert told["AWSTraceHeader"] == TRACE
    assert told["DeadLetterQueueSourceArn"] == sqs.arn(source)
    assert told["SenderId"] == sqs.account
    assert (before["Attributes"]["ApproximateReceiveCount"], told["ApproximateReceiveCount"]) == ("1", "2")


def test_a_fifo_message_keeps_its_group_and_lets_the_group_go_on(sqs: Sqs) -> None:
    source, dead = pair(sqs, ".fifo", ContentBasedDeduplication="true")
    for body in ("a1", "a2"):
        sqs.send(source, body, MessageGroupId="a")
    assert sqs.bodies(source, 1) == ["a1"]
    assert sqs.bodies(source, 1) == ["a2"]
    (letter,) = dead_letters(sqs, dead)
    assert (letter["Body"], letter["Attributes"]["MessageGroupId"]) == ("a1", "a")
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == sqs.arn(source)


def test_messages_of_a_group_keep_their_order_in_the_dead_letter_queue(sqs: Sqs) -> None:
    source, dead = pair(sqs, ".fifo", ContentBasedDeduplication="true")
    bodies = [f"a{number}" for number in range(5)]
    for body in bodies:
        sqs.send(source, body, MessageGroupId="a")
    assert sqs.bodies(source) == bodies
    assert sqs.bodies(source) == []
    found: list[str] = []
    while len(found) < len(bodies) and (letters := dead_letters(sqs, dead, 1)):
        found += [letter["Body"] for letter in letters]
        sqs.delete(dead, letters[0])
    assert found == bodies


@pytest.mark.parametrize(("suffix", "kept"), [("", False), (".fifo", True)])
def test_retention_goes_on_in_a_standard_dead_letter_queue_and_begins_anew_in_a_fifo_one(
    sqs: Sqs, clock: WireClock, suffix: str, *, kept: bool
) -> None:
    source, dead = pair(sqs, suffix)
    sqs.configure(dead, MessageRetentionPeriod="600", VisibilityTimeout="0")
    sqs.send(source, **({"MessageGroupId": "g", "MessageDeduplicationId": "d"} if suffix else {}))
    clock.advance(500)
    assert sqs.bodies(source) == ["x"]
    assert sqs.bodies(source) == []
    assert len(dead_letters(sqs, dead)) == 1
    clock.advance(200)
    assert sqs.bodies(dead) == (["x"] if kept else [])


def test_without_a_policy_a_message_is_received_for_ever(sqs: Sqs) -> None:
    source, dead = pair(sqs)
    sqs.configure(source, RedrivePolicy="")
    assert "RedrivePolicy" not in sqs.attributes(source)
    sqs.send(source)
    for _ in range(5):
        assert sqs.bodies(source) == ["x"]
    assert sqs.counts(dead) == (0, 0, 0)


def test_a_policy_that_is_lowered_later_holds_for_messages_that_are_there(sqs: Sqs) -> None:
    source, dead = pair(sqs, count=100)
    sqs.send(source)
    for _ in range(3):
        assert sqs.bodies(source) == ["x"]
    sqs.configure(source, RedrivePolicy=redrive_policy(sqs.arn(dead), 2))
    assert sqs.bodies(source) == []
    assert len(dead_letters(sqs, dead)) == 1


# -- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 1000, "5"])
def test_a_policy_is_kept_whether_its_count_is_a_number_or_text(sqs: Sqs, count: object) -> None:
    dead = sqs.queue("dead")
    source = sqs.queue("source", RedrivePolicy=redrive_policy(sqs.arn(dead), count))
    kept = json.loads(sqs.attributes(source, "RedrivePolicy")["RedrivePolicy"])
    assert kept["deadLetterTargetArn"] == sqs.arn(dead)
    assert int(kept["maxReceiveCount"]) == int(str(count))


def test_without_a_count_ten_receives_are_the_maximum(sqs: Sqs) -> None:
    dead = sqs.queue("dead")
    policy = json.dumps({"deadLetterTargetArn": sqs.arn(dead)})
    source = sqs.queue("source", VisibilityTimeout="0", RedrivePolicy=policy)
    sqs.send(source)
    for _ in range(10):
        assert sqs.bodies(source) == ["x"]
    assert sqs.bodies(source) == []


ARN = "arn:aws:sqs:us-east-1:{account}:dead"


@pytest.mark.parametrize(
    "policy",
    [
        {"deadLetterTargetArn": ARN, "maxReceiveCount": 0},
        {"deadLetterTargetArn": ARN, "maxReceiveCount": 1001},
        {"deadLetterTargetArn": ARN, "maxReceiveCount": "many"},
        {"deadLetterTargetArn": ARN, "maxReceiveCount": 1.5},
        {"maxReceiveCount": 1},
        {"deadLetterTargetArn": "dummy", "maxReceiveCount": 1},
        {"deadLetterTargetArn": ARN.replace("dead", "nothing"), "maxReceiveCount": 1},
        {"deadLetterTargetArn": ARN.replace("us-east-1", "eu-west-1"), "maxReceiveCount": 1},
        {"deadLetterTargetArn": ARN.format(account="999999999999"), "maxReceiveCount": 1},
        {"deadLetterTargetArn": ARN.replace("dead", "dead.fifo"), "maxReceiveCount": 1},
        {"deadLetterTargetArn": ARN, "maxReceiveCount": 1, "more": 1},
    ],
)
def test_a_bad_redrive_policy_is_refused(sqs: Sqs, policy: dict[str, object]) -> None:
    sqs.queue("dead")
    sqs.queue("dead.fifo")
    url = sqs.queue("source")
    text = json.dumps(policy).replace("{account}", sqs.account)
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=url, Attributes={"RedrivePolicy": text})
    assert refusal.code in {"InvalidParameterValue", "InvalidAttributeValue"}
    assert refusal.status == 400
    assert sqs.refusal("create_queue", QueueName="another", Attributes={"RedrivePolicy": text}) == refusal


@pytest.mark.parametrize("elsewhere", ["region", "account"])
def test_a_dead_letter_queue_is_in_the_same_account_and_region(
    sqs: Sqs, connect: Callable[..., Sqs], elsewhere: str
) -> None:
    other = str(int(sqs.account) + 500_000_000_000) if elsewhere == "account" else sqs.account
    there = connect(sqs.protocol, other, region="eu-west-1" if elsewhere == "region" else "us-east-1")
    arn = there.attributes(there.queue("dead"), "QueueArn")["QueueArn"]
    sqs.queue("dead")
    refusal = sqs.refusal("create_queue", QueueName="source", Attributes={"RedrivePolicy": redrive_policy(arn)})
    assert refusal.code in {"InvalidParameterValue", "InvalidAttributeValue"}


def test_a_fifo_queue_has_a_fifo_dead_letter_queue(sqs: Sqs) -> None:
    text = redrive_policy(sqs.arn(sqs.queue("dead")))
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=sqs.queue("s.fifo"), Attributes={"RedrivePolicy": text})
    assert refusal.code in {"InvalidParameterValue", "InvalidAttributeValue"}


# -- who may use a queue for its dead letters -------------------------------------------------------------------------


def allow(permission: str, *arns: str) -> str:
    return json.dumps({"redrivePermission": permission} | ({"sourceQueueArns": list(arns)} if arns else {}))


@pytest.mark.parametrize(
    ("permission", "suffix", "allowed"),
    [("allowAll", None, True), ("denyAll", None, False), ("byQueue", "", True), ("byQueue", "-not", False)],
)
def test_a_queue_says_whose_dead_letters_it_takes(
    sqs: Sqs, permission: str, suffix: str | None, *, allowed: bool
) -> None:
    source, dead = sqs.queue("source"), sqs.queue("dead")
    policy = allow(permission) if suffix is None else allow(permission, sqs.arn(source) + suffix)
    sqs.configure(dead, RedriveAllowPolicy=policy)
    assert json.loads(sqs.attributes(dead)["RedriveAllowPolicy"]) == json.loads(policy)
    wanted = {"RedrivePolicy": redrive_policy(sqs.arn(dead))}
    if allowed:
        sqs.set_queue_attributes(QueueUrl=source, Attributes=wanted)
    else:
        refusal = sqs.refusal("set_queue_attributes", QueueUrl=source, Attributes=wanted)
        assert refusal.code in {"InvalidParameterValue", "InvalidAttributeValue"}


@pytest.mark.parametrize(
    "policy",
    [
        {"redrivePermission": "maybe"},
        {"redrivePermission": "byQueue"},
        {
            "redrivePermission": "byQueue",
            "sourceQueueArns": [f"arn:aws:sqs:us-east-1:{{account}}:q{n}" for n in range(11)],
        },
        {"redrivePermission": "denyAll", "sourceQueueArns": ["arn:aws:sqs:us-east-1:{account}:q"]},
        {"redrivePermission": "byQueue", "sourceQueueArns": ["dummy"]},
        {"sourceQueueArns": []},
    ],
)
def test_a_bad_redrive_allow_policy_is_refused(sqs: Sqs, policy: dict[str, object]) -> None:
    text = json.dumps(policy).replace("{account}", sqs.account)
    refusal = sqs.refusal("set_queue_attributes", QueueUrl=sqs.queue(), Attributes={"RedriveAllowPolicy": text})
    assert refusal.code in {"InvalidParameterValue", "InvalidAttributeValue"}
    assert refusal.status == 400


# -- listing ----------------------------------------------------------------------------------------------------------


def sources(sqs: Sqs, dead: str, **options: object) -> list[str]:
    urls: list[str] = sqs.list_dead_letter_source_queues(QueueUrl=dead, **options).get("queueUrls", [])
    return sorted(urls)


def test_the_sources_of_a_dead_letter_queue_are_listed(sqs: Sqs) -> None:
    dead, other = sqs.queue("dead"), sqs.queue("other")
    assert sources(sqs, dead) == []
    expected = [sqs.queue(f"s{number}", RedrivePolicy=redrive_policy(sqs.arn(dead))) for number in range(3)]
    sqs.queue("elsewhere", RedrivePolicy=redrive_policy(sqs.arn(other)))
    assert sources(sqs, dead) == expected
    sqs.configure(expected[0], RedrivePolicy="")
    sqs.delete_queue(QueueUrl=expected[1])
    assert sources(sqs, dead) == expected[2:]


def test_the_sources_are_listed_in_pages(sqs: Sqs) -> None:
    dead = sqs.queue("dead")
    expected = [sqs.queue(f"s{number}", RedrivePolicy=redrive_policy(sqs.arn(dead))) for number in range(3)]
    first = sqs.list_dead_letter_source_queues(QueueUrl=dead, MaxResults=2)
    rest = sqs.list_dead_letter_source_queues(QueueUrl=dead, MaxResults=2, NextToken=first["NextToken"])
    assert sorted(first["queueUrls"] + rest["queueUrls"]) == expected
    assert len(first["queueUrls"]) == 2
    assert "NextToken" not in rest
