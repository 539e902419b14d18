"""Whose queue may be used: other accounts with and without access keys, on a real Redis."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker import Broker
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import message_shapes, shapes
from broker.gateway.aws.sqs.dispatch import SQS
from tests.conftest import Clock

OWNER = "000000000000"
OTHER = "111122223333"
BASE = "http://localhost:4566"
URL = f"{BASE}/{OWNER}/orders"
OWNERS_ALONE: dict[str, dict[str, Any]] = {
    "AddPermission": {"label": "l", "account_ids": [OTHER], "actions": ["*"]},
    "DeleteQueue": {},
    "ListQueueTags": {},
    "RemovePermission": {"label": "l"},
    "SetQueueAttributes": {"attributes": {"DelaySeconds": "1"}},
    "TagQueue": {"tags": {"k": "v"}},
    "UntagQueue": {"tag_keys": ["k"]},
}


def call_of(broker: Broker, account: str = OWNER, *, key: str = "") -> Call:
    return Call(broker.within(account, "us-east-1"), account, "us-east-1", BASE, "json", account, key)


async def ask(call: Call, action: str, **parameters: Any) -> Any:
    operation = SQS.operations[action]
    return await operation.run(call, operation.input(**parameters))


async def refusal(call: Call, action: str, **parameters: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        await ask(call, action, **parameters)
    return caught.value.name


@pytest.fixture
async def owner(broker: Broker) -> Call:
    """The owner of a queue, with an access key."""
    call = call_of(broker, key="OWNER")
    await ask(call, "CreateQueue", queue_name="orders")
    return call


async def test_without_keys_everybody_uses_every_queue(broker: Broker, owner: Call) -> None:
    guest = call_of(broker, OTHER)
    await ask(guest, "SendMessage", queue_url=URL, message_body="x")
    await ask(guest, "TagQueue", queue_url=URL, tags={"k": "v"})
    assert (await ask(owner, "ListQueueTags", queue_url=URL)).tags == {"k": "v"}
    received = await ask(owner, "ReceiveMessage", queue_url=URL, attribute_names=["SenderId"])
    assert received.messages[0].attributes == {"SenderId": OTHER}


async def test_with_keys_another_account_needs_a_permission(broker: Broker, owner: Call) -> None:
    guest = call_of(broker, OTHER, key="GUEST")
    assert await refusal(guest, "SendMessage", queue_url=URL, message_body="x") == "AccessDenied"
    await ask(owner, "AddPermission", queue_url=URL, label="l", account_ids=[OTHER], actions=["SendMessage"])
    await ask(guest, "SendMessage", queue_url=URL, message_body="x")
    entry = message_shapes.SendMessageBatchRequestEntry(id="a", message_body="x")
    await ask(guest, "SendMessageBatch", queue_url=URL, entries=[entry])
    assert await refusal(guest, "ReceiveMessage", queue_url=URL) == "AccessDenied"
    await ask(owner, "RemovePermission", queue_url=URL, label="l")
    assert await refusal(guest, "SendMessage", queue_url=URL, message_body="x") == "AccessDenied"


@pytest.mark.parametrize("action", OWNERS_ALONE)
async def test_some_actions_are_the_owners_alone(broker: Broker, owner: Call, action: str) -> None:
    await ask(owner, "AddPermission", queue_url=URL, label="all", account_ids=[OTHER], actions=["*"])
    guest = call_of(broker, OTHER, key="GUEST")
    assert await refusal(guest, action, queue_url=URL, **OWNERS_ALONE[action]) == "AccessDenied"


async def test_the_url_of_another_accounts_queue_is_for_those_who_may_have_it(broker: Broker, owner: Call) -> None:
    guest = call_of(broker, OTHER, key="GUEST")
    assert await refusal(guest, "GetQueueUrl", queue_name="orders") == "QueueDoesNotExist"
    assert await refusal(guest, "GetQueueUrl", queue_name="orders", queue_owner=OWNER) == "AccessDenied"
    await ask(owner, "AddPermission", queue_url=URL, label="l", account_ids=[OTHER], actions=["GetQueueUrl"])
    assert (await ask(guest, "GetQueueUrl", queue_name="orders", queue_owner=OWNER)).queue_url == URL


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("", "MissingParameter"),
        ("orders", "InvalidAddress"),
        (f"{BASE}/orders", "InvalidAddress"),
        (f"{BASE}/{OWNER}/", "InvalidAddress"),
        (f"{BASE}/{OWNER}/a b", "QueueDoesNotExist"),
        (f"{BASE}/{OWNER}/nothing", "QueueDoesNotExist"),
        (f"{BASE}/{'x' * 5_000}/{OWNER}/orders", "InvalidAddress"),
    ],
)
async def test_a_url_that_names_no_queue_is_refused(owner: Call, url: str, name: str) -> None:
    assert await refusal(owner, "SendMessage", queue_url=url, message_body="x") == name


async def test_an_unknown_queue_is_told_in_the_words_of_the_protocol(broker: Broker) -> None:
    for protocol, words in (("json", "exist."), ("query", "exist for this wsdl version.")):
        call = msgspec.structs.replace(call_of(broker), protocol=protocol)
        with pytest.raises(ServiceError, match=words):
            await ask(call, "ReceiveMessage", queue_url=URL)


async def test_a_name_that_is_not_free_yet_is_not_listed(owner: Call, clock: Clock) -> None:
    await ask(owner, "DeleteQueue", queue_url=URL)
    assert await refusal(owner, "CreateQueue", queue_name="orders") == "QueueDeletedRecently"
    assert await ask(owner, "ListQueues") == shapes.ListQueuesResult()
    await clock.advance(61)
    await ask(owner, "CreateQueue", queue_name="orders")
    assert (await ask(owner, "ListQueues")).queue_urls == [URL]


async def test_a_change_does_not_make_a_deleted_dead_letter_queue_again(owner: Call) -> None:
    await ask(owner, "CreateQueue", queue_name="dead")
    policy = f'{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:{OWNER}:dead","maxReceiveCount":1}}'
    await ask(owner, "SetQueueAttributes", queue_url=URL, attributes={"RedrivePolicy": policy})
    await ask(owner, "DeleteQueue", queue_url=f"{BASE}/{OWNER}/dead")
    await ask(owner, "TagQueue", queue_url=URL, tags={"k": "v"})
    assert (await ask(owner, "ListQueues")).queue_urls == [URL]
