"""A small service with all the shapes of SQS, and raw HTTP to reach it by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import msgspec
from msgspec import Meta

from broker import Broker, errors
from broker.gateway.access import Access
from broker.gateway.app import gateway_app
from broker.gateway.asgi import AsgiApp
from broker.gateway.aws.service import Call, ErrorKind, Operation, Service, ServiceError
from broker.gateway.aws.sts import STS
from broker.gateway.protocol import Limits
from broker.gateway.server import Bound, serve


class Value(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    data_type: str
    string_value: str | None = None
    binary_value: bytes | None = None


class Entry(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    id: str
    body: str
    attributes: Annotated[
        dict[str, Value] | None, Meta(extra={"query": "MessageAttribute", "key": "Name", "value": "Value"})
    ] = None


class EchoRequest(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    queue_url: str
    number: int | None = None
    flag: bool | None = None
    names: Annotated[list[str], Meta(extra={"query": "AttributeName"})] | None = None
    tags: Annotated[dict[str, str], Meta(extra={"query": "Tag", "key": "Key"})] | None = None
    entries: Annotated[list[Entry], Meta(extra={"query": "EchoEntry"})] | None = None


class EchoResult(EchoRequest, frozen=True, rename="pascal", omit_defaults=True):
    account: str = ""
    region: str = ""


class NameRequest(msgspec.Struct, frozen=True, rename="pascal"):
    name: str


class Waited(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    messages: Annotated[list[str], Meta(extra={"query": "Message"})] | None = None


class Empty(msgspec.Struct, frozen=True):
    pass


@dataclass
class Tiny:
    """The service, and what its operations have seen."""

    calls: list[Call]
    waiting: asyncio.Semaphore
    """Released by each call that begins to wait."""
    release: asyncio.Event
    """Ends the waits of all calls."""
    cancelled: int = 0

    async def echo(self, call: Call, given: EchoRequest) -> EchoResult:
        self.calls.append(call)
        fields = {name: getattr(given, name) for name in given.__struct_fields__}
        return EchoResult(**fields, account=call.account, region=call.region)

    async def fail(self, call: Call, given: NameRequest) -> None:
        match given.name:
            case "defect":
                raise ZeroDivisionError("a defect")
            case "unavailable":
                raise errors.StoreUnavailable("no answer from Redis at redis://secret-host")
            case "full":
                raise errors.StoreFull("full")
            case "fault":
                raise errors.StoreFault("WRONGTYPE")
            case "unknown-name":
                raise ServiceError("NotInAnyTable", "oops")
            case name:
                raise ServiceError(name, f"it is <{name}> & \x00 more")

    async def wait(self, call: Call, given: Empty) -> Waited:
        self.waiting.release()
        try:
            async with asyncio.timeout(60):
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Waited(["late"])

    async def nothing(self, call: Call, given: Empty) -> None:
        return None

    def service(self) -> Service:
        operations = (
            Operation("Echo", EchoRequest, self.echo),
            Operation("Fail", NameRequest, self.fail),
            Operation("Wait", Empty, self.wait, when_ended=Waited()),
            Operation("Sleep", Empty, self.wait),
            Operation("Nothing", Empty, self.nothing),
        )
        return Service(
            "sqs",
            "AmazonSQS",
            "2012-11-05",
            "http://queue.amazonaws.com/doc/2012-11-05/",
            {operation.name: operation for operation in operations},
            {
                "Gone": ErrorKind("com.amazonaws.sqs#Gone", "AWS.SimpleQueueService.Gone", 404),
                "Limit": ErrorKind("com.amazonaws.sqs#Limit", "Limit", 403),
            },
        )


def tiny() -> Tiny:
    return Tiny([], asyncio.Semaphore(0), asyncio.Event())


def tiny_app(
    broker: Broker, given: Tiny, access: Access | None = None, *, max_body_bytes: int = 8192, **options: Any
) -> AsgiApp:
    services = [given.service(), STS]
    return gateway_app(broker, access or Access(), services=services, max_body_bytes=max_body_bytes, **options)


@dataclass(frozen=True)
class Answered:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def xml(self) -> ET.Element:
        return ET.fromstring(self.body)  # noqa: S314 - our own answer

    @property
    def code(self) -> str:
        """The error's code, whatever the protocol."""
        if self.headers["content-type"] == "text/xml":
            return str(self.text("Error/Code"))
        return self.headers["x-amzn-query-error"].partition(";")[0]

    def text(self, path: str) -> str | None:
        namespace = self.xml.tag.partition("}")[0] + "}"
        return self.xml.findtext("/".join(namespace + step for step in path.split("/")))


class Connection:
    """One connection, over which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self, *, head_only: bool = False) -> Answered:
        """Reads one answer; EOFError when there is none."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            length = 0 if head_only else int(headers.get("content-length", "0"))
            return Answered(int(first.split()[1]), headers, await self.reader.readexactly(length))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> bool:
        """Whether the server has closed; waits for it."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def connected(bound: Bound) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(bound.host, bound.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def request(
    method: str = "POST", target: str = "/", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """The bytes of a request."""
    given = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def json_request(operation: str, given: object, **headers: str) -> bytes:
    """A request of the JSON protocol."""
    body = given if isinstance(given, bytes) else msgspec.json.encode(given)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(
        headers={"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{operation}", **named},
        body=body,
    )


def form_request(form: str, target: str = "/", **headers: str) -> bytes:
    """A request of the query protocol."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(
        target=target, headers={"Content-Type": "application/x-www-form-urlencoded", **named}, body=form.encode()
    )


async def asked(bound: Bound, data: bytes, *, head_only: bool = False) -> Answered:
    """One request on a connection of its own."""
    async with connected(bound) as connection:
        await connection.send(data)
        return await connection.answer(head_only=head_only)


@asynccontextmanager
async def serving(app: AsgiApp, **options: Any) -> AsyncIterator[Bound]:
    """The app on a free port; limits of time are looked after often, so that a test need not wait."""
    options.setdefault("grace_s", 5.0)
    async with serve(app, look_every_s=0.02, **options) as bound:
        yield bound


QUICK = Limits(head_s=0.1, body_stall_s=0.1, idle_s=0.15, write_stall_s=0.2)
"""Limits of time that a test can wait for."""
