"""CreateQueue, DeleteQueue, GetQueueUrl, ListQueues and PurgeQueue (sqs.md 1 and 3)."""

from __future__ import annotations

import asyncio

import pytest

from broker import Broker
from tests.wire.clients import Sqs
from tests.wire.gateway import Gateway, WireClock

LONGEST = "q" * 80
MAX_LISTED = 1000


def names(sqs: Sqs, **options: object) -> list[str]:
    return [url.rsplit("/", 1)[1] for url in sqs.list_queues(**options).get("QueueUrls", [])]


# -- creating ---------------------------------------------------------------------------------------------------------


def test_a_queues_url_is_the_address_that_the_client_used_with_account_and_name(sqs: Sqs) -> None:
    assert sqs.queue("orders") == f"{sqs.endpoint}/{sqs.account}/orders"


@pytest.mark.parametrize("name", ["a", "A-b_9", LONGEST, "x.fifo", "f" * 75 + ".fifo"])
def test_a_good_name_is_accepted(sqs: Sqs, name: str) -> None:
    assert sqs.queue(name).endswith("/" + name)


@pytest.mark.parametrize("name", ["a b", "a.b", "é", "a/b", LONGEST + "q", "f" * 76 + ".fifo", ".fifo"])
def test_a_bad_name_is_refused(sqs: Sqs, name: str) -> None:
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    refusal = sqs.refusal("create_queue", QueueName=name, Attributes=attributes)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


def test_a_fifo_queues_name_and_its_attribute_belong_together(sqs: Sqs) -> None:
    assert sqs.refusal("create_queue", QueueName="x.fifo").code == "InvalidParameterValue"
    assert sqs.refusal("create_queue", QueueName="x", Attributes={"FifoQueue": "true"}).code == "InvalidParameterValue"


def test_names_are_case_sensitive(sqs: Sqs) -> None:
    assert sqs.queue("Orders") != sqs.queue("orders")
    assert names(sqs) == ["Orders", "orders"]


def test_creating_again_with_the_same_attributes_or_with_none_answers_the_same_url(sqs: Sqs) -> None:
    url = sqs.queue("orders", DelaySeconds="5", VisibilityTimeout="60")
    assert sqs.queue("orders", DelaySeconds="5", VisibilityTimeout="60") == url
    assert sqs.queue("orders", DelaySeconds="5") == url
    assert sqs.queue("orders") == url
    assert sqs.attributes(url)["DelaySeconds"] == "5"


@pytest.mark.parametrize("before", [{}, {"DelaySeconds": "1"}])
def test_creating_again_with_another_value_is_refused_and_changes_nothing(sqs: Sqs, before: dict[str, str]) -> None:
    url = sqs.queue("orders", **before)
    refusal = sqs.refusal("create_queue", QueueName="orders", Attributes={"DelaySeconds": "2"})
    said = "A queue already exists with the same name and a different value for attribute DelaySeconds"
    assert refusal == ("QueueAlreadyExists", said, 400)
    assert sqs.attributes(url)["DelaySeconds"] == before.get("DelaySeconds", "0")


def test_creating_again_compares_with_the_attributes_set_since(sqs: Sqs) -> None:
    url = sqs.queue("orders", DelaySeconds="1")
    sqs.configure(url, DelaySeconds="2")
    assert sqs.queue("orders", DelaySeconds="2") == url
    assert (
        sqs.refusal("create_queue", QueueName="orders", Attributes={"DelaySeconds": "1"}).code == "QueueAlreadyExists"
    )


def test_a_queue_can_be_created_with_tags(sqs: Sqs) -> None:
    url = sqs.create_queue(QueueName="orders", tags={"team": "sales", "empty": ""})["QueueUrl"]
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"team": "sales", "empty": ""}


# -- finding ----------------------------------------------------------------------------------------------------------


def test_a_queues_url_is_found_by_its_name(sqs: Sqs) -> None:
    url = sqs.queue("orders")
    assert sqs.get_queue_url(QueueName="orders")["QueueUrl"] == url
    assert sqs.get_queue_url(QueueName="orders", QueueOwnerAWSAccountId=sqs.account)["QueueUrl"] == url


def test_the_url_of_an_unknown_queue_is_refused(sqs: Sqs) -> None:
    assert sqs.refusal("get_queue_url", QueueName="nothing") == sqs.no_queue


@pytest.mark.parametrize(
    "form",
    [
        "https://sqs.us-east-1.amazonaws.com/{account}/orders",
        "https://queue.amazonaws.com/{account}/orders",
        "https://us-east-1.queue.amazonaws.com/{account}/orders",
        "http://elsewhere:9324/some/path/{account}/orders",
    ],
)
def test_only_the_last_two_parts_of_a_url_count(sqs: Sqs, form: str) -> None:
    url = sqs.queue("orders")
    sqs.send(form.format(account=sqs.account), "found")
    assert sqs.bodies(url) == ["found"]


def test_without_queues_the_list_is_absent(sqs: Sqs) -> None:
    assert "QueueUrls" not in sqs.list_queues()
    sqs.queue("orders")
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="x")


def test_queues_are_listed_by_prefix(sqs: Sqs) -> None:
    for name in ("ab", "abc", "b", "Abc"):
        sqs.queue(name)
    assert sorted(names(sqs)) == ["Abc", "ab", "abc", "b"]
    assert sorted(names(sqs, QueueNamePrefix="ab")) == ["ab", "abc"]


def test_queues_are_listed_in_pages(sqs: Sqs) -> None:
    for number in range(5):
        sqs.queue(f"q{number}")
    found: list[str] = []
    token: dict[str, str] = {}
    for expected in (2, 2, 1):
        page = sqs.list_queues(MaxResults=2, **token)
        assert len(page["QueueUrls"]) == expected
        found += page["QueueUrls"]
        token = {"NextToken": page["NextToken"]} if "NextToken" in page else {}
    assert not token
    assert sorted(url[-2:] for url in found) == ["q0", "q1", "q2", "q3", "q4"]


def test_without_a_page_size_a_thousand_are_listed_and_no_token_is_given(json_sqs: Sqs, gateway: Gateway) -> None:
    async def create(broker: Broker) -> None:
        await asyncio.gather(*(broker.queue(f"q{number:04}").create() for number in range(MAX_LISTED + 1)))

    gateway.run(create, account=json_sqs.account)
    listed = json_sqs.list_queues()
    assert len(listed["QueueUrls"]) == MAX_LISTED
    assert "NextToken" not in listed
    page = json_sqs.list_queues(MaxResults=MAX_LISTED)
    assert len(page["QueueUrls"]) == MAX_LISTED
    assert len(json_sqs.list_queues(MaxResults=MAX_LISTED, NextToken=page["NextToken"])["QueueUrls"]) == 1


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_a_deleted_queue_is_gone_with_its_messages(sqs: Sqs) -> None:
    url = sqs.queue("orders")
    sqs.send(url)
    sqs.delete_queue(QueueUrl=url)
    assert sqs.refusal("send_message", QueueUrl=url, MessageBody="x") == sqs.no_queue
    assert sqs.refusal("get_queue_url", QueueName="orders") == sqs.no_queue
    assert "QueueUrls" not in sqs.list_queues()


def test_a_name_is_free_again_a_minute_after_its_queue_was_deleted(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders", DelaySeconds="7")
    sqs.send(url, "old", DelaySeconds=0)
    sqs.delete_queue(QueueUrl=url)
    refusal = sqs.refusal("create_queue", QueueName="orders")
    assert (refusal.code, refusal.status) == ("AWS.SimpleQueueService.QueueDeletedRecently", 400)
    clock.advance(30)
    assert sqs.refusal("create_queue", QueueName="orders") == refusal
    clock.advance(31)
    assert sqs.queue("orders") == url
    assert sqs.bodies(url) == []
    assert sqs.attributes(url)["DelaySeconds"] == "0"


# -- purging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["orders", "orders.fifo"])
def test_a_purge_deletes_what_is_visible_delayed_and_in_flight(sqs: Sqs, clock: WireClock, name: str) -> None:
    url = sqs.queue(name)
    fifo = name.endswith(".fifo")
    for number in range(3):
        options = {"MessageGroupId": f"g{number}", "MessageDeduplicationId": f"d{number}"} if fifo else {}
        sqs.send(url, str(number), **options)
    if not fifo:
        sqs.send(url, "delayed", DelaySeconds=10)
    assert len(sqs.receive(url, 1)) == 1
    sqs.purge_queue(QueueUrl=url)
    clock.advance(60)
    assert sqs.counts(url) == (0, 0, 0)
    assert sqs.receive(url) == []


def test_a_purged_queue_takes_messages_again(sqs: Sqs) -> None:
    url = sqs.queue()
    sqs.send(url, "before")
    sqs.purge_queue(QueueUrl=url)
    sqs.send(url, "after")
    assert sqs.bodies(url) == ["after"]


def test_one_purge_a_minute_is_allowed(sqs: Sqs, clock: WireClock) -> None:
    url = sqs.queue("orders")
    other = sqs.queue("others")
    sqs.purge_queue(QueueUrl=url)
    refusal = sqs.refusal("purge_queue", QueueUrl=url)
    assert refusal.code == "AWS.SimpleQueueService.PurgeQueueInProgress"
    assert refusal.message == "Only one PurgeQueue operation on orders is allowed every 60 seconds."
    assert refusal.status == 403
    sqs.purge_queue(QueueUrl=other)
    clock.advance(61)
    sqs.purge_queue(QueueUrl=url)
