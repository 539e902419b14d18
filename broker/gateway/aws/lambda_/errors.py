"""Lambda's errors: how each is written, and its text, word for word where the real service's is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeAlias

import msgspec

from broker import errors
from broker.gateway.aws.service import Call, ErrorKind, ServiceError

Action: TypeAlias = Callable[[Call, Any], Awaitable[msgspec.Struct | None]]

RETRY_AFTER_S: Final = 1
_CAPITAL: Final = "Message"


def _user(name: str, status: int, *, message_key: str = "message") -> ErrorKind:
    return ErrorKind(name, name, status, fault="User", message_key=message_key)


def _service(name: str, status: int, *, message_key: str = _CAPITAL) -> ErrorKind:
    return ErrorKind(name, name, status, sender=False, fault="Service", message_key=message_key)


ERRORS: Final[Mapping[str, ErrorKind]] = {
    "InvalidParameterValueException": _user("InvalidParameterValueException", 400),
    "InvalidRequestContentException": _user("InvalidRequestContentException", 400),
    "RecursiveInvocationException": _user("RecursiveInvocationException", 400, message_key=_CAPITAL),
    "RequestTooLargeException": _user("RequestTooLargeException", 413),
    "ResourceConflictException": _user("ResourceConflictException", 409),
    "ResourceNotFoundException": _user("ResourceNotFoundException", 404, message_key=_CAPITAL),
    "ResourceNotReadyException": _service("ResourceNotReadyException", 502, message_key="message"),
    "ServiceException": _service("ServiceException", 500),
    "TooManyRequestsException": _user("TooManyRequestsException", 429),
    # What every service can answer, in Lambda's form.
    "InternalFailure": _service("ServiceException", 500),
    "InvalidParameterValue": _user("InvalidParameterValueException", 400),
    "RequestEntityTooLarge": _user("RequestTooLargeException", 413),
}
"""Name -> how it is written. Keys of the models differ in how they spell ``message``; so do these."""

REASONS: Final[Mapping[str, str]] = {
    "concurrency": "ReservedFunctionConcurrentInvocationLimitExceeded",
    "paused": "ReservedFunctionConcurrentInvocationLimitExceeded",
    "workers": "ConcurrentInvocationLimitExceeded",
    "memory": "CallerRateLimitExceeded",
}
"""What :class:`broker.errors.CallThrottled` ran into -> ``Reason``. A pause is Lambda's reserved concurrency of 0;
memory is the store's."""


def invalid(message: str) -> ServiceError:
    """Some parameter breaks a rule."""
    return ServiceError("InvalidParameterValueException", message)


def bad_content(message: str) -> ServiceError:
    """The event or the client context cannot be used."""
    return ServiceError("InvalidRequestContentException", message)


def not_found(message: str) -> ServiceError:
    """Something named does not exist."""
    return ServiceError("ResourceNotFoundException", message)


def unknown_function(qualified_arn: str) -> ServiceError:
    """There is no such function, or no such version of it."""
    return not_found(f"Function not found: {qualified_arn}")


def unknown_alias(qualified_arn: str) -> ServiceError:
    """The function has no such alias."""
    return not_found(f"Cannot find alias arn: {qualified_arn}")


def too_large(limit_bytes: int, operation: str) -> str:
    """What is said of an event over the limit."""
    return f"Request must be smaller than {limit_bytes} bytes for the {operation} operation"


def throttled(limit: str) -> ServiceError:
    """The function, or the store, is at its limit."""
    members, headers = {"Reason": REASONS[limit]}, {"Retry-After": str(RETRY_AFTER_S)}
    return ServiceError("TooManyRequestsException", "Rate Exceeded.", members=members, headers=headers)


def no_worker(function: str) -> ServiceError:
    """No live worker serves the function."""
    message = f"No live worker serves the function {function}. Start one and try the request again."
    return ServiceError("ResourceNotReadyException", message)


def translated(action: Action) -> Action:
    """The action, raising Lambda's errors where the broker raises its own. The rest of the
    StoreError family passes through."""

    @wraps(action)
    async def run(call: Call, wanted: Any) -> msgspec.Struct | None:
        try:
            return await action(call, wanted)
        except errors.CallThrottled as error:
            raise throttled(error.limit) from error
        except errors.StoreFull as error:
            raise throttled("memory") from error
        except errors.NoLiveWorker as error:
            raise no_worker(error.function) from error
        except errors.RecursiveInvocation as error:
            raise ServiceError("RecursiveInvocationException", errors.RECURSION_STOPPED) from error
        except errors.InvalidInput as error:
            raise invalid(str(error)) from error

    return run
