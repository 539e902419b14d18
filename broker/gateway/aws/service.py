"""What a service of the AWS wire is made of: operations with typed input, and errors by name."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from broker.client import Broker
from broker.tracing import NO_TRACE, Trace

Protocol: TypeAlias = Literal["json", "query", "rest"]


class ErrorKind(msgspec.Struct, frozen=True):
    """How one error is written: ``__type`` of JSON, code of the query protocol, HTTP status, whose fault."""

    json_type: str
    code: str
    status: int = 400
    sender: bool = True
    fault: str = ""
    """REST-JSON's member ``Type``: ``User`` or ``Service``; '' leaves it out."""
    message_key: str = "message"
    """REST-JSON's name of the member with the text, which differs between shapes of one service."""


class ServiceError(Exception):
    """An answer that is an error of the service; ``name`` is a key of the service's table of errors."""

    def __init__(
        self,
        name: str,
        message: str,
        *,
        members: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.name: Final = name
        self.message: Final = message
        self.members: Final[Mapping[str, object]] = members or {}
        """More of the error's body, in REST-JSON: ``Reason``."""
        self.headers: Final[Mapping[str, str]] = headers or {}
        """More of the answer's head, in REST-JSON: ``Retry-After``."""


class Call(msgspec.Struct, frozen=True):
    """One request, as an operation sees it: who asks, for which account and region, and over which protocol."""

    broker: Broker
    """Sees the resources of :attr:`account` and :attr:`region`."""
    account: str
    region: str
    base_url: str
    """How the client reached the gateway, or its public address: queue URLs begin with it. No slash at the end."""
    protocol: Protocol
    principal: str
    """The account's id of whoever asks, as SenderId tells it."""
    key_id: str = ""
    """The access key that signed the request; '' where signatures are not verified."""
    request_id: str = ""
    """Of the answer. Only operations with a route are told."""
    trace: Trace = NO_TRACE
    """What the request belongs to, and so what it sends."""


class Route(msgspec.Struct, frozen=True):
    """Where an operation is found in REST-JSON. Its input and output say where their members are: see
    :mod:`broker.gateway.aws.rest`."""

    method: str
    path: str
    """Template: ``/2015-03-31/functions/{FunctionName}``. Segments are matched decoded, one slash at the end is
    overlooked, and a literal segment goes before a parameter."""
    status: int = 200
    """Of a success whose output does not say another."""
    too_large: str = ""
    """What is said of a body over the gateway's limit; '': the gateway's own words."""


class Frames(typing.Protocol):
    """A body that comes in pieces."""

    async def next(self) -> bytes:
        """The next piece; nothing behind the last one. Raises nothing: what goes wrong is told in the body."""
        ...

    def close(self) -> None:
        """Ends what makes it; it may have ended."""
        ...


class Streamed(msgspec.Struct, frozen=True):
    """An output of REST-JSON whose body follows piece by piece. Whoever has it closes the frames."""

    head: msgspec.Struct
    frames: Frames


class Operation(msgspec.Struct, frozen=True):
    """One action: the type of its input, what it does, and how it differs from AWS."""

    name: str
    input: type[msgspec.Struct]
    run: Callable[[Call, Any], Awaitable[msgspec.Struct | None]]
    """Raises ServiceError. None answers nothing but success."""
    differs: str = ""
    """For the reference page: what is not to the letter, and why; '' where nothing is known."""
    when_ended: msgspec.Struct | None = None
    """Of an operation that may wait for long (ReceiveMessage): what is answered when the gateway stops meanwhile.
    ``run`` is then cancelled, as it is when the client goes away; it must give back what it holds. None: never."""
    route: Route | None = None
    """Of a service that speaks REST-JSON; all operations of such a service have one, and no other form."""
    ends_with_client: bool = False
    """``run`` is cancelled when the client goes away; unlike with ``when_ended`` a stop of the gateway lets it end."""


class Service(msgspec.Struct, frozen=True):
    """One service: how requests for it are recognised, and what it can do."""

    name: str
    """As in a credential scope: ``sqs``."""
    target_prefix: str
    """Of ``X-Amz-Target``: ``AmazonSQS``; '' where there is no such form."""
    version: str
    xml_namespace: str
    operations: Mapping[str, Operation]
    errors: Mapping[str, ErrorKind]
