"""Accounts and regions: whose queues a client sees, and who it is told to be."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.wire.clients import Boto3, Sqs, WireProtocol
from tests.wire.gateway import Gateway

DEFAULT_ACCOUNT = "000000000000"
_names = itertools.count()

Connect = Callable[..., Sqs]


def test_accounts_do_not_see_each_others_queues(connect: Connect, protocol: WireProtocol, account: str) -> None:
    mine, theirs = connect(protocol, account), connect(protocol, str(int(account) + 500_000_000_000))
    url = mine.queue("orders")
    assert theirs.refusal("get_queue_url", QueueName="orders") == theirs.no_queue
    assert "QueueUrls" not in theirs.list_queues()
    assert theirs.queue("orders") != url
    mine.send(url, "mine")
    assert theirs.receive(theirs.queue("orders")) == []


def test_regions_do_not_see_each_others_queues(connect: Connect, protocol: WireProtocol, account: str) -> None:
    here, there = connect(protocol, account), connect(protocol, account, region="eu-west-1")
    here.send(here.queue("orders"), "here")
    assert there.refusal("get_queue_url", QueueName="orders") == there.no_queue
    url = there.queue("orders")
    assert there.receive(url) == []
    assert there.attributes(url, "QueueArn") == {"QueueArn": f"arn:aws:sqs:eu-west-1:{account}:orders"}


def test_both_protocols_see_the_same_queues(connect: Connect, account: str) -> None:
    new, old = connect("json", account), connect("query", account)
    url = new.queue("orders")
    assert old.get_queue_url(QueueName="orders")["QueueUrl"] == url
    new.send(url, "from json")
    old.send(url, "from query")
    assert sorted(old.bodies(url)) == ["from json", "from query"]


@pytest.mark.parametrize("key", ["AKIAIOSFODNN7EXAMPLE", "test", "12345", "1234567890123"])
def test_a_key_that_is_no_account_means_the_default_one(
    connect: Connect, protocol: WireProtocol, key: str, account: str
) -> None:
    name = f"q{account}-{next(_names)}"
    url = connect(protocol, key).queue(name)
    assert url.endswith(f"/{DEFAULT_ACCOUNT}/{name}")
    assert connect(protocol, DEFAULT_ACCOUNT).get_queue_url(QueueName=name)["QueueUrl"] == url


@pytest.mark.parametrize("whose", ["own", "default"])
def test_a_caller_is_told_who_it_is(gateway: Gateway, account: str, whose: str) -> None:
    key, expected = (account, account) if whose == "own" else ("AKIAIOSFODNN7EXAMPLE", DEFAULT_ACCOUNT)
    with Boto3(gateway.url, key, service="sts") as sts:
        identity = sts("get_caller_identity", {})
    assert identity["Account"] == expected
    assert f":{expected}:" in identity["Arn"]
    assert identity["UserId"]


@pytest.mark.parametrize("whose", ["url", "owner"])
def test_without_access_keys_a_queue_of_another_account_can_be_used_by_its_url(
    connect: Connect, protocol: WireProtocol, account: str, whose: str
) -> None:
    mine, theirs = connect(protocol, account), connect(protocol, str(int(account) + 500_000_000_000))
    url = mine.queue("orders")
    if whose == "owner":
        url = theirs.get_queue_url(QueueName="orders", QueueOwnerAWSAccountId=account)["QueueUrl"]
    theirs.send(url, "from another account")
    (message,) = mine.receive(url)
    assert message["Attributes"]["SenderId"] == theirs.account
