from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from benchmarks.wire_client import KEY_ID, SECRET, Requests, Script, WireRefused, run_scripts
from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.gateway.access import AccessKey
from broker.gateway.options import GatewayOptions
from broker.gateway.running import run_gateway
from broker.settings import Settings


def _script(requests: Iterator[bytes], answers: list[bytes]) -> Script:
    for request in requests:
        answer = yield request
        answers.append(answer)


async def test_the_benchmarks_own_signatures_are_let_in_by_a_gateway_that_verifies_them(
    redis_server: EmbeddedRedis, settings: Settings
) -> None:
    options = GatewayOptions(port=0, keys=(AccessKey(KEY_ID, SECRET),))
    answers: list[bytes] = []
    async with Broker(redis_server.url, settings=settings) as broker, run_gateway(broker, options, grace_s=1) as bound:
        request = Requests(bound.port).make("CreateQueue", b'{"QueueName":"one"}')

        await run_scripts(bound.port, [_script(iter([request]), answers)])

    assert msgspec.json.decode(answers[0]) == {"QueueUrl": f"{bound.url}/000000000000/one"}


async def test_an_answer_that_is_no_success_ends_a_measurement(redis_server: EmbeddedRedis, settings: Settings) -> None:
    async with (
        Broker(redis_server.url, settings=settings) as broker,
        run_gateway(broker, GatewayOptions(port=0), grace_s=1) as bound,
    ):
        wrong = Requests(bound.port).make("NoSuchAction", b"{}")

        with pytest.raises(WireRefused, match="400 Bad Request"):
            await run_scripts(bound.port, [_script(iter([wrong]), [])])


async def test_a_server_that_closes_after_each_answer_is_asked_again_on_another_connection() -> None:
    connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answers: list[bytes] = []
        request = Requests(port).make("ListQueues", b"{}")

        await run_scripts(port, [_script(iter([request] * 3), answers)])

    assert answers == [b"ok"] * 3
    assert connections == 3
