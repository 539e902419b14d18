"""Limits of size and time on real sockets: what is too large, too slow or no HTTP ends, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import structlog.testing

from broker import Broker
from broker.gateway.access import Access, AccessKey
from broker.gateway.bodies import ByteBudget, ClientGone, read_body
from broker.gateway.protocol import Limits
from broker.gateway.server import Bound
from tests.gateway.tiny import (
    QUICK,
    Connection,
    asked,
    connected,
    form_request,
    json_request,
    request,
    serving,
    tiny,
    tiny_app,
)

MAX_BODY = 8192


@asynccontextmanager
async def limited(broker: Broker, limits: Limits = QUICK) -> AsyncIterator[Bound]:
    """A server with short times; that it goes on is looked at in the end."""
    async with serving(tiny_app(broker, tiny(), max_body_bytes=MAX_BODY), limits=limits) as bound:
        yield bound
        for _ in range(5):
            with suppress(ConnectionResetError):  # on a busy machine, its time may be over before it has been read
                assert (await asked(bound, json_request("Nothing", {}))).status == 200
                return
        raise AssertionError("it does not go on")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 300_000,
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 300 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 300,
    ],
    ids=["value", "without end", "path", "many", "many without end"],
)
async def test_a_head_over_the_limit_gets_431(broker: Broker, head: bytes) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert answer.json["__type"] == "MalformedHttpRequestException"
        assert await connection.ended()


async def test_a_large_head_within_the_limit_is_served(broker: Broker) -> None:
    async with limited(broker) as bound:
        assert (await asked(bound, json_request("Nothing", {}, X="x" * 60_000))).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /ä HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    ],
)
async def test_what_is_no_http_gets_400_and_a_closed_connection(broker: Broker, data: bytes) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(data)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await connection.ended()


async def test_nonsense_behind_a_request_is_answered_behind_its_answer(broker: Broker) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(json_request("Nothing", {}) * 2 + b"nonsense\r\n\r\n")
        assert [(await connection.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await connection.ended()


async def test_a_flood_of_pipelined_requests_is_refused(broker: Broker) -> None:
    async with limited(broker, Limits(pipelined=4)) as bound, connected(bound) as connection:
        await connection.send(json_request("Nothing", {}) * 50)
        assert [(await connection.answer()).status for _ in range(6)] == [200] * 5 + [429]
        assert await connection.ended()


@pytest.mark.parametrize("large", [MAX_BODY + 1, 3_000_000])
async def test_a_body_over_the_limit_gets_413_in_the_form_of_the_request(broker: Broker, large: int) -> None:
    async with limited(broker, Limits()) as bound:
        json = await asked(bound, json_request("Echo", b"x" * large))
        form = await asked(bound, form_request("x" * large))
    assert (json.status, json.code) == (413, "RequestEntityTooLarge")
    assert (form.status, form.code) == (413, "RequestEntityTooLarge")


async def test_a_body_that_is_declared_far_too_large_is_not_waited_for(broker: Broker) -> None:
    async with limited(broker, Limits()) as bound, connected(bound) as connection:
        await connection.send(request(headers={"Content-Length": "9" * 17}))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await connection.ended()


async def test_a_client_that_asks_first_is_told_to_go_on_or_not(broker: Broker) -> None:
    async with limited(broker, Limits()) as bound:
        async with connected(bound) as connection:
            await connection.send(json_request("Nothing", b"{}", Expect="100-continue")[:-2])
            assert (await connection.answer()).status == 100
            await connection.send(b"{}")
            assert (await connection.answer()).status == 200
        async with connected(bound) as connection:
            await connection.send(request(headers={"Content-Length": "9999", "Expect": "100-continue"}))
            assert (await connection.answer()).status == 413


async def test_a_client_of_http_1_0_that_asks_first_is_not_told_to_go_on(broker: Broker) -> None:
    old = json_request("Nothing", b"{}", Expect="100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with limited(broker, Limits()) as bound, connected(bound) as connection:
        await connection.send(old)
        assert (await connection.answer()).status == 200
        assert await connection.ended()


async def test_a_chunked_body_is_read_up_to_the_limit(broker: Broker) -> None:
    chunked = json_request("Nothing", b"", Transfer_Encoding="chunked", Content_Length="")
    async with limited(broker, Limits()) as bound:
        good = await asked(bound, chunked + b"1\r\n{\r\n1;extension=1\r\n}\r\n0\r\nTrailer: x\r\n\r\n")
        too_large = await asked(bound, chunked + b"1000\r\n" + b"x" * 4096 + b"\r\n" + b"2000\r\n" + b"x" * 8192)
    assert (good.status, too_large.status) == (200, 413)


async def test_trailers_without_end_are_refused(broker: Broker) -> None:
    chunked = json_request("Nothing", b"", Transfer_Encoding="chunked", Content_Length="")
    async with limited(broker, Limits()) as bound, connected(bound) as connection:
        await connection.send(chunked + b"1\r\n{\r\n1\r\n}\r\n0\r\nX: ")
        await connection.send(b"x" * 400_000)
        assert (await connection.answer()).status == 431


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: loc", b"POST / HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_head_that_does_not_end_gets_408(broker: Broker, begun: bytes) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(begun)
        assert (await connection.answer()).status == 408
        assert await connection.ended()


@pytest.mark.parametrize("form", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_a_body_that_stalls_gets_408(broker: Broker, form: str) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(f"POST / HTTP/1.1\r\nHost: localhost\r\n{form}\r\n\r\n".encode())
        assert (await connection.answer()).status == 408
        assert await connection.ended()


async def test_a_body_that_trickles_ends_at_its_time(broker: Broker) -> None:
    async with limited(broker, Limits(body_s=0.3)) as bound, connected(bound) as connection:
        await connection.send(request(headers={"Content-Length": "8000"}))
        trickling = asyncio.create_task(trickle(connection.writer))
        assert (await connection.answer()).status == 408
        trickling.cancel()


async def test_a_body_that_comes_fast_enough_has_the_time_that_it_needs(broker: Broker) -> None:
    limits = Limits(body_s=0.1, body_bytes_per_s=1)  # each byte of the trickle gives a second
    async with limited(broker, limits) as bound, connected(bound) as connection:
        await connection.send(json_request("Nothing", b"", Content_Length="20"))
        for byte in b"{%18s}" % b"":
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.02)
        assert (await connection.answer()).status == 200


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("begun", [b"", b"\r\n\r\n", json_request("Nothing", {})])
async def test_an_idle_connection_is_closed(broker: Broker, begun: bytes) -> None:
    async with limited(broker) as bound, connected(bound) as connection:
        await connection.send(begun)
        if b"POST" in begun:
            await connection.answer()
        assert await connection.ended()


async def test_a_client_that_does_not_read_its_answers_is_cut_off(broker: Broker) -> None:
    large = json_request("Echo", {"QueueUrl": "x" * 8000})
    async with limited(broker) as bound, connected(bound) as connection:
        with pytest.raises(ConnectionError):
            await send_for_ever(connection, large * 20)


async def send_for_ever(connection: Connection, data: bytes) -> None:
    async with asyncio.timeout(30):
        while True:
            await connection.send(data)


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(broker: Broker) -> None:
    async with limited(broker, Limits()) as bound:
        whole = json_request("Echo", {"QueueUrl": "x" * 3000})
        for cut in range(0, len(whole), 97):
            async with connected(bound) as connection:
                await connection.send(whole[:cut])


async def test_too_many_connections_are_closed_at_once_and_told_of_once(broker: Broker) -> None:
    async with serving(tiny_app(broker, tiny()), max_connections=1) as bound:
        with structlog.testing.capture_logs() as lines:
            async with connected(bound) as first:
                await first.send(json_request("Nothing", {}))
                assert (await first.answer()).status == 200
                for _ in range(3):
                    async with connected(bound) as other:
                        assert await other.ended()
                await first.send(json_request("Nothing", {}))
                assert (await first.answer()).status == 200
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["gateway_full"]


async def test_whoever_has_no_key_is_refused_before_the_body_is_read(broker: Broker) -> None:
    app = tiny_app(broker, tiny(), Access([AccessKey("id", "secret")]), max_body_bytes=MAX_BODY)
    async with serving(app) as bound, connected(bound) as connection:
        head = json_request("Echo", b"", Content_Length="8000", Expect="100-continue")
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (403, "MissingAuthenticationToken")
        assert answer.headers["connection"] == "close"


# -- the budget of bytes ----------------------------------------------------------------------------------------------


async def test_bodies_wait_for_their_place_in_the_budget_in_order() -> None:
    budget, order = ByteBudget(10), list[str]()
    release = asyncio.Event()

    async def hold(name: str, amount: int) -> None:
        taken = await budget.take(amount)
        order.append(name)
        await release.wait()
        budget.give_back(taken)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hold(name, amount)) for name, amount in (("a", 8), ("b", 5), ("c", 1), ("d", 99))]
        await asyncio.sleep(0)
        assert order == ["a"]  # c would fit, but b was first
        tasks[1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["a", "c"]
        release.set()
    assert order == ["a", "c", "d"]
    assert budget.free_bytes == 10


async def test_a_body_whose_client_goes_away_gives_its_place_back() -> None:
    budget = ByteBudget(10)
    messages: Iterator[dict[str, object]] = iter(
        [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    with pytest.raises(ClientGone):
        await read_body(receive, {b"content-length": b"9"}, budget)
    assert budget.free_bytes == 10
