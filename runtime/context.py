"""The second argument of every handler: Lambda's context object, plus the attempt and the lease's fencing token."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from broker import tracing
from broker.ids import message_id
from broker.records import FunctionSettings
from broker.tracing import Trace

FUNCTION_VERSION: Final = "$LATEST"
_USUAL: Final = FunctionSettings()


class Identity:
    """Lambda's ``context.identity``; nothing fills it outside the AWS mobile SDK."""

    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


_IDENTITY: Final = Identity()


class Client:
    """Lambda's ``context.client_context.client``: what the AWS mobile SDK says of its app; None where it does not."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    app_package_name: str | None
    app_title: str | None
    app_version_code: str | None
    app_version_name: str | None
    installation_id: str | None

    def __init__(self, given: Mapping[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, given.get(name))


class ClientContext:
    """Lambda's ``context.client_context``, of the JSON object that a caller sent with a synchronous invocation."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, given: Mapping[str, Any]) -> None:
        client = given.get("client")
        self.client: Client | None = Client(client) if isinstance(client, dict) else None
        self.custom: Any = given.get("custom")
        self.env: Any = given.get("env")


class Context:
    """What a handler can know of its call. Attributes and methods as in Lambda's Python runtime."""

    __slots__ = (
        "_deadline",
        "_identity",
        "_settings",
        "_trace",
        "attempt",
        "client_context",
        "fencing_token",
        "function_name",
        "invoked_function_arn",
        "log_stream_name",
        "tenant_id",
    )

    def __init__(
        self,
        *,
        identity: str | tuple[str, int] | None,
        function_name: str,
        invoked_function_arn: str,
        log_stream_name: str,
        deadline: float,
        attempt: int = 1,
        fencing_token: int = 0,
        client_context: ClientContext | None = None,
        settings: FunctionSettings = _USUAL,
    ) -> None:
        self._identity = identity
        # The id itself, the entry and random number that make it, or None for a call that gets one of its own.
        self.function_name: str = function_name
        self.invoked_function_arn: str = invoked_function_arn
        self.log_stream_name: str = log_stream_name
        self.attempt: int = attempt
        """1 on the first try, one more after every error or timeout; crashes do not count."""
        self.fencing_token: int = fencing_token
        """Greater for every later lease of the same event: store it with side effects and refuse smaller ones."""
        self.client_context: ClientContext | None = client_context
        """What the caller of a synchronous invocation sent with it; None where it sent nothing."""
        self.tenant_id: str | None = None
        self._deadline = deadline
        self._settings = settings
        self._trace: Trace  # set only where there is something to say

    @property
    def aws_request_id(self) -> str:
        """The same on every attempt of one event."""
        if not isinstance(self._identity, str):  # spelled out only when somebody asks
            self._identity = str(uuid.uuid4()) if self._identity is None else message_id(*self._identity)
        return self._identity

    @property
    def function_version(self) -> str:
        """The number of the version that was called, directly or by an alias; else ``$LATEST``."""
        return self._settings.version

    @property
    def memory_limit_in_mb(self) -> str:
        """The function's MemorySize as text, as in Lambda. It limits nothing here."""
        return str(self._settings.memory_mb)

    @property
    def environment(self) -> Mapping[str, str]:
        """The function's variables, as its code declares them or the API has set them; not Lambda's, but needed where
        one process serves several functions."""
        return MappingProxyType(self._settings.environment)

    @property
    def log_group_name(self) -> str:
        """``/aws/lambda/<function>``."""
        return f"/aws/lambda/{self.function_name}"

    @property
    def identity(self) -> Identity:
        """Always an object, without values."""
        return _IDENTITY

    @property
    def trace_header(self) -> str:
        """What ``_X_AMZN_TRACE_ID`` is in Lambda: the trace header of what this call sends, with its lineage."""
        return self._belongs_to.header

    @property
    def traceparent(self) -> str:
        """W3C's, of what this call sends; '' where it belongs to no trace of that kind."""
        return self._belongs_to.parent

    @property
    def tracestate(self) -> str:
        """W3C's, of what this call sends."""
        return self._belongs_to.state

    @property
    def _belongs_to(self) -> Trace:
        found: Trace | None = getattr(self, "_trace", None)
        return tracing.current() if found is None else found

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call times out, never below 0."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def log(self, message: object) -> None:
        """Writes unformatted text to standard output."""
        sys.stdout.write(str(message))
