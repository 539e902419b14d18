"""Which queue a call means, and whether whoever calls may use it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from broker.core import Core
from broker.errors import InvalidName
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs.errors import missing, unknown_queue
from broker.gateway.aws.sqs.policies import judge
from broker.names import Resource, check_name
from broker.queue_settings import describe_queue

_PLACE: Final = re.compile(r"(?:.*/)?([0-9]{12})/([^/]+)/?", re.DOTALL)
_MAX_URL: Final = 2_048
_CACHED_URLS: Final = 4_096
_BATCHES: Final = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}


async def usable_queue(call: Call, url: str, action: str) -> Resource:
    """The queue that a URL names, by its last two parts: account and name.

    A queue of another account may be used without access keys; with them, where its Policy allows it. Raises
    MissingParameter, InvalidAddress, QueueDoesNotExist, AccessDenied.
    """
    queue = named_queue(call, url)
    if queue.account != call.account and call.key_id:
        await check_policy(call, queue, action)
    return queue


def own_queue(call: Call, url: str, action: str) -> Resource:
    """The same for actions that are for the queue's own account, whatever its Policy says."""
    queue = named_queue(call, url)
    check_own(call, queue, action)
    return queue


def check_own(call: Call, queue: Resource, action: str) -> None:
    """Raises AccessDenied for another account's queue, where there are access keys."""
    if queue.account != call.account and call.key_id:
        raise _denied(call, queue, action, "no resource-based policy allows")


def named_queue(call: Call, url: str) -> Resource:
    """The queue that a URL names. Raises MissingParameter, InvalidAddress, QueueDoesNotExist."""
    if not url:
        raise missing("QueueUrl")
    place = _place(url) if len(url) <= _MAX_URL else None
    if place is None:
        raise ServiceError("InvalidAddress", f"The address {url[:_MAX_URL]} is not valid for this endpoint.")
    account, name = place
    if not name:
        raise unknown_queue(call.protocol)
    return Resource("queue", account, call.region, name)


@lru_cache(maxsize=_CACHED_URLS)
def _place(url: str) -> tuple[str, str] | None:
    """Account and name, '' for a name that no queue can have; None for what is no queue's URL."""
    found = _PLACE.fullmatch(url)
    if found is None:
        return None
    try:
        return found[1], check_name("queue", found[2])
    except InvalidName:
        return found[1], ""


async def check_policy(call: Call, queue: Resource, action: str) -> None:
    """Raises AccessDenied unless the queue's Policy lets the caller's account do it; QueueDoesNotExist."""
    described = await describe_queue(call.broker.core, queue)
    permission = _BATCHES.get(action, action)
    match judge(described.settings.policy, account=call.account, key_id=call.key_id, action=permission, arn=queue.arn):
        case "allowed":
            return
        case "denied":
            raise _denied(call, queue, permission, "a resource-based policy explicitly denies")
        case "not said":
            raise _denied(call, queue, permission, "no resource-based policy allows")


def _denied(call: Call, queue: Resource, action: str, why: str) -> ServiceError:
    permission = f"sqs:{action.lower()}"
    return ServiceError(
        "AccessDenied",
        f"User: arn:aws:iam::{call.account}:user/{call.key_id} is not authorized to perform: {permission} on resource: "
        f"{queue.arn} because {why} the {permission} action",
    )


def core_of(call: Call, queue: Resource) -> Core:
    """What sees the account of the queue; without access keys that may be another than the caller's."""
    core = call.broker.core
    return core if queue.account == call.account else core.within(queue.account, queue.region)


def url_of(call: Call, queue: Resource) -> str:
    """The URL of a queue, at the address by which the client reached the gateway."""
    return f"{call.base_url}/{queue.account}/{queue.name}"
