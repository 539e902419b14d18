"""Which function a request means: a name, a partial or whole ARN, with a qualifier in it or beside it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from broker.gateway.aws.lambda_.errors import invalid, not_found, unknown_alias, unknown_function
from broker.gateway.aws.service import Call, ServiceError
from broker.names import Resource, check_name

NAME_PATTERN: Final = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?"
    r"([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
"""Lambda's own, also in what it says about a name that breaks it."""
QUALIFIER_PATTERN: Final = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
MAX_NAME_LENGTH: Final = 256
MAX_QUALIFIER_LENGTH: Final = 128
LATEST: Final = "$LATEST"
_PARTS: Final = re.compile(NAME_PATTERN)
_REGION, _ACCOUNT, _NAME, _QUALIFIER = 3, 9, 11, 13
_MAX_BARE_NAME: Final = 64
_CACHED_NAMES: Final = 4_096
_VERSION: Final = re.compile(r"[0-9]+")


class FunctionName(msgspec.Struct, frozen=True):
    """What a request says about its function."""

    name: str
    qualifier: str | None
    """As given; None where there is none."""

    def arn(self, call: Call) -> str:
        """Without qualifier."""
        return f"arn:aws:lambda:{call.region}:{call.account}:function:{self.name}"

    def qualified_arn(self, call: Call) -> str:
        """With the qualifier given, or $LATEST."""
        return f"{self.arn(call)}:{self.qualifier or LATEST}"

    @property
    def stored(self) -> str:
        """What is called so in the store, and by workers that serve it."""
        return self.name if self.latest else f"{self.name}:{self.qualifier}"

    @property
    def latest(self) -> bool:
        """Whether it means the newest registration."""
        return self.qualifier is None or self.qualifier == LATEST

    def resource(self, call: Call) -> Resource:
        """The function in the store. Raises ServiceError for a name that none can have, which does not exist then."""
        if len(self.name) > _MAX_BARE_NAME or "." in self.name:
            raise unknown_function(self.qualified_arn(call))
        return call.broker.core.resource("function", check_name("function", self.name))


def read_name(call: Call, given: str, qualifier: str | None = None) -> FunctionName:
    """The function that a request means, in the account and region of whoever asks. Raises ServiceError.

    ``given`` has matched :data:`NAME_PATTERN`.
    """
    parts = _parts(given)
    if parts is None:
        raise invalid(f"{given} is not the name of a function")
    region, account, bare, inner = parts
    if region is not None and region[:-1] != call.region:
        raise not_found(f"Functions from '{region[:-1]}' are not reachable in this region ('{call.region}')")
    if inner is not None and qualifier is not None and inner != qualifier:
        raise invalid("The derived qualifier from the function name does not match the specified qualifier.")
    name = FunctionName(bare, inner or qualifier)
    if account is not None and account[:-1] != call.account:
        raise _not_yours(call, f"arn:aws:lambda:{call.region}:{account}function:{name.name}")
    return name


@lru_cache(maxsize=_CACHED_NAMES)
def _parts(given: str) -> tuple[str | None, str | None, str, str | None] | None:
    """Region and account, each with its colon, name and qualifier; None for what is no function's name."""
    found = _PARTS.fullmatch(given)
    return None if found is None else (found[_REGION], found[_ACCOUNT], found[_NAME], found[_QUALIFIER])


def _not_yours(call: Call, arn: str) -> ServiceError:
    return ServiceError(
        "AccessDenied",
        f"User: arn:aws:iam::{call.principal}:root is not authorized to perform: lambda:InvokeFunction on resource: "
        f"{arn} because no resource-based policy allows the lambda:InvokeFunction action",
    )


def no_such_qualifier(call: Call, name: FunctionName) -> ServiceError:
    """The function is there, but what is behind the qualifier is not."""
    arn = name.qualified_arn(call)
    qualifier = name.qualifier or LATEST
    return unknown_function(arn) if qualifier[0] == "$" or _VERSION.fullmatch(qualifier) else unknown_alias(arn)
