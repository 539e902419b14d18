"""Amazon SQS as a service of the gateway: its 23 actions, and how each differs from the real one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from broker.gateway.aws.service import Operation, Service
from broker.gateway.aws.sqs import (
    dead_letters,
    message_shapes,
    moves,
    permissions,
    queues,
    receiving,
    sending,
    settling,
    shapes,
    tags,
)
from broker.gateway.aws.sqs.errors import ERRORS, Action, translated


def _operation(
    name: str,
    wanted: type[msgspec.Struct],
    run: Action,
    differs: str,
    *,
    when_ended: msgspec.Struct | None = None,
) -> Operation:
    return Operation(name, wanted, translated(run), differs, when_ended)


def _by_name(operations: Iterable[Operation]) -> dict[str, Operation]:
    return {operation.name: operation for operation in operations}


_AT_ONCE: Final = "It holds at once, where AWS takes up to 60 seconds."

_OPERATIONS: Final = _by_name(
    (
        _operation(
            "AddPermission",
            shapes.AddPermissionRequest,
            permissions.add,
            "Accounts are not looked up: any twelve digits will do.",
        ),
        _operation(
            "CancelMessageMoveTask",
            shapes.CancelMessageMoveTaskRequest,
            moves.cancel,
            "",
        ),
        _operation(
            "ChangeMessageVisibility",
            message_shapes.ChangeMessageVisibilityRequest,
            settling.change_one,
            "On a standard queue an old handle of a message that was received again changes nothing, and is no error.",
        ),
        _operation(
            "ChangeMessageVisibilityBatch",
            message_shapes.ChangeMessageVisibilityBatchRequest,
            settling.change_batch,
            "As ChangeMessageVisibility.",
        ),
        _operation(
            "CreateQueue",
            shapes.CreateQueueRequest,
            queues.create,
            "A queue that exists only because a function or mapping names it counts as new and takes the attributes "
            "given; policies are compared as texts.",
        ),
        _operation(
            "DeleteMessage",
            message_shapes.DeleteMessageRequest,
            settling.delete_one,
            "On a standard queue an old handle always deletes, where AWS promises it only as best it can.",
        ),
        _operation(
            "DeleteMessageBatch",
            message_shapes.DeleteMessageBatchRequest,
            settling.delete_batch,
            "As DeleteMessage.",
        ),
        _operation(
            "DeleteQueue",
            shapes.DeleteQueueRequest,
            queues.delete,
            _AT_ONCE,
        ),
        _operation(
            "GetQueueAttributes",
            shapes.GetQueueAttributesRequest,
            queues.get_attributes,
            "The numbers of messages are exact; RedrivePolicy tells its count as a number, however it was given.",
        ),
        _operation(
            "GetQueueUrl",
            shapes.GetQueueUrlRequest,
            queues.get_url,
            "The URL begins with the address by which the gateway was reached, or with its public one.",
        ),
        _operation(
            "ListDeadLetterSourceQueues",
            shapes.ListDeadLetterSourceQueuesRequest,
            dead_letters.list_sources,
            "",
        ),
        _operation(
            "ListMessageMoveTasks",
            shapes.ListMessageMoveTasksRequest,
            moves.list_tasks,
            "",
        ),
        _operation(
            "ListQueueTags",
            shapes.ListQueueTagsRequest,
            tags.list_tags,
            "",
        ),
        _operation(
            "ListQueues",
            shapes.ListQueuesRequest,
            queues.list_all,
            "Sorted by name; a queue is listed at once, and also one that only a function or mapping has named.",
        ),
        _operation(
            "PurgeQueue",
            shapes.PurgeQueueRequest,
            queues.purge,
            _AT_ONCE,
        ),
        _operation(
            "ReceiveMessage",
            message_shapes.ReceiveMessageRequest,
            receiving.receive,
            "A short poll sees all messages; standard queues keep the order as long as nothing is handed out again; at "
            "most 256 MessageAttributeNames, and 64 KiB of body.",
            when_ended=message_shapes.NOTHING_RECEIVED,
        ),
        _operation(
            "RemovePermission",
            shapes.RemovePermissionRequest,
            permissions.remove,
            "",
        ),
        _operation(
            "SendMessage",
            message_shapes.SendMessageRequest,
            sending.send,
            "There is no limit on the rate; RequestThrottled tells of a full store. AWSTraceHeader: up to 4096 bytes; "
            "without it, X-Amzn-Trace-Id of the request is taken.",
        ),
        _operation(
            "SendMessageBatch",
            message_shapes.SendMessageBatchRequest,
            sending.send_batch,
            "As SendMessage.",
        ),
        _operation(
            "SetQueueAttributes",
            shapes.SetQueueAttributesRequest,
            queues.set_attributes,
            "It holds at once; of policies Condition is not evaluated (such a statement allows nobody), and KMS keys "
            "are kept but nothing is encrypted with them.",
        ),
        _operation(
            "StartMessageMoveTask",
            shapes.StartMessageMoveTaskRequest,
            moves.start,
            "Without a rate messages move as fast as they can.",
        ),
        _operation(
            "TagQueue",
            shapes.TagQueueRequest,
            tags.tag,
            "Characters of keys and values are not restricted.",
        ),
        _operation(
            "UntagQueue",
            shapes.UntagQueueRequest,
            tags.untag,
            "",
        ),
    )
)

SQS: Final = Service(
    name="sqs",
    target_prefix="AmazonSQS",
    version="2012-11-05",
    xml_namespace="http://queue.amazonaws.com/doc/2012-11-05/",
    operations=_OPERATIONS,
    errors=ERRORS,
)
"""The service, for the gateway."""
