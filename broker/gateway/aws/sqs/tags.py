"""Tags of queues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from broker.gateway.aws.service import Call
from broker.gateway.aws.sqs import shapes
from broker.gateway.aws.sqs.access import core_of, own_queue
from broker.gateway.aws.sqs.errors import invalid, missing
from broker.queue_settings import change_queue, describe_queue
from broker.records import QueueSettings

MAX_TAGS: Final = 50
_MAX_KEY: Final = 128
_MAX_VALUE: Final = 256
_RESERVED: Final = "aws:"


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags. Raises InvalidParameterValue for one that breaks a rule, or for too many."""
    for key, value in tags.items():
        if not 1 <= len(key) <= _MAX_KEY:
            raise invalid(f"Tag keys must be between 1 and {_MAX_KEY} characters in length.")
        if key.lower().startswith(_RESERVED):
            raise invalid(f"Tag key {key} is invalid. Reason: Keys that begin with aws: are reserved.")
        if len(value) > _MAX_VALUE:
            raise invalid(f"Tag values must be between 0 and {_MAX_VALUE} characters in length.")
    if len(tags) > MAX_TAGS:
        raise invalid(f"Too many tags: a queue has at most {MAX_TAGS}, and {len(tags)} were given.")
    return dict(tags)


async def tag(call: Call, wanted: shapes.TagQueueRequest) -> None:
    """Adds tags, or gives those that are there new values."""
    queue = own_queue(call, wanted.queue_url, "TagQueue")
    if not wanted.tags:
        raise missing("Tags")
    added = check_tags(wanted.tags)

    def change(before: QueueSettings) -> QueueSettings:
        return msgspec.structs.replace(before, tags=check_tags(before.tags | added))

    await change_queue(core_of(call, queue), queue, change)


async def untag(call: Call, wanted: shapes.UntagQueueRequest) -> None:
    """Removes tags; keys that are not there do no harm."""
    queue = own_queue(call, wanted.queue_url, "UntagQueue")
    if not wanted.tag_keys:
        raise missing("TagKeys")
    removed = set(wanted.tag_keys)

    def change(before: QueueSettings) -> QueueSettings:
        kept = {key: value for key, value in before.tags.items() if key not in removed}
        return msgspec.structs.replace(before, tags=kept)

    await change_queue(core_of(call, queue), queue, change)


async def list_tags(call: Call, wanted: shapes.ListQueueTagsRequest) -> shapes.ListQueueTagsResult:
    """The tags of a queue."""
    queue = own_queue(call, wanted.queue_url, "ListQueueTags")
    described = await describe_queue(call.broker.core, queue)
    return shapes.ListQueueTagsResult(tags=described.settings.tags or None)
