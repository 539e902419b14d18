"""InvokeWithResponseStream over HTTP: a real gateway, a real worker, boto3."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer

from broker.embedded import EmbeddedRedis
from broker.gateway.aws.lambda_ import invoking
from broker.settings import Settings
from runtime import App, Context
from tests.wire.clients import Refused
from tests.wire.gateway import running_gateway
from tests.wire.lambdas import Lambda, Served
from tests.wire.raw import RawClient

STREAM = "/2021-11-15/functions/{}/response-streaming-invocations"
WAIT_S = 20
LONG_S = 300


class Tellers:
    """Functions that yield, and what has become of them."""

    def __init__(self) -> None:
        self.app = App()
        self.seen: list[str] = []
        self.yielded = 0
        self.release = threading.Event()
        self.closed = threading.Event()
        for handler in (self.each, self.gated, self.endless, self.fails, self.plain, self.context):
            self.app.function(timeout=LONG_S)(handler)
        self.app.function(timeout=0.05)(self.silent)
        self.app.function(timeout=0.05)(self.deaf)
        self.app.function(timeout=LONG_S, concurrency=0, name="none")(self.each)
        self.app.function(timeout=LONG_S, name="waits")(self.silent)

    async def each(self, event: list[Any], context: Context) -> AsyncIterator[Any]:
        self.seen.append(context.aws_request_id)
        for value in event:
            yield value

    async def gated(self, event: Any, context: Context) -> AsyncIterator[str]:
        yield "first"
        await asyncio.to_thread(self.release.wait, WAIT_S)
        yield "second"

    async def endless(self, event: int, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                self.yielded += 1
                yield b"x" * event
        finally:
            self.closed.set()

    async def fails(self, event: Any, context: Context) -> AsyncIterator[str]:
        print("said before")
        yield "good"
        raise ValueError("no more")

    async def silent(self, event: Any, context: Context) -> AsyncIterator[str]:
        try:
            await asyncio.sleep(LONG_S)
            yield "never"
        finally:
            self.closed.set()

    async def deaf(self, event: Any, context: Context) -> AsyncIterator[str]:
        self.release.wait(WAIT_S)  # and so the loop of its worker stands still
        yield "late"

    async def plain(self, event: Any, context: Context) -> Any:
        if event == "bad":
            raise ValueError("no")
        return event

    async def context(self, event: Any, context: Context) -> AsyncIterator[Any]:
        yield {"event": event, "custom": None if context.client_context is None else context.client_context.custom}


@pytest.fixture
def tellers() -> Tellers:
    return Tellers()


@pytest.fixture
def telling(served: Served, tellers: Tellers) -> Iterator[Tellers]:
    """The functions, on a live worker."""
    with served(tellers.app):
        yield tellers
        tellers.release.set()


def opened(aws_lambda: Lambda, function: str, event: object = None, **options: Any) -> dict[str, Any]:
    payload = event if isinstance(event, bytes) else json.dumps(event).encode()
    return aws_lambda.invoke_with_response_stream(FunctionName=function, Payload=payload, **options)


def read(aws_lambda: Lambda, function: str, event: object = None, **options: Any) -> tuple[list[bytes], dict[str, str]]:
    """The chunks, and what the stream ended with."""
    *chunks, last = opened(aws_lambda, function, event, **options)["EventStream"]
    return [chunk["PayloadChunk"]["Payload"] for chunk in chunks], last["InvokeComplete"]


def refused(aws_lambda: Lambda, function: str, event: object = None, **options: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    with pytest.raises(Refused) as caught:
        opened(aws_lambda, function, event, **options)
    return caught.value.refusal.status, caught.value.refusal.code


# -- the stream --------------------------------------------------------------------------------------------------------


def test_chunks_come_as_they_were_yielded(aws_lambda: Lambda, telling: Tellers) -> None:
    answer = opened(aws_lambda, "each", ["a", "é", {"b": 1}])
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    assert list(answer["EventStream"]) == [
        {"PayloadChunk": {"Payload": b"a"}},
        {"PayloadChunk": {"Payload": "é".encode()}},
        {"PayloadChunk": {"Payload": b'{"b":1}'}},
        {"InvokeComplete": {}},
    ]
    assert telling.seen == [answer["ResponseMetadata"]["RequestId"]]


def test_a_chunk_comes_before_the_next_one_is_made(aws_lambda: Lambda, telling: Tellers) -> None:
    events = iter(opened(aws_lambda, "gated")["EventStream"])
    assert next(events) == {"PayloadChunk": {"Payload": b"first"}}
    telling.release.set()
    assert list(events) == [{"PayloadChunk": {"Payload": b"second"}}, {"InvokeComplete": {}}]


def test_the_head_comes_before_the_first_chunk(raw_lambda: RawClient, telling: Tellers) -> None:
    with raw_lambda.left_open("POST", STREAM.format("waits"), body=b"1") as connection:
        response = connection.getresponse()
        assert (response.status, response.getheader("transfer-encoding")) == (200, "chunked")
        assert not telling.closed.is_set()


def test_a_long_stream_arrives_whole_over_a_connection_that_is_used_again(aws_lambda: Lambda, telling: Tellers) -> None:
    values = [f"{number:05d}" * 100 for number in range(2_000)]
    for _ in range(2):
        chunks, end = read(aws_lambda, "each", values)
        assert [chunk.decode() for chunk in chunks] == values
        assert end == {}


def test_a_handler_that_returns_is_one_chunk(aws_lambda: Lambda, telling: Tellers) -> None:
    assert read(aws_lambda, "plain", {"a": [1]}) == ([b'{"a":[1]}'], {})
    chunks, end = read(aws_lambda, "plain", "bad")
    assert (chunks, end["ErrorCode"]) == ([], "Unhandled")


def test_no_payload_is_an_empty_object_and_the_client_context_arrives(aws_lambda: Lambda, telling: Tellers) -> None:
    context = b64encode(b'{"custom": {"a": "b"}}').decode()
    chunks, _ = read(aws_lambda, "context", b"", ClientContext=context)
    assert chunks == [b'{"event":{},"custom":{"a":"b"}}']


def test_a_plain_invocation_of_a_handler_that_yields_gets_the_bytes_as_they_are(
    aws_lambda: Lambda, telling: Tellers
) -> None:
    assert aws_lambda.run("each", ["not ", "json"]).body == b"not json"
    answer = aws_lambda.run("fails", 1)
    assert (answer.error, answer.result["errorType"]) == ("Unhandled", "ValueError")
    assert aws_lambda.run("each", ["x"], InvocationType="Event").status == 202


# -- functions that fail -----------------------------------------------------------------------------------------------


def test_a_failure_midway_is_told_at_the_end(aws_lambda: Lambda, telling: Tellers) -> None:
    chunks, end = read(aws_lambda, "fails")
    details = json.loads(end["ErrorDetails"])
    assert (chunks, end["ErrorCode"]) == ([b"good"], "Unhandled")
    assert (details["errorType"], details["errorMessage"]) == ("ValueError", "no more")
    assert "LogResult" not in end


def test_the_log_tail_comes_at_the_end(aws_lambda: Lambda, telling: Tellers) -> None:
    _, end = read(aws_lambda, "fails", LogType="Tail")
    log = b64decode(end["LogResult"]).decode()
    assert "said before\n" in log
    assert "[ERROR] ValueError: no more" in log
    assert "END RequestId" in b64decode(read(aws_lambda, "plain", 1, LogType="Tail")[1]["LogResult"]).decode()


def test_a_timeout_is_told_at_the_end(aws_lambda: Lambda, telling: Tellers) -> None:
    chunks, end = read(aws_lambda, "silent")
    assert chunks == []
    assert json.loads(end["ErrorDetails"])["errorType"] == "Sandbox.Timedout"
    assert telling.closed.wait(WAIT_S)


def test_a_worker_that_says_nothing_is_a_timeout_at_the_end(
    aws_lambda: Lambda, telling: Tellers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoking, "CALL_MARGIN_S", 0.2)
    try:
        chunks, end = read(aws_lambda, "deaf")
    finally:
        telling.release.set()
    assert chunks == []
    assert json.loads(end["ErrorDetails"])["errorMessage"].endswith("Task timed out after 0.05 seconds")


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_runs_nothing(aws_lambda: Lambda, telling: Tellers) -> None:
    answer = opened(aws_lambda, "each", ["a"], InvocationType="DryRun")
    assert (answer["StatusCode"], list(answer["EventStream"]), telling.seen) == (204, [], [])
    assert refused(aws_lambda, "nobody", InvocationType="DryRun") == (404, "ResourceNotFoundException")


def test_what_cannot_run_is_refused_before_the_stream(aws_lambda: Lambda, telling: Tellers) -> None:
    assert refused(aws_lambda, "nobody") == (404, "ResourceNotFoundException")
    assert refused(aws_lambda, "each:live") == (404, "ResourceNotFoundException")
    assert refused(aws_lambda, "each", b"{") == (400, "InvalidRequestContentException")
    assert refused(aws_lambda, "each", ClientContext="?") == (400, "InvalidRequestContentException")
    assert refused(aws_lambda, "each", InvocationType="Event") == (400, "ValidationException")
    assert refused(aws_lambda, "each", b" " * 6_291_457) == (413, "RequestTooLargeException")


def test_a_function_at_its_limit_is_429_before_the_stream(aws_lambda: Lambda, telling: Tellers) -> None:
    with pytest.raises(Refused) as caught:
        opened(aws_lambda, "none", [])
    answer = caught.value.response
    assert caught.value.refusal == ("TooManyRequestsException", "Rate Exceeded.", 429)
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_without_a_live_worker_the_answer_is_502(aws_lambda: Lambda, served: Served, tellers: Tellers) -> None:
    with served(tellers.app):
        pass
    assert refused(aws_lambda, "each") == (502, "ResourceNotReadyException")


# -- clients that leave, or do not read -------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["waits", "endless"])
def test_a_client_that_goes_away_closes_the_generator(raw_lambda: RawClient, telling: Tellers, function: str) -> None:
    with raw_lambda.left_open("POST", STREAM.format(function), body=b"1000") as connection:
        assert connection.getresponse().status == 200
    assert telling.closed.wait(WAIT_S)


def test_a_client_that_does_not_read_holds_the_generator(
    raw_lambda: RawClient, aws_lambda: Lambda, telling: Tellers
) -> None:
    with raw_lambda.left_open("POST", STREAM.format("endless"), body=b"60000") as connection:
        response = connection.getresponse()
        before = -1
        until = time.monotonic() + WAIT_S
        while telling.yielded > before:  # it comes to rest when the sockets' buffers and the window are full
            assert time.monotonic() < until
            before = telling.yielded
            for _ in range(50):
                assert aws_lambda.run("plain", 1).result == 1
        assert before * 60_000 < 50_000_000
        assert len(response.read(60_000 * (before + 10))) == 60_000 * (before + 10), "it goes on when it reads"
    assert telling.closed.wait(WAIT_S)


def test_a_gateway_that_stops_breaks_the_stream_off_behind_its_grace(
    redis_server: EmbeddedRedis, wire_settings: Settings, telling: Tellers, account: str
) -> None:
    with ExitStack() as running:
        gateway = running.enter_context(running_gateway(redis_server.url, wire_settings))
        client = RawClient(gateway.url, account, service="lambda")
        with client.left_open("POST", STREAM.format("waits"), body=b"1") as connection:
            response = connection.getresponse()
            running.close()
            with pytest.raises((OSError, http.client.HTTPException)):
                response.read()
    assert telling.closed.wait(WAIT_S)


# -- the bytes ---------------------------------------------------------------------------------------------------------


def test_frames_have_the_headers_of_the_real_service(raw_lambda: RawClient, telling: Tellers) -> None:
    answer = raw_lambda.request("POST", STREAM.format("each"), body=b'["a"]')
    frames = EventStreamBuffer()
    frames.add_data(answer.body)
    chunk, end = frames
    assert chunk.headers == {
        ":event-type": "PayloadChunk",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    assert chunk.payload == b"a"
    assert end.headers == {
        ":event-type": "InvokeComplete",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    assert end.payload == b"{}"


def test_a_client_of_http_1_0_gets_the_frames_without_chunks(
    raw_lambda: RawClient, telling: Tellers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy that speaks no HTTP/1.1 to what is behind it."""
    monkeypatch.setattr(http.client.HTTPConnection, "_http_vsn_str", "HTTP/1.0")
    answer = raw_lambda.request("POST", STREAM.format("each"), body=b'["a", "b"]')
    assert (answer.headers["connection"], answer.headers.get("transfer-encoding")) == ("close", None)
    frames = EventStreamBuffer()
    frames.add_data(answer.body)
    assert [frame.payload for frame in frames] == [b"a", b"b", b"{}"]
