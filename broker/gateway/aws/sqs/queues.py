"""Queues: create, delete, find, list, purge, and their attributes."""

from __future__ import annotations

import re
from typing import Final

from broker import limits
from broker.errors import InvalidName, QueueExists, QueueNotFound
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import attributes as wire
from broker.gateway.aws.sqs import shapes
from broker.gateway.aws.sqs.access import core_of, own_queue, url_of, usable_queue
from broker.gateway.aws.sqs.dead_letters import check_dead_letters
from broker.gateway.aws.sqs.errors import missing, unknown_queue
from broker.gateway.aws.sqs.paging import page_of
from broker.gateway.aws.sqs.tags import check_tags
from broker.names import Resource, check_name
from broker.partitions import counts as count_all
from broker.partitions import delete as delete_all
from broker.partitions import purge as purge_all
from broker.queue_settings import change_queue, create_queue, describe_queue
from broker.records import QueueSettings

_ACCOUNT: Final = re.compile(r"[0-9]{12}")


async def create(call: Call, wanted: shapes.CreateQueueRequest) -> shapes.CreateQueueResult:
    """Creates a queue; where it exists with the attributes given, only its URL is answered."""
    given = wanted.attributes or {}
    name = wanted.queue_name
    if not name:
        raise missing("QueueName")
    wire.check_new_name(name, given, valid=_is_name(name))
    queue = Resource("queue", call.account, call.region, name)
    changes = wire.read_attributes(given, queue)
    tags = check_tags(wanted.tags or {})
    settings = wire.changed(QueueSettings(fifo=queue.fifo, tags=tags), changes)
    await check_dead_letters(call.broker.core, queue, given.get("RedrivePolicy", ""))
    try:
        await create_queue(
            call.broker.core,
            queue,
            settings,
            compared=wire.compared_fields(given),
            gone_ms=limits.QUEUE_GONE_S * 1000,
        )
    except QueueExists as error:
        attribute = wire.attribute_of(error.attribute)
        said = f"A queue already exists with the same name and a different value for attribute {attribute}"
        raise ServiceError("QueueNameExists", said) from error
    return shapes.CreateQueueResult(queue_url=url_of(call, queue))


def _is_name(name: str) -> bool:
    try:
        check_name("queue", name)
    except InvalidName:
        return False
    return True


async def delete(call: Call, wanted: shapes.DeleteQueueRequest) -> None:
    """Deletes a queue with all that it holds, at once; dead letters on their way arrive first, where they can."""
    queue = own_queue(call, wanted.queue_url, "DeleteQueue")
    for part in await core_of(call, queue).partitions.parts(queue):
        await call.broker.deliver(part)
    status, _ = await delete_all(core_of(call, queue), queue, force=True)
    if status == "unknown":
        raise QueueNotFound(queue.name)


async def get_url(call: Call, wanted: shapes.GetQueueUrlRequest) -> shapes.GetQueueUrlResult:
    """The URL of a queue, of this or another account."""
    if not wanted.queue_name:
        raise missing("QueueName")
    account = wanted.queue_owner or call.account
    if not _is_name(wanted.queue_name) or not _ACCOUNT.fullmatch(account):
        raise unknown_queue(call.protocol)
    url = url_of(call, Resource("queue", account, call.region, wanted.queue_name))
    queue = await usable_queue(call, url, "GetQueueUrl")
    await describe_queue(call.broker.core, queue)
    return shapes.GetQueueUrlResult(queue_url=url)


async def list_all(call: Call, wanted: shapes.ListQueuesRequest) -> shapes.ListQueuesResult:
    """The URLs of the account's queues."""
    prefix = wanted.queue_name_prefix or ""
    names = [name for name in await call.broker.core.directory.names("queue") if name.startswith(prefix)]
    scope = f"queues of {call.account} {call.region} {prefix}"
    page = page_of(names, scope=scope, max_results=wanted.max_results, token=wanted.next_token)
    urls = [url_of(call, Resource("queue", call.account, call.region, name)) for name in page.names]
    return shapes.ListQueuesResult(queue_urls=urls or None, next_token=page.next_token)


async def purge(call: Call, wanted: shapes.PurgeQueueRequest) -> None:
    """Throws all messages of a queue away, at once."""
    queue = await usable_queue(call, wanted.queue_url, "PurgeQueue")
    held = await purge_all(call.broker.core, queue, not_within_ms=limits.PURGE_EVERY_S * 1000)
    if held is None:
        raise QueueNotFound(queue.name)
    if held == "too soon":
        said = f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
        raise ServiceError("PurgeQueueInProgress", said)


async def get_attributes(call: Call, wanted: shapes.GetQueueAttributesRequest) -> shapes.GetQueueAttributesResult:
    """The attributes of a queue that are asked for."""
    asked = wire.asked_for(wanted.attribute_names)
    queue = await usable_queue(call, wanted.queue_url, "GetQueueAttributes")
    core = call.broker.core
    described = await describe_queue(core, queue)
    counts = await count_all(core, queue, expire=True) if wire.counted(asked) else None
    return shapes.GetQueueAttributesResult(attributes=wire.shown(described, asked, counts) or None)


async def set_attributes(call: Call, wanted: shapes.SetQueueAttributesRequest) -> None:
    """Changes the attributes given, all or none."""
    queue = own_queue(call, wanted.queue_url, "SetQueueAttributes")
    if not wanted.attributes:
        raise missing("Attributes")
    core = core_of(call, queue)
    changes = wire.read_attributes(wanted.attributes, queue)
    await describe_queue(core, queue)  # an unknown queue is told before a dead-letter queue that is none
    await check_dead_letters(core, queue, wanted.attributes.get("RedrivePolicy", ""))
    await change_queue(core, queue, lambda before: wire.changed(before, changes))
