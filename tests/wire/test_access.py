"""A gateway with access keys: signatures of both clients are checked, and a key is its account."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker.embedded import EmbeddedRedis
from broker.gateway.access import AccessKey
from broker.settings import Settings
from tests.wire.clients import Boto3, Sqs, WireProtocol
from tests.wire.gateway import Gateway, running_gateway

KEY = "AKIAIOSFODNN7EXAMPLE"
RIGHT = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
OTHER_KEY = "AKIAI44QH8DHBEXAMPLE"

Connect = Callable[..., Sqs]


def other_than(account: str) -> str:
    return str(int(account) + 500_000_000_000)


@pytest.fixture
def guarded(redis_server: EmbeddedRedis, wire_settings: Settings, account: str) -> Iterator[Gateway]:
    keys = AccessKey(KEY, RIGHT, account), AccessKey(OTHER_KEY, RIGHT, other_than(account))
    with running_gateway(redis_server.url, wire_settings, *keys) as running:
        yield running


def test_the_right_secret_is_let_in_to_its_account(
    connect: Connect, protocol: WireProtocol, guarded: Gateway, account: str
) -> None:
    sqs = connect(protocol, KEY, at=guarded, secret=RIGHT)
    url = sqs.queue("orders")
    assert url.endswith(f"/{account}/orders")
    sqs.send(url, "é <&> \n" * 100, MessageAttributes={"k": {"DataType": "Binary", "BinaryValue": b"\xff"}})
    assert sqs.bodies(url) == ["é <&> \n" * 100]


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [(KEY, "wrong", "SignatureDoesNotMatch"), ("AKIAUNKNOWN", RIGHT, "InvalidClientTokenId")],
)
def test_a_wrong_secret_or_key_gets_the_services_own_error(
    connect: Connect, protocol: WireProtocol, guarded: Gateway, key: str, secret: str, code: str
) -> None:
    refusal = connect(protocol, key, at=guarded, secret=secret).refusal("create_queue", QueueName="orders")
    assert (refusal.code, refusal.status) == (code, 403)


def test_a_number_is_no_key_where_there_are_keys(
    connect: Connect, protocol: WireProtocol, guarded: Gateway, account: str
) -> None:
    assert connect(protocol, account, at=guarded).refusal("list_queues").code == "InvalidClientTokenId"


def test_a_caller_is_told_its_account_and_key(guarded: Gateway, account: str) -> None:
    with Boto3(guarded.url, KEY, service="sts", secret=RIGHT) as sts:
        identity = sts("get_caller_identity", {})
    assert (identity["Account"], identity["UserId"]) == (account, KEY)


def test_a_queue_of_another_account_can_be_used_as_far_as_its_policy_says(
    connect: Connect, protocol: WireProtocol, guarded: Gateway, account: str
) -> None:
    mine = connect(protocol, KEY, at=guarded, secret=RIGHT)
    theirs = connect(protocol, OTHER_KEY, at=guarded, secret=RIGHT)
    url = mine.queue("orders")
    assert theirs.refusal("send_message", QueueUrl=url, MessageBody="x")[::2] == ("AccessDenied", 403)
    allowed = {"AWSAccountIds": [other_than(account)], "Actions": ["SendMessage"]}
    mine.add_permission(QueueUrl=url, Label="l", **allowed)
    theirs.send(url, "let in")
    assert mine.bodies(url) == ["let in"]
    assert theirs.refusal("receive_message", QueueUrl=url).code == "AccessDenied"
    assert theirs.refusal("delete_queue", QueueUrl=url).code == "AccessDenied"
    mine.remove_permission(QueueUrl=url, Label="l")
    assert theirs.refusal("send_message", QueueUrl=url, MessageBody="x").code == "AccessDenied"
