"""The frame: which operation is meant, what it is given, how it is answered, in both protocols."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog.testing

from broker import Broker
from broker.gateway.hosts import Hosts
from broker.gateway.server import AddressUnusable, Bound, serve
from tests.gateway.tiny import (
    Tiny,
    asked,
    connected,
    form_request,
    json_request,
    request,
    serving,
    tiny,
    tiny_app,
)

SIGNED = "AWS4-HMAC-SHA256 Credential={}/20261121/{}/{}/aws4_request, SignedHeaders=host, Signature=0"
URL = {"QueueUrl": "http://localhost/000000000000/q"}


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[tuple[Bound, Tiny]]:
    given = tiny()
    async with serving(tiny_app(broker, given)) as bound:
        yield bound, given


async def test_a_json_request_reaches_its_operation_and_is_answered(broker: Broker) -> None:
    async with running(broker) as (bound, given):
        answer = await asked(bound, json_request("Echo", {**URL, "Number": 7, "Tags": {"a": "b"}, "Unknown": [1]}))
    assert answer.status == 200
    assert answer.json == {**URL, "Number": 7, "Tags": {"a": "b"}, "Account": "000000000000", "Region": "us-east-1"}
    assert answer.headers["content-type"] == "application/x-amz-json-1.0"
    assert str(uuid.UUID(answer.headers["x-amzn-requestid"]))
    assert answer.headers["date"].endswith("GMT")
    assert "server" not in answer.headers
    assert given.calls[0].base_url == "http://localhost"
    assert given.calls[0].protocol == "json"


async def test_json_1_1_is_answered_in_json_1_1(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, json_request("Nothing", b"", Content_Type="application/x-amz-json-1.1"))
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"


async def test_a_form_reaches_its_operation_and_is_answered_in_xml(broker: Broker) -> None:
    form = (
        "Action=Echo&Version=2012-11-05&QueueUrl=http%3A%2F%2Flocalhost%2F000000000000%2Fq&Number=7&Flag=true"
        "&AttributeName.1=All&AttributeName.2=x+y&Tag.1.Key=a&Tag.1.Value=%3C%26%00"
        "&EchoEntry.1.Id=one&EchoEntry.1.Body=&EchoEntry.1.MessageAttribute.1.Name=n"
        "&EchoEntry.1.MessageAttribute.1.Value.DataType=Binary&EchoEntry.1.MessageAttribute.1.Value.BinaryValue=AQI%3D"
    )
    async with running(broker) as (bound, given):
        answer = await asked(bound, form_request(form))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/xml"
    assert given.calls[0].protocol == "query"
    assert answer.xml.tag == "{http://queue.amazonaws.com/doc/2012-11-05/}EchoResponse"
    assert answer.text("ResponseMetadata/RequestId") == answer.headers["x-amzn-requestid"]
    assert answer.text("EchoResult/Number") == "7"
    assert answer.text("EchoResult/Flag") == "true"
    assert b"<AttributeName>All</AttributeName><AttributeName>x y</AttributeName>" in answer.body
    assert "<Tag><Key>a</Key><Value>&lt;&amp;\ufffd</Value></Tag>".encode() in answer.body
    assert (
        b"<EchoEntry><Id>one</Id><Body></Body><MessageAttribute><Name>n</Name><Value><DataType>Binary</DataType>"
        b"<BinaryValue>AQI=</BinaryValue></Value></MessageAttribute></EchoEntry>"
    ) in answer.body


async def test_get_takes_the_form_from_the_query_and_the_queue_from_the_path(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, request("GET", "/123456789012/orders?Action=Echo&Version=2012-11-05"))
        other = await asked(bound, form_request("Action=Echo&QueueUrl=mine", target="/123456789012/orders"))
    assert answer.text("EchoResult/QueueUrl") == "http://localhost/123456789012/orders"
    assert other.text("EchoResult/QueueUrl") == "mine"


async def test_an_operation_without_output_has_no_result_element(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, form_request("Action=Nothing"))
    assert b"NothingResult" not in answer.body
    assert answer.text("ResponseMetadata/RequestId")


@pytest.mark.parametrize(
    ("key", "region", "account", "seen"),
    [
        ("123456789012", "eu-west-1", "123456789012", "eu-west-1"),
        ("test", "us-east-1", "000000000000", "us-east-1"),
        ("12345678901", "x", "000000000000", "x"),
    ],
)
async def test_without_keys_the_credential_scope_names_account_and_region(
    broker: Broker, key: str, region: str, account: str, seen: str
) -> None:
    async with running(broker) as (bound, given):
        answer = await asked(bound, json_request("Echo", URL, Authorization=SIGNED.format(key, region, "sqs")))
        presigned = f"/?Action=Echo&QueueUrl=q&X-Amz-Credential={key}%2F20261121%2F{region}%2Fsqs%2Faws4_request"
        queried = await asked(bound, request("GET", presigned))
    assert (answer.json["Account"], answer.json["Region"]) == (account, seen)
    assert queried.text("EchoResult/Region") == seen
    settings = given.calls[0].broker.core.settings
    assert (settings.account, settings.region) == (account, seen)
    assert given.calls[0].broker is given.calls[1].broker


async def test_what_is_no_region_is_refused(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, json_request("Echo", URL, Authorization=SIGNED.format("a", "US{}", "sqs")))
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")


async def test_sts_says_who_asks(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        form = "Action=GetCallerIdentity&Version=2011-06-15"
        answer = await asked(bound, form_request(form))
        scoped = await asked(bound, form_request(form, Authorization=SIGNED.format("123456789012", "x", "sts")))
    assert answer.text("GetCallerIdentityResult/Account") == "000000000000"
    assert scoped.text("GetCallerIdentityResult/Arn") == "arn:aws:iam::123456789012:root"
    assert scoped.xml.tag.startswith("{https://sts.amazonaws.com/doc/2011-06-15/}")


@pytest.mark.parametrize(
    ("data", "status", "code", "message"),
    [
        (json_request("Nosuch", {}), 400, "InvalidAction", "The action Nosuch is not valid for this endpoint."),
        (json_request("Echo", b"{"), 400, "SerializationException", "Input data was truncated"),
        (json_request("Echo", b"[]"), 400, "SerializationException", "Expected `object`, got `array`"),
        (json_request("Echo", {"QueueUrl": 1}), 400, "SerializationException", "Expected `str`, got `int`"),
        (json_request("Echo", {}), 400, "MissingParameter", "The request must contain the parameter QueueUrl."),
        (json_request("Echo", {"QueueUrl": None}), 400, "MissingParameter", "the parameter QueueUrl."),
        (json_request("Echo", {**URL, "Entries": [{"Body": "x"}]}), 400, "MissingParameter", "the parameter Id."),
        (json_request("Echo", b'{"QueueUrl":"\xff"}'), 400, "SerializationException", "not UTF-8"),
        (json_request("Echo", b'{"Z":' + b"[" * 8000), 400, "SerializationException", ""),
        (request("GET", "/", {"X-Amz-Target": "AmazonSQS.Echo"}), 405, "MethodNotAllowed", "must be POST"),
        (request(headers={"Content-Type": "application/x-amz-json-1.0"}), 400, "InvalidAction", "action"),
        (form_request("Version=2012-11-05"), 400, "MissingAction", "missing an action"),
        (form_request("Action=Nosuch"), 400, "InvalidAction", "The action Nosuch is not valid for this endpoint."),
        (form_request("Action=Echo&Version=2011-06-15"), 400, "InvalidAction", "not valid"),
        (form_request("Action=Echo"), 400, "MissingParameter", "must contain the parameter QueueUrl."),
        (form_request("Action=Echo", target="/a/b/c"), 404, "InvalidAddress", "not valid for this endpoint"),
        (request("DELETE", "/"), 405, "MethodNotAllowed", "GET or POST"),
        (request("GET", "/"), 400, "MissingAction", "missing an action"),
        (
            form_request("Action=Echo", Authorization=SIGNED.format("a", "us-east-1", "s3")),
            400,
            "InvalidAction",
            "there are: sqs, sts",
        ),
    ],
)
async def test_what_cannot_be_understood_is_a_named_error_in_the_form_of_the_request(
    broker: Broker, data: bytes, status: int, code: str, message: str
) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, data)
    assert (answer.status, answer.code) == (status, code)
    assert str(uuid.UUID(answer.headers["x-amzn-requestid"]))
    if answer.headers["content-type"] == "text/xml":
        assert message in (answer.text("Error/Message") or "")
        assert answer.text("Error/Type") == "Sender"
    else:
        assert message in answer.json["message"]
        assert answer.json["__type"].startswith("com.amazon")
        assert answer.headers["x-amzn-query-error"].endswith(";Sender")


async def test_a_services_own_error_has_its_old_status_only_for_those_who_ask(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        plain = await asked(bound, json_request("Fail", {"Name": "Gone"}))
        queried = await asked(bound, json_request("Fail", {"Name": "Gone"}, x_amzn_query_mode="true"))
        form = await asked(bound, form_request("Action=Fail&Name=Gone"))
    assert (plain.status, queried.status, form.status) == (400, 404, 404)
    assert plain.json["__type"] == "com.amazonaws.sqs#Gone"
    assert plain.headers["x-amzn-query-error"] == "AWS.SimpleQueueService.Gone;Sender"
    assert form.text("Error/Code") == "AWS.SimpleQueueService.Gone"
    assert form.text("Error/Message") == "it is <Gone> & \ufffd more"
    assert form.text("RequestId") == form.headers["x-amzn-requestid"]


async def test_a_defect_is_an_internal_failure_with_a_log_line_and_its_stack(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        with structlog.testing.capture_logs() as lines:
            answer = await asked(bound, json_request("Fail", {"Name": "defect"}))
            form = await asked(bound, form_request("Action=Fail&Name=unknown-name"))
            fault = await asked(bound, form_request("Action=Fail&Name=fault"))
    assert (answer.status, answer.headers["x-amzn-query-error"]) == (500, "InternalFailure;Receiver")
    assert "defect" not in answer.json["message"]
    assert (form.status, form.text("Error/Type"), fault.status) == (500, "Receiver", 500)
    assert [line["event"] for line in lines] == ["request_failed"] * 3
    assert lines[0]["request_id"] == answer.headers["x-amzn-requestid"]
    assert lines[0]["exc_info"]


async def test_a_store_that_cannot_serve_is_503_and_told_once(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        with structlog.testing.capture_logs() as lines:
            answers = [await asked(bound, json_request("Fail", {"Name": name})) for name in ("unavailable", "full")]
            await asked(bound, json_request("Nothing", {}))
    assert [answer.status for answer in answers] == [503, 503]
    assert {answer.headers["x-amzn-query-error"] for answer in answers} == {"ServiceUnavailable;Receiver"}
    assert "secret-host" not in answers[0].json["message"]
    assert [line["event"] for line in lines] == ["store_lost", "store_back"]


# -- health -----------------------------------------------------------------------------------------------------------


async def test_health_is_answered_to_anybody(broker: Broker) -> None:
    async with running(broker) as (bound, _):
        live = await asked(bound, request("GET", "/health/live", {"Host": "probe.example", "Origin": "http://x"}))
        ready = await asked(bound, request("GET", "/health/ready"))
        head = await asked(bound, request("HEAD", "/health/ready"), head_only=True)
        missing = await asked(bound, request("GET", "/health/nosuch"))
        posted = await asked(bound, request("POST", "/health/live"))
    assert (live.status, live.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (200, {"status": "ok", "durability": "memory"})
    assert (head.status, missing.status, posted.status) == (200, 404, 405)


# -- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost:4566", True),
        ("127.0.0.1:4566", True),
        ("[::1]:4566", True),
        ("sqs.us-east-1.localhost:4566", True),
        ("broker:4566", True),
        ("Broker", True),
        ("evil.example:4566", False),
        ("localhost.evil.example", False),
        ("a b", False),
        ("evil/../localhost", False),
    ],
)
async def test_without_keys_only_names_that_cannot_be_rebound_are_answered_to(
    broker: Broker, host: str, *, good: bool
) -> None:
    hosts = Hosts(public_url="http://broker:4566/")
    async with serving(tiny_app(broker, tiny(), hosts=hosts)) as bound:
        answer = await asked(bound, json_request("Nothing", {}, Host=host))
    assert answer.status == (200 if good else 403)
    assert good or answer.code == "AccessDenied"


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, True),
    ],
)
async def test_without_keys_what_a_page_makes_a_browser_send_is_refused(
    broker: Broker, headers: dict[str, str], *, good: bool
) -> None:
    async with running(broker) as (bound, _):
        answer = await asked(bound, request("GET", "/?Action=Nothing", headers))
    assert answer.status == (200 if good else 403)


async def test_queue_urls_begin_with_the_public_url_or_else_the_host_that_was_asked(broker: Broker) -> None:
    given = tiny()
    async with serving(tiny_app(broker, given, hosts=Hosts(public_url="https://sqs.example"))) as bound:
        await asked(bound, json_request("Echo", URL))
    async with serving(tiny_app(broker, given)) as bound:
        await asked(bound, json_request("Echo", URL, Host="127.0.0.1:1234"))
        await asked(bound, json_request("Echo", URL, Host=""))
    assert [call.base_url for call in given.calls] == [
        "https://sqs.example",
        "http://127.0.0.1:1234",
        "http://localhost",
    ]


# -- connections ------------------------------------------------------------------------------------------------------


async def test_requests_follow_each_other_on_one_connection_also_pipelined(broker: Broker) -> None:
    async with running(broker) as (bound, _), connected(bound) as connection:
        await connection.send(b"".join(json_request("Echo", {**URL, "Number": number}) for number in range(20)))
        answers = [await connection.answer() for _ in range(20)]
        assert [answer.json["Number"] for answer in answers] == list(range(20))
        await connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await connection.answer()).headers["connection"] == "close"
        assert await connection.ended()


async def test_what_is_remembered_of_a_caller_is_short(broker: Broker) -> None:
    async with running(broker) as (bound, given):
        scope = SIGNED.format("K" * 600, "us-east-1", "sqs")
        by_header = await asked(bound, json_request("Echo", URL, Authorization=scope))
        by_query = await asked(bound, request("GET", f"/?Action=Nothing&X-Amz-Credential={'K' * 600}"))
    assert [(each.status, each.code) for each in (by_header, by_query)] == [(400, "IncompleteSignature")] * 2
    assert not given.calls


async def test_an_offer_to_change_the_protocol_is_served_as_it_is(broker: Broker) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    async with running(broker) as (bound, _), connected(bound) as connection:
        await connection.send(json_request("Echo", URL, **offer) * 3)
        assert [(await connection.answer()).status for _ in range(3)] == [200, 200, 200]


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_whoever_waits_is_answered_empty_when_the_gateway_stops(broker: Broker) -> None:
    given, stack = tiny(), AsyncExitStack()
    bound = await stack.enter_async_context(serving(tiny_app(broker, given)))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        json = group.create_task(asked(bound, json_request("Wait", {})))
        form = group.create_task(asked(bound, form_request("Action=Wait")))
        await given.waiting.acquire()
        await given.waiting.acquire()
        await stack.aclose()
    assert (json.result().status, json.result().json) == (200, {})
    assert form.result().status == 200
    assert b"<WaitResult></WaitResult>" in form.result().body
    assert given.cancelled == 2


async def test_what_does_not_end_in_the_grace_period_is_cancelled_and_answered_503(broker: Broker) -> None:
    given, stack = tiny(), AsyncExitStack()
    bound = await stack.enter_async_context(serving(tiny_app(broker, given), grace_s=0.05))
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        sleeping = group.create_task(asked(bound, json_request("Sleep", {})))
        await given.waiting.acquire()
        with structlog.testing.capture_logs() as lines:
            await stack.aclose()
    assert sleeping.result().status == 503
    assert [(line["event"], line["cut_off"]) for line in lines] == [("gateway_stopped", 1)]


async def test_a_wait_ends_when_its_client_goes_away(broker: Broker) -> None:
    given = tiny()
    async with serving(tiny_app(broker, given)) as bound, asyncio.timeout(20):
        async with connected(bound) as connection:
            await connection.send(json_request("Wait", {}))
            await given.waiting.acquire()
        while given.cancelled == 0:  # noqa: ASYNC110 - the server's end of the connection tells nobody
            await asyncio.sleep(0.01)
        assert (await asked(bound, json_request("Nothing", {}))).status == 200


async def test_a_stop_closes_idle_connections_and_the_port(broker: Broker) -> None:
    async with AsyncExitStack() as stack:
        async with serving(tiny_app(broker, tiny())) as bound:
            connection = await stack.enter_async_context(connected(bound))
            await connection.send(json_request("Nothing", {}))
            await connection.answer()
        assert await connection.ended()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(bound.host, bound.port)


async def test_who_is_accepted_while_the_gateway_stops_is_closed_at_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    create_server, made = loop.create_server, []

    async def remember(connect: Callable[[], asyncio.Protocol], *args: Any, **options: Any) -> asyncio.Server:
        made.append(connect)
        return await create_server(connect, *args, **options)

    monkeypatch.setattr(loop, "create_server", remember)
    async with serving(tiny_app(broker, tiny())):
        pass
    server = await create_server(made[0], "127.0.0.1", 0)
    async with server, connected(Bound(*server.sockets[0].getsockname()[:2])) as connection:
        assert await connection.ended()


async def test_a_taken_port_is_named(broker: Broker) -> None:
    app = tiny_app(broker, tiny())
    async with serving(app) as bound:
        with pytest.raises(AddressUnusable, match=f"port {bound.port}: the port is taken by another program"):
            async with serve(app, bound.host, bound.port):
                pass
