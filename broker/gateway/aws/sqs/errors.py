"""SQS's errors: how each is written, and its text, word for word where the real service's is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeAlias

import msgspec

from broker import errors
from broker.gateway.aws.service import Call, ErrorKind, Protocol, ServiceError

Action: TypeAlias = Callable[[Call, Any], Awaitable[msgspec.Struct | None]]

_SQS: Final = "com.amazonaws.sqs#"
_CORAL: Final = "com.amazon.coral.service#"
_LEGACY: Final = "AWS.SimpleQueueService."


def _shape(name: str, code: str | None = None, status: int = 400) -> ErrorKind:
    return ErrorKind(f"{_SQS}{name}", code or name, status)


ERRORS: Final[Mapping[str, ErrorKind]] = {
    "QueueDoesNotExist": _shape("QueueDoesNotExist", f"{_LEGACY}NonExistentQueue"),
    "QueueNameExists": _shape("QueueNameExists", "QueueAlreadyExists"),
    "QueueDeletedRecently": _shape("QueueDeletedRecently", f"{_LEGACY}QueueDeletedRecently"),
    "PurgeQueueInProgress": _shape("PurgeQueueInProgress", f"{_LEGACY}PurgeQueueInProgress", 403),
    "OverLimit": _shape("OverLimit", status=403),
    "MessageNotInflight": _shape("MessageNotInflight", f"{_LEGACY}MessageNotInflight"),
    "EmptyBatchRequest": _shape("EmptyBatchRequest", f"{_LEGACY}EmptyBatchRequest"),
    "TooManyEntriesInBatchRequest": _shape("TooManyEntriesInBatchRequest", f"{_LEGACY}TooManyEntriesInBatchRequest"),
    "BatchEntryIdsNotDistinct": _shape("BatchEntryIdsNotDistinct", f"{_LEGACY}BatchEntryIdsNotDistinct"),
    "InvalidBatchEntryId": _shape("InvalidBatchEntryId", f"{_LEGACY}InvalidBatchEntryId"),
    "BatchRequestTooLong": _shape("BatchRequestTooLong", f"{_LEGACY}BatchRequestTooLong"),
    "UnsupportedOperation": _shape("UnsupportedOperation", f"{_LEGACY}UnsupportedOperation"),
    "ResourceNotFoundException": _shape("ResourceNotFoundException", status=404),
    "ReceiptHandleIsInvalid": _shape("ReceiptHandleIsInvalid"),
    "InvalidIdFormat": _shape("InvalidIdFormat"),
    "InvalidMessageContents": _shape("InvalidMessageContents"),
    "InvalidAttributeName": _shape("InvalidAttributeName"),
    "InvalidAttributeValue": _shape("InvalidAttributeValue"),
    "InvalidAddress": _shape("InvalidAddress"),
    "InvalidSecurity": _shape("InvalidSecurity", status=403),
    "RequestThrottled": _shape("RequestThrottled", status=403),
    "KmsAccessDenied": _shape("KmsAccessDenied", "KMS.AccessDeniedException"),
    "KmsDisabled": _shape("KmsDisabled", "KMS.DisabledException"),
    "KmsInvalidKeyUsage": _shape("KmsInvalidKeyUsage", "KMS.InvalidKeyUsageException"),
    "KmsInvalidState": _shape("KmsInvalidState", "KMS.InvalidStateException"),
    "KmsNotFound": _shape("KmsNotFound", "KMS.NotFoundException"),
    "KmsOptInRequired": _shape("KmsOptInRequired", "KMS.OptInRequired", 403),
    "KmsThrottled": _shape("KmsThrottled", "KMS.ThrottlingException"),
    "AccessDenied": ErrorKind(f"{_CORAL}AccessDeniedException", "AccessDenied", 403),
    "InvalidParameterValue": ErrorKind(f"{_CORAL}InvalidParameterValueException", "InvalidParameterValue"),
    "MissingParameter": ErrorKind(f"{_CORAL}MissingRequiredParameterException", "MissingParameter"),
}
"""Name -> how it is written in JSON (``__type``) and in the query protocol (code), and its status."""

WRONG_FOR_KIND: Final = "The request include parameter that is not valid for this queue type."
NO_DEDUPLICATION: Final = (
    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
)
_MAX_TOLD: Final = 500
_UNKNOWN_QUEUE: Final[Mapping[Protocol, str]] = {
    "json": "The specified queue does not exist.",
    "query": "The specified queue does not exist for this wsdl version.",
}


def told(value: object) -> str:
    """What a client sent, short enough to be told back; what is longer ends in an ellipsis."""
    text = str(value)
    return text if len(text) <= _MAX_TOLD else f"{text[:_MAX_TOLD]}…"


def invalid(message: str) -> ServiceError:
    """Some parameter breaks a rule."""
    return ServiceError("InvalidParameterValue", message)


def invalid_value(parameter: str, value: object, reason: str) -> ServiceError:
    """A parameter's value breaks a rule."""
    return invalid(f"Value {told(value)} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> ServiceError:
    """A parameter is not there, or empty."""
    return ServiceError("MissingParameter", f"The request must contain the parameter {parameter}.")


def unknown_attribute(name: str) -> ServiceError:
    """There is no such attribute, or it cannot be set."""
    return ServiceError("InvalidAttributeName", f"Unknown Attribute {told(name)}.")


def invalid_attribute(name: str, reason: str = "") -> ServiceError:
    """An attribute of a queue has a value that it cannot have."""
    said = f"Invalid value for the parameter {name}."
    return ServiceError("InvalidAttributeValue", f"{said} Reason: {reason}" if reason else said)


def unknown_queue(protocol: Protocol) -> ServiceError:
    """The queue does not exist, in the words of the protocol."""
    return ServiceError("QueueDoesNotExist", _UNKNOWN_QUEUE[protocol])


def too_large(limit_bytes: int) -> ServiceError:
    """One message is over its queue's limit."""
    return invalid(f"One or more parameters are invalid. Reason: Message must be shorter than {limit_bytes} bytes.")


def throttled() -> ServiceError:
    """Redis is full, or nearly: nothing was stored, and the sender may try again."""
    return ServiceError("RequestThrottled", "The store is full at the moment; nothing was stored. Try again later.")


def code_of(error: ServiceError) -> str:
    """The code under which an entry of a batch tells of it."""
    return ERRORS[error.name].code


def translated(action: Action) -> Action:
    """The action, raising SQS's errors where the broker raises its own. The rest of the
    StoreError family passes through."""

    @wraps(action)
    async def run(call: Call, wanted: Any) -> msgspec.Struct | None:
        try:
            return await action(call, wanted)
        except errors.StoreFull as error:
            raise throttled() from error
        except (errors.InvalidInput, errors.NotFound, errors.Conflict) as error:
            raise from_broker(error, call.protocol) from error

    return run


def from_broker(error: errors.PenstockError, protocol: Protocol) -> ServiceError:
    """SQS's error for one of the broker's."""
    match error:
        case errors.QueueNotFound():
            return unknown_queue(protocol)
        case errors.PayloadTooLarge():
            return too_large(error.limit_bytes)
        case errors.DeduplicationIdMissing():
            return invalid(NO_DEDUPLICATION)
        case errors.QueueDeletedRecently():
            return ServiceError(
                "QueueDeletedRecently",
                "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
            )
        case errors.TooManyInFlight():
            return ServiceError("OverLimit", f"Too many messages of queue {error.name} are in flight.")
        case _:
            return invalid(f"One or more parameters are invalid. Reason: {told(error)}")
