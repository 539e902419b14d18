"""Inputs and outputs of the actions on queues, with AWS's names: JSON, query form and XML are read and written by them.

Members that AWS requires have no default. In an answer None stays away. The names in ``extra`` are those of the query
protocol, from the service model that SDKs had before they spoke JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, field


def named(query: str, key: str = "Name", value: str = "Value") -> Any:
    """What a list or map is called in the query protocol, and the key and value of a map."""
    return Meta(extra={"query": query, "key": key, "value": value})


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """What all of them have in common."""


QueueAttributes: TypeAlias = Annotated[dict[str, str], named("Attribute")]
QueueUrls: TypeAlias = Annotated[list[str], named("QueueUrl")]
AttributeNames: TypeAlias = Annotated[list[str], named("AttributeName")]
Tags: TypeAlias = Annotated[dict[str, str], named("Tag", "Key")]


# -- queues -----------------------------------------------------------------------------------------------------------


class CreateQueueRequest(Shape, frozen=True, kw_only=True):
    """Input of CreateQueue."""

    queue_name: str
    attributes: QueueAttributes | None = None
    tags: Tags | None = field(default=None, name="tags")


class CreateQueueResult(Shape, frozen=True, kw_only=True):
    """Output of CreateQueue."""

    queue_url: str


class DeleteQueueRequest(Shape, frozen=True, kw_only=True):
    """Input of DeleteQueue."""

    queue_url: str


class GetQueueUrlRequest(Shape, frozen=True, kw_only=True):
    """Input of GetQueueUrl."""

    queue_name: str
    queue_owner: str | None = field(default=None, name="QueueOwnerAWSAccountId")


class GetQueueUrlResult(Shape, frozen=True, kw_only=True):
    """Output of GetQueueUrl."""

    queue_url: str


class ListQueuesRequest(Shape, frozen=True, kw_only=True):
    """Input of ListQueues."""

    queue_name_prefix: str | None = None
    next_token: str | None = None
    max_results: int | None = None


class ListQueuesResult(Shape, frozen=True, kw_only=True):
    """Output of ListQueues."""

    queue_urls: QueueUrls | None = None
    next_token: str | None = None


class PurgeQueueRequest(Shape, frozen=True, kw_only=True):
    """Input of PurgeQueue."""

    queue_url: str


class GetQueueAttributesRequest(Shape, frozen=True, kw_only=True):
    """Input of GetQueueAttributes."""

    queue_url: str
    attribute_names: AttributeNames | None = None


class GetQueueAttributesResult(Shape, frozen=True, kw_only=True):
    """Output of GetQueueAttributes."""

    attributes: QueueAttributes | None = None


class SetQueueAttributesRequest(Shape, frozen=True, kw_only=True):
    """Input of SetQueueAttributes."""

    queue_url: str
    attributes: QueueAttributes


# -- permissions and tags ---------------------------------------------------------------------------------------------


class AddPermissionRequest(Shape, frozen=True, kw_only=True):
    """Input of AddPermission."""

    queue_url: str
    label: str
    account_ids: Annotated[list[str], named("AWSAccountId")] = field(name="AWSAccountIds")
    actions: Annotated[list[str], named("ActionName")]


class RemovePermissionRequest(Shape, frozen=True, kw_only=True):
    """Input of RemovePermission."""

    queue_url: str
    label: str


class TagQueueRequest(Shape, frozen=True, kw_only=True):
    """Input of TagQueue."""

    queue_url: str
    tags: Tags


class UntagQueueRequest(Shape, frozen=True, kw_only=True):
    """Input of UntagQueue."""

    queue_url: str
    tag_keys: Annotated[list[str], named("TagKey")]


class ListQueueTagsRequest(Shape, frozen=True, kw_only=True):
    """Input of ListQueueTags."""

    queue_url: str


class ListQueueTagsResult(Shape, frozen=True, kw_only=True):
    """Output of ListQueueTags."""

    tags: Tags | None = None


# -- dead letters -----------------------------------------------------------------------------------------------------


class ListDeadLetterSourceQueuesRequest(Shape, frozen=True, kw_only=True):
    """Input of ListDeadLetterSourceQueues."""

    queue_url: str
    next_token: str | None = None
    max_results: int | None = None


class ListDeadLetterSourceQueuesResult(Shape, frozen=True, kw_only=True):
    """Output of ListDeadLetterSourceQueues."""

    queue_urls: QueueUrls = field(name="queueUrls")
    next_token: str | None = None


class StartMessageMoveTaskRequest(Shape, frozen=True, kw_only=True):
    """Input of StartMessageMoveTask."""

    source_arn: str
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None


class StartMessageMoveTaskResult(Shape, frozen=True, kw_only=True):
    """Output of StartMessageMoveTask."""

    task_handle: str


class CancelMessageMoveTaskRequest(Shape, frozen=True, kw_only=True):
    """Input of CancelMessageMoveTask."""

    task_handle: str


class CancelMessageMoveTaskResult(Shape, frozen=True, kw_only=True):
    """Output of CancelMessageMoveTask."""

    approximate_number_of_messages_moved: int


class ListMessageMoveTasksRequest(Shape, frozen=True, kw_only=True):
    """Input of ListMessageMoveTasks."""

    source_arn: str
    max_results: int | None = None


class ListMessageMoveTasksResultEntry(Shape, frozen=True, kw_only=True):
    """One move task."""

    task_handle: str | None = None
    status: str
    source_arn: str
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None
    approximate_number_of_messages_moved: int
    approximate_number_of_messages_to_move: int | None = None
    failure_reason: str | None = None
    started_timestamp: int


class ListMessageMoveTasksResult(Shape, frozen=True, kw_only=True):
    """Output of ListMessageMoveTasks."""

    results: Annotated[list[ListMessageMoveTasksResultEntry], named("ListMessageMoveTasksResultEntry")] | None = None
