"""Inputs and outputs of the actions on messages. What is said in :mod:`broker.gateway.aws.sqs.shapes` holds here."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import field

from broker.gateway.aws.sqs.shapes import AttributeNames, Shape, named


class MessageAttributeValue(Shape, frozen=True, kw_only=True):
    """One attribute of a message. Lists of values are in the model, and refused by SQS."""

    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None
    string_list_values: Annotated[list[str], named("StringListValue")] | None = None
    binary_list_values: Annotated[list[bytes], named("BinaryListValue")] | None = None


class MessageSystemAttributeValue(MessageAttributeValue, frozen=True, kw_only=True):
    """One system attribute of a message."""


MessageAttributes: TypeAlias = Annotated[dict[str, MessageAttributeValue], named("MessageAttribute")]
SystemAttributes: TypeAlias = Annotated[dict[str, MessageSystemAttributeValue], named("MessageSystemAttribute")]


class SendMessageRequest(Shape, frozen=True, kw_only=True):
    """Input of SendMessage."""

    queue_url: str
    message_body: str
    delay_seconds: int | None = None
    message_attributes: MessageAttributes | None = None
    message_system_attributes: SystemAttributes | None = None
    message_deduplication_id: str | None = None
    message_group_id: str | None = None


class SendMessageResult(Shape, frozen=True, kw_only=True):
    """Output of SendMessage."""

    message_id: str
    md5_of_message_body: str = field(name="MD5OfMessageBody")
    md5_of_message_attributes: str | None = field(default=None, name="MD5OfMessageAttributes")
    md5_of_message_system_attributes: str | None = field(default=None, name="MD5OfMessageSystemAttributes")
    sequence_number: str | None = None


class SendMessageBatchRequestEntry(Shape, frozen=True, kw_only=True):
    """One message of SendMessageBatch."""

    id: str
    message_body: str
    delay_seconds: int | None = None
    message_attributes: MessageAttributes | None = None
    message_system_attributes: SystemAttributes | None = None
    message_deduplication_id: str | None = None
    message_group_id: str | None = None


class SendMessageBatchRequest(Shape, frozen=True, kw_only=True):
    """Input of SendMessageBatch."""

    queue_url: str
    entries: Annotated[list[SendMessageBatchRequestEntry], named("SendMessageBatchRequestEntry")]


class SendMessageBatchResultEntry(SendMessageResult, frozen=True, kw_only=True):
    """What became of one message of SendMessageBatch."""

    id: str


class BatchResultErrorEntry(Shape, frozen=True, kw_only=True):
    """Why one entry of a batch failed."""

    id: str
    sender_fault: bool
    code: str
    message: str | None = None


Failed: TypeAlias = Annotated[list[BatchResultErrorEntry], named("BatchResultErrorEntry")]


class SendMessageBatchResult(Shape, frozen=True, kw_only=True):
    """Output of SendMessageBatch."""

    successful: Annotated[list[SendMessageBatchResultEntry], named("SendMessageBatchResultEntry")] | None = None
    failed: Failed | None = None


class ReceiveMessageRequest(Shape, frozen=True, kw_only=True):
    """Input of ReceiveMessage."""

    queue_url: str
    attribute_names: AttributeNames | None = None
    message_system_attribute_names: Annotated[list[str], named("MessageSystemAttributeName")] | None = None
    message_attribute_names: Annotated[list[str], named("MessageAttributeName")] | None = None
    max_number_of_messages: int | None = None
    visibility_timeout: int | None = None
    wait_time_seconds: int | None = None
    receive_request_attempt_id: str | None = None


class ReceivedMessage(Shape, frozen=True, kw_only=True):
    """One message that was received."""

    message_id: str
    receipt_handle: str
    md5_of_body: str = field(name="MD5OfBody")
    body: str
    attributes: Annotated[dict[str, str], named("Attribute")] | None = None
    md5_of_message_attributes: str | None = field(default=None, name="MD5OfMessageAttributes")
    message_attributes: MessageAttributes | None = None


class ReceiveMessageResult(Shape, frozen=True, kw_only=True):
    """Output of ReceiveMessage."""

    messages: Annotated[list[ReceivedMessage], named("Message")] | None = None


NOTHING_RECEIVED: Final = ReceiveMessageResult()


class DeleteMessageRequest(Shape, frozen=True, kw_only=True):
    """Input of DeleteMessage."""

    queue_url: str
    receipt_handle: str


class DeleteMessageBatchRequestEntry(Shape, frozen=True, kw_only=True):
    """One message of DeleteMessageBatch."""

    id: str
    receipt_handle: str


class DeleteMessageBatchRequest(Shape, frozen=True, kw_only=True):
    """Input of DeleteMessageBatch."""

    queue_url: str
    entries: Annotated[list[DeleteMessageBatchRequestEntry], named("DeleteMessageBatchRequestEntry")]


class DeleteMessageBatchResultEntry(Shape, frozen=True, kw_only=True):
    """One message of DeleteMessageBatch that was deleted."""

    id: str


class DeleteMessageBatchResult(Shape, frozen=True, kw_only=True):
    """Output of DeleteMessageBatch."""

    successful: Annotated[list[DeleteMessageBatchResultEntry], named("DeleteMessageBatchResultEntry")] | None = None
    failed: Failed | None = None


class ChangeMessageVisibilityRequest(Shape, frozen=True, kw_only=True):
    """Input of ChangeMessageVisibility."""

    queue_url: str
    receipt_handle: str
    visibility_timeout: int


class ChangeMessageVisibilityBatchRequestEntry(Shape, frozen=True, kw_only=True):
    """One message of ChangeMessageVisibilityBatch."""

    id: str
    receipt_handle: str
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatchRequest(Shape, frozen=True, kw_only=True):
    """Input of ChangeMessageVisibilityBatch."""

    queue_url: str
    entries: Annotated[
        list[ChangeMessageVisibilityBatchRequestEntry], named("ChangeMessageVisibilityBatchRequestEntry")
    ]


class ChangeMessageVisibilityBatchResultEntry(Shape, frozen=True, kw_only=True):
    """One message of ChangeMessageVisibilityBatch that was changed."""

    id: str


class ChangeMessageVisibilityBatchResult(Shape, frozen=True, kw_only=True):
    """Output of ChangeMessageVisibilityBatch."""

    successful: (
        Annotated[list[ChangeMessageVisibilityBatchResultEntry], named("ChangeMessageVisibilityBatchResultEntry")]
        | None
    ) = None
    failed: Failed | None = None
