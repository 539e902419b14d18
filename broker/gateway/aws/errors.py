"""Errors that every service can answer before or around its operations, and how an error looks in each protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker import errors
from broker.gateway.aws.service import ErrorKind, Service, ServiceError
from broker.gateway.sigv4 import printable

_CORAL: Final = "com.amazon.coral.service#"


def _common(name: str, status: int, *, code: str = "", sender: bool = True) -> ErrorKind:
    return ErrorKind(f"{_CORAL}{name}", code or name.removesuffix("Exception"), status, sender)


COMMON: Final[Mapping[str, ErrorKind]] = {
    "AccessDenied": _common("AccessDeniedException", 403),
    "IncompleteSignature": _common("IncompleteSignatureException", 400),
    "InternalFailure": _common("InternalFailure", 500, sender=False),
    "InvalidAction": _common("UnknownOperationException", 400, code="InvalidAction"),
    "InvalidAddress": _common("InvalidAddress", 404),
    "InvalidClientTokenId": _common("UnrecognizedClientException", 403, code="InvalidClientTokenId"),
    "InvalidParameterValue": _common("InvalidParameterValueException", 400),
    "InvalidQueryParameter": _common("InvalidQueryParameter", 400),
    "MalformedQueryString": _common("MalformedQueryString", 400),
    "MethodNotAllowed": _common("MethodNotAllowed", 405),
    "MissingAction": _common("MissingAction", 400),
    "MissingAuthenticationToken": _common("MissingAuthenticationTokenException", 403),
    "MissingParameter": _common("MissingRequiredParameterException", 400, code="MissingParameter"),
    "RequestEntityTooLarge": _common("RequestEntityTooLarge", 413),
    "RequestExpired": _common("RequestExpired", 400),
    "Serialization": _common("SerializationException", 400, code="SerializationException"),
    "ServiceUnavailable": _common("ServiceUnavailable", 503, sender=False),
    "SignatureDoesNotMatch": _common("InvalidSignatureException", 403, code="SignatureDoesNotMatch"),
    "ValidationException": _common("ValidationException", 400, code="ValidationException"),
}
"""Name -> how it is written. A service's own table goes before this one."""

INTERNAL: Final = ServiceError("InternalFailure", "The request processing has failed because of an unknown error.")
TOO_LARGE: Final = "The request is too large: its body may have at most {limit} bytes."

_STORE: Final[Mapping[type[errors.StoreError], str]] = {
    errors.StoreUnavailable: "The store does not answer. What became of a write is not known.",
    errors.StoreReadOnly: "The store is a read-only replica at the moment.",
    errors.StoreFull: "The store is full; nothing was stored.",
    errors.StoreThrottled: "The store is nearly full; nothing was stored.",
    errors.DurabilityNotMet: "The store is less safe than what is required; nothing was stored.",
    errors.WriteNotConfirmed: "Stored, but too few replicas have confirmed it in time. The outcome is not known.",
    errors.StoreDenied: "The store refuses the gateway.",
    errors.StoreUnsuitable: "The store has unsuitable settings.",
}


def from_store(error: errors.StoreError) -> ServiceError | None:
    """What a client hears of a store that cannot serve: 503, which SDKs try again. None for a defect."""
    message = _STORE.get(type(error))
    return None if message is None else ServiceError("ServiceUnavailable", message)


def kind_of(service: Service, name: str) -> ErrorKind:
    """How an error is written. Raises KeyError for one that no table has."""
    return service.errors.get(name) or COMMON[name]


def is_named(service: Service, name: str) -> bool:
    """Whether a table has this error; one that none has is a defect."""
    return name in service.errors or name in COMMON


def unknown_action(action: str) -> ServiceError:
    """There is no such operation."""
    return ServiceError("InvalidAction", f"The action {printable(action)} is not valid for this endpoint.")


def unknown_path() -> ServiceError:
    """There is no operation with this method and path."""
    return ServiceError("AccessDenied", "Unable to determine service/operation name to be authorized")


def wrong_service(service: str) -> ServiceError:
    """The credential scope names another service than the path."""
    return ServiceError("SignatureDoesNotMatch", f"Credential should be scoped to correct service: '{service}'.")


def missing_parameter(name: str) -> ServiceError:
    """A required member is not there."""
    return ServiceError("MissingParameter", f"The request must contain the parameter {name}.")
