"""RedrivePolicy and RedriveAllowPolicy: their texts to and from settings, with SQS's error texts. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import msgspec

from broker import limits
from broker.errors import InvalidName, PayloadNotJson
from broker.gateway.aws.service import ServiceError
from broker.gateway.aws.sqs.errors import invalid, invalid_value, told
from broker.names import Resource, check_name
from broker.records import QueueSettings, RedrivePermission, decode_json, encode_json

DEFAULT_MAX_RECEIVES: Final = 10
_MAX_SOURCES: Final = 10
_COUNT: Final = re.compile(r"[0-9]{1,6}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_PERMISSIONS: Final = get_args(RedrivePermission)
_REDRIVE: Final = "RedrivePolicy"
_ALLOW: Final = "RedriveAllowPolicy"
_CANNOT: Final = "Amazon SQS can't create the redrive allow policy"


class Redrive(msgspec.Struct, frozen=True):
    """Where a queue's dead letters go, and after how many receives."""

    queue: Resource
    max_receives: int


def read_redrive(text: str, source: Resource) -> Redrive | None:
    """What a RedrivePolicy of the source says, None for ''. Raises InvalidParameterValue."""
    if not text:
        return None
    policy = _map(text)
    if policy is None:
        raise invalid("Invalid value for the parameter RedrivePolicy. Reason: Redrive policy is not a valid JSON map.")
    if "deadLetterTargetArn" not in policy:
        raise _bad(text, "Redrive policy does not contain mandatory attribute: deadLetterTargetArn.")
    if policy.keys() - {"deadLetterTargetArn", "maxReceiveCount"}:
        raise _bad(text, "Only following attributes are supported: [deadLetterTargetArn, maxReceiveCount].")
    return Redrive(_target(text, policy["deadLetterTargetArn"], source), _max_receives(text, policy))


def _max_receives(text: str, policy: dict[str, Any]) -> int:
    count = policy.get("maxReceiveCount", DEFAULT_MAX_RECEIVES)
    if isinstance(count, str) and _COUNT.fullmatch(count):
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= limits.MAX_RECEIVES:
        allowed = f"valid values are from 1 to {limits.MAX_RECEIVES} both inclusive."
        raise _bad(text, f"Invalid value for maxReceiveCount: {told(count)}, {allowed}")
    return count


def _target(text: str, arn: object, source: Resource) -> Resource:
    try:
        target = Resource.from_arn(arn) if isinstance(arn, str) else None
    except InvalidName:
        target = None
    if target is None:
        raise _bad(text, "Dead-letter target ARN should be fully qualified ARN.")
    if target.kind != "queue":
        raise _bad(text, "Only SQS queues are valid resources for deadLetterTargetArn.")
    if target.account != source.account:
        raise _bad(text, "Dead-letter target owner should be same as the source.")
    if target.region != source.region:
        raise _bad(text, "Dead-letter target should be in the same region as the source.")
    if target.fifo != source.fifo:
        raise _bad(text, "Dead-letter queue must be same type of queue as the source.")
    if target == source:
        raise _bad(text, "Dead-letter target should not be the source itself.")
    if not _is_queue(target):
        raise target_missing(text)
    return target


def target_missing(text: str) -> ServiceError:
    """There is no such dead-letter queue."""
    return _bad(text, "Dead letter target does not exist.")


def target_refuses(text: str, target: Resource, source: Resource) -> ServiceError:
    """The dead-letter queue's RedriveAllowPolicy does not let the source name it."""
    return _bad(text, f"The RedriveAllowPolicy of {target.arn} does not allow {source.arn} to use it.")


def redrive_text(settings: QueueSettings, queue: Resource) -> str:
    """The RedrivePolicy of settings; '' where there is none."""
    if settings.dead_letter is None:
        return ""
    target = Resource("queue", queue.account, queue.region, settings.dead_letter)
    policy = {"deadLetterTargetArn": target.arn, "maxReceiveCount": settings.max_receives}
    return encode_json(_REDRIVE, policy).decode()


def read_redrive_allow(text: str) -> tuple[RedrivePermission | None, tuple[str, ...]]:
    """What a RedriveAllowPolicy says, (None, ()) for ''. Raises InvalidParameterValue."""
    if not text:
        return None, ()
    policy = _map(text)
    if policy is None or policy.keys() - {"redrivePermission", "sourceQueueArns"}:
        raise _unsupported()
    permission, sources = policy.get("redrivePermission"), policy.get("sourceQueueArns")
    if permission not in _PERMISSIONS or not _are_arns(sources):
        raise _unsupported()
    if permission != "byQueue":
        if sources:
            reason = "To specify one or more source queue ARNs, you must set redrivePermission to byQueue."
            raise invalid_value(_ALLOW, text, f"{_CANNOT}. {reason}")
        return permission, ()
    if not sources:
        reason = (
            "When you specify the byQueue permission type, you must also specify one or more sourceQueueArns values."
        )
        raise invalid_value(_ALLOW, text, f"{_CANNOT}. {reason}")
    if len(sources) > _MAX_SOURCES:
        reason = f"The maximum number of source queue ARNs you can specify is {_MAX_SOURCES}."
        raise invalid_value(_ALLOW, text, f"{_CANNOT}. {reason}")
    return permission, tuple(sources)


def redrive_allow_text(settings: QueueSettings) -> str:
    """The RedriveAllowPolicy of settings; '' where nobody has set one."""
    if settings.redrive_permission is None:
        return ""
    policy: dict[str, object] = {"redrivePermission": settings.redrive_permission}
    if settings.redrive_sources:
        policy["sourceQueueArns"] = settings.redrive_sources
    return encode_json(_ALLOW, policy).decode()


def queue_of_arn(arn: str) -> Resource | None:
    """The queue of an ARN; None for what is no queue's."""
    try:
        found = Resource.from_arn(arn)
    except InvalidName:
        return None
    return found if found.kind == "queue" and _is_queue(found) else None


def _is_queue(found: Resource) -> bool:
    try:
        check_name("queue", found.name)
    except InvalidName:
        return False
    return bool(_ACCOUNT.fullmatch(found.account))


def _are_arns(sources: object) -> bool:
    if sources is None:
        return True
    return isinstance(sources, list) and all(isinstance(arn, str) and queue_of_arn(arn) for arn in sources)


def _map(text: str) -> dict[str, Any] | None:
    try:
        policy = decode_json(_REDRIVE, text)
    except PayloadNotJson:
        return None
    return policy if isinstance(policy, dict) else None


def _bad(text: str, reason: str) -> ServiceError:
    return invalid_value(_REDRIVE, text, reason)


def _unsupported() -> ServiceError:
    said = f"{_CANNOT}, as it\u2019s in an unsupported format."
    return invalid(f"Invalid value for the parameter RedriveAllowPolicy. Reason: {said}")
