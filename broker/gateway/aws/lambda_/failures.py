"""Errors that only configuration answers, and texts, word for word where the real service's are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.gateway.aws.service import ErrorKind, ServiceError

FAILURES: Final[Mapping[str, ErrorKind]] = {
    "PreconditionFailedException": ErrorKind(
        "PreconditionFailedException", "PreconditionFailedException", 412, fault="User"
    ),
}
"""Name -> how it is written; beside those of :mod:`broker.gateway.aws.lambda_.errors`."""

NO_MAPPING: Final = "The resource you requested does not exist."
NO_FUNCTION: Final = "The function doesn't exist."
UNQUALIFIED_ONLY: Final = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
    "Please specify either a function name or an unqualified function ARN."
)
STALE_REVISION: Final = (
    "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve "
    "the latest Revision Id"
)


def conflict(message: str) -> ServiceError:
    """Something else is in the way."""
    return ServiceError("ResourceConflictException", message)
