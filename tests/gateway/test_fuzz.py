"""Hostile requests on a real socket: a 4xx in the form of the request or a closed connection, never a 500."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack

import hypothesis
import msgspec
import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as some

from broker import Broker
from broker.gateway.access import Access, AccessKey
from broker.gateway.server import Bound
from broker.settings import Settings
from tests.gateway.tiny import QUICK, form_request, json_request, request, serving, tiny, tiny_app

_HEADER_TEXT = some.text(some.characters(min_codepoint=33, max_codepoint=126), max_size=30)
_NAMES = some.sampled_from(
    [
        "Host",
        "Content-Type",
        "X-Amz-Target",
        "Authorization",
        "X-Amz-Date",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "Expect",
        "X-Amz-Security-Token",
        "X-Amz-Content-SHA256",
        "Date",
        "Origin",
        "Cookie",
    ]
)
_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential={}/{}/{}/{}/aws4_request, SignedHeaders={}, Signature={}"
_VALUES = some.one_of(
    _HEADER_TEXT,
    some.sampled_from(
        [
            "AmazonSQS.Echo",
            "AmazonSQS.Wait",
            "application/x-amz-json-1.0",
            "application/x-www-form-urlencoded",
            "chunked",
            "close",
            "h2c",
            "Upgrade",
            "100-continue",
            "0",
            "10",
            "99999999999999999999",
            "localhost",
        ]
    ),
    some.builds(_AUTHORIZATION.format, *[_HEADER_TEXT] * 6),
)
_JSON_VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_JSON_BODIES = some.one_of(
    some.binary(max_size=200),
    _JSON_VALUES.map(msgspec.json.encode),
    some.fixed_dictionaries(
        {"QueueUrl": _JSON_VALUES}, optional={"Entries": _JSON_VALUES, "Tags": _JSON_VALUES, "Number": _JSON_VALUES}
    ).map(msgspec.json.encode),
    some.integers(1, 8000).map(lambda depth: b'{"QueueUrl":"q","Entries":' + b"[" * depth),
    some.integers(1, 2000).map(lambda depth: b'{"X":' + b"[" * depth + b"]" * depth + b',"QueueUrl":"q"}'),
    some.integers(0, 20_000).map(lambda size: b'{"QueueUrl":"' + b"q" * size + b'"}'),
)
_TARGETS = some.one_of(
    some.sampled_from(["/", "/000000000000/q", "/a/b/c", "*", "http://x/", "/?Action=Echo&QueueUrl=q", "/%00/%ff"]),
    some.text(some.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=60).map(
        lambda text: f"/{text}"
    ),
)
_REQUESTS = some.one_of(
    some.binary(max_size=300),
    some.builds(json_request, some.sampled_from(["Echo", "Nothing", "Nosuch", "../x"]), _JSON_BODIES),
    some.builds(form_request, _HEADER_TEXT.map(lambda text: f"Action=Echo&QueueUrl=q&{text}"), _TARGETS),
    some.builds(
        request,
        some.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "TRACE", "PRI", "CONNECT", "get"]),
        _TARGETS,
        some.dictionaries(_NAMES, _VALUES, max_size=6),
        some.binary(max_size=100),
    ),
)
_LAST = b"GET /health/live HTTP/1.0\r\n\r\n"
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)


@pytest.fixture
def addresses(redis_url: str, settings: Settings) -> Iterator[list[Bound]]:
    """An open gateway and one with keys, in a thread of their own: hypothesis cannot wait for coroutines."""
    begun: Future[list[Bound]] = Future()
    ended = threading.Event()

    async def run() -> None:
        async with Broker(redis_url, settings=settings) as broker, AsyncExitStack() as stack:
            accesses = Access(), Access([AccessKey("id", "secret")])
            apps = [tiny_app(broker, tiny(), access) for access in accesses]
            begun.set_result([await stack.enter_async_context(serving(app, limits=QUICK)) for app in apps])
            await asyncio.to_thread(ended.wait)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, run())
        yield begun.result(30)
        ended.set()
        running.result(30)


def test_no_request_makes_the_gateway_fail_or_hang(addresses: list[Bound]) -> None:
    @given(some.sampled_from(addresses), some.lists(_REQUESTS, min_size=1, max_size=3))
    @hypothesis.settings(max_examples=300, deadline=None)
    def check(bound: Bound, requests: list[bytes]) -> None:
        answer = exchanged(bound, b"".join(requests))
        statuses = [int(status) for status in _STATUS.findall(answer)]
        assert [status for status in statuses if status >= 500] == []
        if statuses and statuses[0] >= 400:
            assert any(form in answer for form in (b"<ErrorResponse", b"__type", b"HTTP/1.1 4", b'"status"'))

    with structlog.testing.capture_logs() as lines:
        check()
    assert [line for line in lines if line["log_level"] == "error"] == []
    for bound in addresses:
        assert b'{"status":"ok"}' in exchanged(bound, b"")


def exchanged(bound: Bound, data: bytes) -> bytes:
    """All that the server answers until it closes, which it must do in time."""
    with socket.create_connection((bound.host, bound.port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(data + _LAST)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
        return received
