"""Permissions: statements of a queue's policy by their labels."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import shapes
from broker.gateway.aws.sqs.access import core_of, own_queue
from broker.gateway.aws.sqs.errors import invalid_value, missing
from broker.gateway.aws.sqs.policies import with_permission, without_permission
from broker.queue_settings import change_queue
from broker.records import QueueSettings

MAX_ACTIONS: Final = 7
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_GRANTABLE: Final = frozenset(
    (
        "*",
        "ChangeMessageVisibility",
        "DeleteMessage",
        "GetQueueAttributes",
        "GetQueueUrl",
        "ListDeadLetterSourceQueues",
        "PurgeQueue",
        "ReceiveMessage",
        "SendMessage",
    )
)


async def add(call: Call, wanted: shapes.AddPermissionRequest) -> None:
    """Lets other accounts do actions on a queue."""
    queue = own_queue(call, wanted.queue_url, "AddPermission")
    check_permission(wanted)

    def change(before: QueueSettings) -> QueueSettings:
        policy = with_permission(
            before.policy,
            arn=queue.arn,
            label=wanted.label,
            accounts=wanted.account_ids,
            actions=wanted.actions,
        )
        return msgspec.structs.replace(before, policy=policy)

    await change_queue(core_of(call, queue), queue, change)


def check_permission(wanted: shapes.AddPermissionRequest) -> None:
    """Raises MissingParameter, InvalidParameterValue, OverLimit for a permission that cannot be given."""
    for parameter, given in (
        ("Label", wanted.label),
        ("AWSAccountIds", wanted.account_ids),
        ("Actions", wanted.actions),
    ):
        if not given:
            raise missing(parameter)
    if not _LABEL.fullmatch(wanted.label):
        reason = "Label can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length."
        raise invalid_value("Label", wanted.label, reason)
    if len(wanted.actions) > MAX_ACTIONS:
        raise ServiceError("OverLimit", f"{len(wanted.actions)} Actions were found, maximum allowed is {MAX_ACTIONS}.")
    for action in wanted.actions:
        if action not in _GRANTABLE:
            reason = "Only the queue owner is allowed to invoke this action."
            raise invalid_value("ActionName", f"SQS:{action}", reason)
    if not all(map(_ACCOUNT.fullmatch, wanted.account_ids)):
        raise invalid_value("PrincipalId", f"[{', '.join(wanted.account_ids)}]", "Unable to verify.")


async def remove(call: Call, wanted: shapes.RemovePermissionRequest) -> None:
    """Takes a statement out of a queue's policy, also one that was not added by AddPermission."""
    queue = own_queue(call, wanted.queue_url, "RemovePermission")
    if not wanted.label:
        raise missing("Label")

    def change(before: QueueSettings) -> QueueSettings:
        return msgspec.structs.replace(before, policy=without_permission(before.policy, wanted.label))

    await change_queue(core_of(call, queue), queue, change)
