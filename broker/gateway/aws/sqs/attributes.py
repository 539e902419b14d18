"""Attributes of queues: texts of the wire to and from settings, with SQS's ranges, defaults and error texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker import limits
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.errors import invalid, invalid_attribute, unknown_attribute
from broker.gateway.aws.sqs.policies import check_policy_text
from broker.gateway.aws.sqs.redrive import read_redrive, read_redrive_allow, redrive_allow_text, redrive_text
from broker.names import Resource
from broker.queue_settings import DescribedQueue
from broker.records import QueueSettings
from broker.store.values import Counts

Changes: TypeAlias = dict[str, Any]
"""Fields of QueueSettings and their new values."""

_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_MAX_KEY_ID: Final = 2_048
_RANGES: Final[Mapping[str, tuple[str, int, int]]] = {
    "DelaySeconds": ("delay_s", 0, limits.MAX_DELAY_S),
    "MaximumMessageSize": ("max_message_bytes", limits.KIB, limits.MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": ("retention_s", limits.MIN_RETENTION_S, limits.MAX_RETENTION_S),
    "ReceiveMessageWaitTimeSeconds": ("receive_wait_s", 0, limits.MAX_RECEIVE_WAIT_S),
    "VisibilityTimeout": ("visibility_timeout_s", 0, limits.MAX_VISIBILITY_TIMEOUT_S),
    "KmsDataKeyReusePeriodSeconds": ("kms_reuse_s", 60, 86_400),
}
_WORDS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "DeduplicationScope": ("deduplication_scope", ("queue", "messageGroup")),
    "FifoThroughputLimit": ("throughput_limit", ("perQueue", "perMessageGroupId")),
}
_FLAGS: Final[Mapping[str, str]] = {
    "ContentBasedDeduplication": "content_deduplication",
    "SqsManagedSseEnabled": "managed_sse",
}
_ONLY_FIFO: Final[Mapping[str, str]] = {
    "FifoQueue": "Unknown Attribute FifoQueue.",
    "ContentBasedDeduplication": "Unknown Attribute ContentBasedDeduplication.",
    "DeduplicationScope": "You can specify the DeduplicationScope only when FifoQueue is set to true.",
    "FifoThroughputLimit": "You can specify the FifoThroughputLimit only when FifoQueue is set to true.",
}
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: (field,) for name, (field, _, _) in _RANGES.items()},
    **{name: (field,) for name, (field, _) in _WORDS.items()},
    **{name: (field,) for name, field in _FLAGS.items()},
    "FifoQueue": ("fifo",),
    "KmsMasterKeyId": ("kms_key",),
    "Policy": ("policy",),
    "RedrivePolicy": ("dead_letter", "max_receives"),
    "RedriveAllowPolicy": ("redrive_permission", "redrive_sources"),
}
_COUNTED: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_TOLD: Final = ("QueueArn", "CreatedTimestamp", "LastModifiedTimestamp")
_ALL: Final = "All"
KNOWN: Final = frozenset((*_FIELDS, *_COUNTED, *_TOLD, _ALL))
"""What GetQueueAttributes can be asked for."""

_ONE_ENCRYPTION: Final = (
    "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE or SQS SSE."
)
_THROUGHPUT_NEEDS_SCOPE: Final = (
    "The perMessageGroupId value is allowed only when the value for DeduplicationScope is messageGroup."
)
_STANDARD_NAME: Final = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
_FIFO_NAME: Final = (
    "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo "
    "suffix and be 1 to 80 in length."
)


# -- from the wire ----------------------------------------------------------------------------------------------------


def check_new_name(name: str, attributes: Mapping[str, str], *, valid: bool) -> None:
    """Raises InvalidParameterValue unless the name can be that of the queue to be made."""
    if attributes.get("FifoQueue", "").lower() == "true":
        if not valid or not name.endswith(".fifo"):
            raise invalid(_FIFO_NAME)
    elif not valid or name.endswith(".fifo"):
        raise invalid(_STANDARD_NAME)


def read_attributes(attributes: Mapping[str, str], queue: Resource) -> Changes:
    """What the attributes given change. Raises InvalidAttributeName, InvalidAttributeValue, InvalidParameterValue."""
    changes: Changes = {}
    for name, value in attributes.items():
        if name not in _FIELDS:
            raise unknown_attribute(name)
        if name in _ONLY_FIFO and not queue.fifo:
            raise ServiceError("InvalidAttributeName", _ONLY_FIFO[name])
        changes |= _read(name, value, queue)
    if changes.get("kms_key"):
        if changes.get("managed_sse"):
            raise ServiceError("InvalidAttributeName", _ONE_ENCRYPTION)
        changes["managed_sse"] = False
    elif changes.get("managed_sse"):
        changes["kms_key"] = ""
    return changes


def _read(name: str, value: str, queue: Resource) -> Changes:
    if name in _RANGES:
        return _whole(name, value)
    if name in _WORDS:
        field, words = _WORDS[name]
        if value not in words:
            raise invalid_attribute(name)
        return {field: value}
    if name in _FLAGS:
        return {_FLAGS[name]: _flag(name, value)}
    return _READERS[name](value, queue)


def _whole(name: str, value: str) -> Changes:
    field, low, high = _RANGES[name]
    if not _WHOLE.fullmatch(value) or not low <= int(value) <= high:
        raise invalid_attribute(name)
    return {field: int(value)}


def _flag(name: str, value: str) -> bool:
    word = value.lower()
    if word not in {"true", "false"}:
        raise invalid_attribute(name)
    return word == "true"


def _fifo(value: str, _: Resource) -> Changes:
    if not _flag("FifoQueue", value):
        raise invalid_attribute("FifoQueue", "Modifying queue type is not supported.")
    return {}


def _key(value: str, _: Resource) -> Changes:
    if len(value) > _MAX_KEY_ID or not value.isprintable():
        raise invalid_attribute("KmsMasterKeyId")
    return {"kms_key": value}


def _redrive(value: str, queue: Resource) -> Changes:
    target = read_redrive(value, queue)
    if target is None:
        return {"dead_letter": None, "max_receives": None}
    return {"dead_letter": target.queue.name, "max_receives": target.max_receives}


def _redrive_allow(value: str, _: Resource) -> Changes:
    permission, sources = read_redrive_allow(value)
    return {"redrive_permission": permission, "redrive_sources": sources}


_READERS: Final[Mapping[str, Callable[[str, Resource], Changes]]] = {
    "FifoQueue": _fifo,
    "KmsMasterKeyId": _key,
    "Policy": lambda value, _: {"policy": check_policy_text(value)},
    "RedrivePolicy": _redrive,
    "RedriveAllowPolicy": _redrive_allow,
}


def changed(before: QueueSettings, changes: Changes) -> QueueSettings:
    """The settings with the changes. Raises InvalidAttributeValue where they do not go together."""
    scope = changes.get("deduplication_scope", before.deduplication_scope)
    limit = changes.get("throughput_limit", before.throughput_limit)
    if limit == "perMessageGroupId" and scope != "messageGroup":
        raise invalid_attribute("FifoThroughputLimit", _THROUGHPUT_NEEDS_SCOPE)
    return msgspec.structs.replace(before, **changes)


def compared_fields(attributes: Iterable[str]) -> list[str]:
    """The fields of the settings that CreateQueue compares with those of a queue that exists."""
    return [field for name in attributes for field in _FIELDS[name]]


def attribute_of(field: str) -> str:
    """The attribute that a field of the settings belongs to; the field may lack its unit."""
    return next(name for name, fields in _FIELDS.items() if field in fields or f"{field}_s" in fields)


# -- to the wire ------------------------------------------------------------------------------------------------------


def asked_for(names: Iterable[str] | None) -> frozenset[str]:
    """The attributes that somebody wants to see. Raises InvalidAttributeName."""
    asked = frozenset(names or ())
    for name in asked - KNOWN:
        raise unknown_attribute(name)
    return KNOWN if _ALL in asked else asked


def counted(asked: frozenset[str]) -> bool:
    """Whether an attribute is asked for that needs counting."""
    return not asked.isdisjoint(_COUNTED)


def shown(queue: DescribedQueue, asked: frozenset[str], counts: Counts | None) -> dict[str, str]:
    """The attributes that are asked for, as far as the queue has them."""
    told = {
        "QueueArn": queue.resource.arn,
        "CreatedTimestamp": str(queue.created_ms // 1000),
        "LastModifiedTimestamp": str(queue.changed_ms // 1000),
        **_settings(queue),
    }
    if counts is not None:
        numbers = (counts.visible + counts.set_apart, counts.in_flight + counts.retrying, counts.delayed)
        told |= dict(zip(_COUNTED, map(str, numbers), strict=True))
    return {name: value for name, value in told.items() if name in asked}


def _settings(queue: DescribedQueue) -> dict[str, str]:
    settings, resource = queue.settings, queue.resource
    told = {name: str(int(getattr(settings, field))) for name, (field, _, _) in _RANGES.items()}
    if not settings.kms_key and settings.kms_reuse_s == limits.DEFAULT_KMS_REUSE_S:
        del told["KmsDataKeyReusePeriodSeconds"]
    told["SqsManagedSseEnabled"] = _word(settings.managed_sse)
    if resource.fifo:
        told["FifoQueue"] = "true"
        told["ContentBasedDeduplication"] = _word(settings.content_deduplication)
        told["DeduplicationScope"] = settings.deduplication_scope
        told["FifoThroughputLimit"] = settings.throughput_limit
    texts = {
        "KmsMasterKeyId": settings.kms_key,
        "Policy": settings.policy,
        "RedrivePolicy": redrive_text(settings, resource),
        "RedriveAllowPolicy": redrive_allow_text(settings),
    }
    return told | {name: text for name, text in texts.items() if text}


def _word(flag: bool) -> Literal["true", "false"]:  # noqa: FBT001 - spells one value
    return "true" if flag else "false"
