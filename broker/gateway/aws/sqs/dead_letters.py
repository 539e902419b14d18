"""Dead letters: which queue may be whose dead-letter queue, and whose it is."""

from __future__ import annotations

from broker.core import Core
from broker.errors import QueueNotFound
from broker.gateway.aws.service import Call
from broker.gateway.aws.sqs import shapes
from broker.gateway.aws.sqs.access import core_of, url_of, usable_queue
from broker.gateway.aws.sqs.paging import page_of
from broker.gateway.aws.sqs.redrive import read_redrive, target_missing, target_refuses
from broker.moves import dead_letter_sources
from broker.names import Resource
from broker.queue_settings import describe_queue, may_redrive_to


async def check_dead_letters(core: Core, source: Resource, policy: str) -> None:
    """Raises InvalidParameterValue unless the queue that a RedrivePolicy names exists and allows the source."""
    redrive = read_redrive(policy, source)
    if redrive is None:
        return
    try:
        described = await describe_queue(core, redrive.queue)
    except QueueNotFound:
        raise target_missing(policy) from None
    if not may_redrive_to(described.settings, source):
        raise target_refuses(policy, redrive.queue, source)


async def list_sources(
    call: Call, wanted: shapes.ListDeadLetterSourceQueuesRequest
) -> shapes.ListDeadLetterSourceQueuesResult:
    """The URLs of the queues whose dead letters go to this one."""
    queue = await usable_queue(call, wanted.queue_url, "ListDeadLetterSourceQueues")
    core = core_of(call, queue)
    await describe_queue(core, queue)
    names = [source.name for source in await dead_letter_sources(core, queue)]
    page = page_of(names, scope=f"sources of {queue.arn}", max_results=wanted.max_results, token=wanted.next_token)
    urls = [url_of(call, Resource("queue", queue.account, queue.region, name)) for name in page.names]
    return shapes.ListDeadLetterSourceQueuesResult(queue_urls=urls, next_token=page.next_token)
