"""REST-JSON: routes, members in path, query, head and body, errors, signatures, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from msgspec import Meta

from broker import Broker
from broker.gateway.access import Access, AccessKey
from broker.gateway.app import gateway_app
from broker.gateway.aws.service import Call, ErrorKind, Operation, Route, Service, ServiceError
from broker.gateway.server import Bound
from tests.gateway.tiny import Answered, asked, connected, json_request, request, serving, tiny

_VERSION = "/2015-03-31"


class Inner(msgspec.Struct, frozen=True, rename="pascal"):
    target: Annotated[str, Meta(extra={"max": 5})] | None = None


class ThingRequest(msgspec.Struct, frozen=True, rename="pascal"):
    name: Annotated[str, Meta(extra={"in": "path", "name": "ThingName", "pattern": "[a-z:0-9/]+", "max": 20})]
    size: int
    marker: Annotated[str | None, Meta(extra={"in": "query", "name": "Marker"})] = None
    count: Annotated[int | None, Meta(extra={"in": "query", "name": "Count", "min": 1, "max": 10})] = None
    keys: Annotated[list[str] | None, Meta(extra={"in": "query", "name": "keys"})] = None
    kind: Annotated[str, Meta(extra={"in": "header", "name": "X-Kind", "enum": ("One", "Two")})] = "One"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    inner: Inner | None = None


class ThingAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    given: dict[str, Any]
    nothing: str | None = None
    version: Annotated[str | None, Meta(extra={"in": "header", "name": "X-Version"})] = None
    status: Annotated[int | None, Meta(extra={"in": "status"})] = None


class RawRequest(msgspec.Struct, frozen=True, rename="pascal"):
    name: Annotated[str, Meta(extra={"in": "path", "name": "ThingName"})]
    payload: Annotated[bytes, Meta(extra={"in": "payload"})] = b""


class RawAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    payload: Annotated[bytes | None, Meta(extra={"in": "payload"})] = None
    id: Annotated[str | None, Meta(extra={"in": "request_id"})] = None


class Listed(msgspec.Struct, frozen=True, rename="pascal"):
    things: list[str]


class Nothing(msgspec.Struct, frozen=True):
    pass


class Things:
    """A service with routes, and what it has seen."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()

    async def put(self, call: Call, given: ThingRequest) -> ThingAnswer:
        if given.name == "busy":
            raise ServiceError("Busy", "Rate Exceeded.", members={"Reason": "All"}, headers={"Retry-After": "7"})
        assert call.protocol == "rest"
        assert call.request_id
        return ThingAnswer(msgspec.to_builtins(given), version="3", status=None if given.size else 207)

    async def raw(self, call: Call, given: RawRequest) -> RawAnswer:
        return RawAnswer(given.payload[::-1], id="an-id" if given.payload else None)

    async def listed(self, call: Call, given: Nothing) -> Listed:
        return Listed([call.account])

    async def drop(self, call: Call, given: RawRequest) -> None:
        return None

    async def wait(self, call: Call, given: Nothing) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def service(self) -> Service:
        one = f"{_VERSION}/things/{{ThingName}}"
        operations = (
            Operation("Put", ThingRequest, self.put, route=Route("PUT", one, 201)),
            Operation("Raw", RawRequest, self.raw, route=Route("POST", f"{one}/raw", too_large="So large!")),
            Operation("List", Nothing, self.listed, route=Route("GET", f"{_VERSION}/things/list")),
            Operation("Get", RawRequest, self.raw, route=Route("GET", one)),
            Operation("Drop", RawRequest, self.drop, route=Route("DELETE", one, 204)),
            Operation("Wait", Nothing, self.wait, route=Route("POST", f"{_VERSION}/wait"), ends_with_client=True),
        )
        errors = {
            "Busy": ErrorKind("BusyException", "Busy", 429, fault="User"),
            "InternalFailure": ErrorKind(
                "ServiceException", "", 500, sender=False, fault="Service", message_key="Message"
            ),
        }
        return Service("lambda", "", "2015-03-31", "", {each.name: each for each in operations}, errors)


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
async def bound(broker: Broker, things: Things) -> AsyncIterator[Bound]:
    services = [tiny().service(), things.service()]
    async with serving(gateway_app(broker, Access(), services=services, max_body_bytes=8192)) as running:
        yield running


async def sent(
    bound: Bound, method: str, path: str, body: object = b"", headers: Mapping[str, str] | None = None
) -> Answered:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return await asked(bound, request(method, path, headers, data))


async def test_members_come_from_path_query_head_and_body(bound: Bound) -> None:
    path = f"{_VERSION}/things/a%3A1%2Fb?Marker=m%20n&Count=3&keys=x&keys=y"
    answer = await sent(bound, "PUT", path, {"Size": 1, "Labels": {"a": "b"}}, {"X-Kind": "Two"})
    assert (answer.status, answer.headers["x-version"]) == (201, "3")
    assert answer.headers["content-type"] == "application/json"
    given = answer.json["Given"]
    assert given == {
        "Name": "a:1/b", "Size": 1, "Marker": "m n", "Count": 3, "Keys": ["x", "y"], "Kind": "Two",
        "Labels": {"a": "b"}, "Inner": None,
    }  # fmt: skip
    assert set(answer.json) == {"Given"}


async def test_an_output_can_choose_its_status_and_request_id(bound: Bound) -> None:
    assert (await sent(bound, "PUT", f"{_VERSION}/things/a", {"Size": 0})).status == 207
    assert (await sent(bound, "POST", f"{_VERSION}/things/a/raw", b"abc")).headers["x-amzn-requestid"] == "an-id"


async def test_a_payload_goes_through_as_it_is(bound: Bound) -> None:
    answer = await sent(bound, "POST", f"{_VERSION}/things/a/raw/", b"\x00\xffabc")
    assert answer.body == b"cba\xff\x00"


async def test_an_empty_answer_has_no_content_type_and_204_no_length(bound: Bound) -> None:
    empty = await sent(bound, "POST", f"{_VERSION}/things/a/raw")
    assert (empty.status, empty.body, empty.headers.get("content-type")) == (200, b"", None)
    dropped = await sent(bound, "DELETE", f"{_VERSION}/things/a")
    assert (dropped.status, dropped.headers.get("content-length")) == (204, None)


async def test_a_literal_segment_goes_before_a_parameter(bound: Bound) -> None:
    assert (await sent(bound, "GET", f"{_VERSION}/things/list")).json == {"Things": ["000000000000"]}
    assert (await sent(bound, "GET", f"{_VERSION}/things/other")).body == b""


async def test_an_error_has_its_type_in_the_head_and_what_it_adds_in_the_body(bound: Bound) -> None:
    answer = await sent(bound, "PUT", f"{_VERSION}/things/busy", {"Size": 1})
    assert (answer.status, answer.headers["x-amzn-errortype"], answer.headers["retry-after"]) == (
        429, "BusyException", "7",
    )  # fmt: skip
    assert answer.json == {"Type": "User", "message": "Rate Exceeded.", "Reason": "All"}


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PATCH", "/things/a"), ("GET", "/things/a/b/c/d")])
async def test_an_unknown_path_or_method_is_told_in_the_words_of_aws(bound: Bound, method: str, path: str) -> None:
    answer = await sent(bound, method, _VERSION + path)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert answer.json == {"message": "Unable to determine service/operation name to be authorized"}


async def test_all_broken_bounds_are_told_together(bound: Bound) -> None:
    path = f"{_VERSION}/things/BAD?Count=11"
    answer = await sent(bound, "PUT", path, {"Size": 1, "Inner": {"Target": "toolong"}}, {"X-Kind": "Three"})
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert answer.json == {
        "message": "4 validation errors detected: "
        "Value 'BAD' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: "
        "[a-z:0-9/]+; Value '11' at 'count' failed to satisfy constraint: Member must have value less than or equal "
        "to 10; Value 'Three' at 'kind' failed to satisfy constraint: Member must satisfy enum value set: [One, Two]; "
        "Value 'toolong' at 'inner.target' failed to satisfy constraint: Member must have length less than or equal "
        "to 5"
    }


@pytest.mark.parametrize(
    ("query", "body"), [("?Count=x", b'{"Size":1}'), ("", b"{"), ("", b'{"Size":"1"}'), ("", b"[]"), ("", b"\xff")]
)
async def test_what_cannot_be_read_is_a_serialization_exception(bound: Bound, query: str, body: bytes) -> None:
    answer = await sent(bound, "PUT", f"{_VERSION}/things/a{query}", body)
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (400, "SerializationException")


async def test_a_required_member_that_is_missing_is_named(bound: Bound) -> None:
    answer = await sent(bound, "PUT", f"{_VERSION}/things/a")
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert answer.json == {
        "message": "1 validation error detected: Value null at 'size' failed to satisfy constraint: Member must not be "
        "null"
    }


async def test_a_body_over_the_limit_is_refused_in_the_words_of_the_route(bound: Bound) -> None:
    answer = await sent(bound, "POST", f"{_VERSION}/things/a/raw", b"x" * 9000)
    assert (answer.status, answer.json["message"]) == (413, "So large!")


async def test_requests_of_other_services_are_not_touched(bound: Bound) -> None:
    answer = await asked(bound, json_request("Nothing", {}))
    assert answer.json == {}


async def test_a_scope_of_another_service_is_refused(bound: Bound) -> None:
    credential = "AWS4-HMAC-SHA256 Credential=1/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=x"
    answer = await sent(bound, "GET", f"{_VERSION}/things/a", headers={"Authorization": credential})
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")


async def test_work_ends_when_its_client_goes_away(bound: Bound, things: Things) -> None:
    async with connected(bound) as connection:
        await connection.send(request("POST", f"{_VERSION}/wait"))
        async with asyncio.timeout(10):
            await things.begun.wait()
    async with asyncio.timeout(10):
        await things.cancelled.wait()


async def test_work_that_is_under_way_may_end_while_the_gateway_stops(broker: Broker, things: Things) -> None:
    app = gateway_app(broker, Access(), services=[tiny().service(), things.service()])
    async with AsyncExitStack() as client:
        async with serving(app) as bound:
            connection = await client.enter_async_context(connected(bound))
            await connection.send(request("POST", f"{_VERSION}/wait"))
            async with asyncio.timeout(10):
                await things.begun.wait()
            asyncio.get_running_loop().call_later(0.05, things.go.set)
        assert (await connection.answer()).status == 200
    assert not things.cancelled.is_set()


@pytest.mark.parametrize("name", ["plain", "arn%3Aaws%3A1", "arn:aws:1", "a%20b", "a%252Fb"])
@pytest.mark.parametrize("query", ["", "?keys=b&keys=a&Marker=x%2By"])
async def test_signatures_hold_over_encoded_paths_and_repeated_parameters(
    broker: Broker, things: Things, name: str, query: str
) -> None:
    access = Access([AccessKey("key", "secret", "123456789012")])
    services = [tiny().service(), things.service()]
    async with serving(gateway_app(broker, access, services=services)) as bound:
        path = f"{_VERSION}/things/{name}/raw{query}"
        for secret, status in (("secret", 200), ("wrong", 403)):
            signed = AWSRequest("POST", f"{bound.url}{path}", data=b"abc")
            SigV4Auth(Credentials("key", secret), "lambda", "us-east-1").add_auth(signed)
            headers = {"Host": f"{bound.host}:{bound.port}", **dict(signed.headers.items())}
            assert (await sent(bound, "POST", path, b"abc", headers)).status == status
