"""What requests may keep in memory: trailers, bodies while their operations run, and what waits for long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakSet

import msgspec
import pytest

from broker import Broker
from broker.gateway.access import Access
from broker.gateway.app import gateway_app
from broker.gateway.asgi import Receive, Scope, Send, respond
from broker.gateway.aws.service import Call, Operation
from broker.gateway.bodies import MAX_WAITING_BODY_BYTES, ByteBudget, read_body
from broker.gateway.protocol import Ending, GuardedProtocol, connection_of
from broker.gateway.server import Bound
from broker.limits import KIB
from tests.gateway.tiny import (
    Answered,
    Empty,
    Tiny,
    Waited,
    asked,
    connected,
    form_request,
    json_request,
    request,
    serving,
    tiny,
    tiny_app,
)

BUDGET = 200 * KIB
LARGE = b'{"QueueUrl":"' + b"x" * 100 * KIB + b'"}'
CHUNKED = {"Transfer-Encoding": "chunked", "Content-Length": ""}


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[tuple[Bound, Tiny, ByteBudget]]:
    """A server whose requests together may have little; all of it is free in the end."""
    given, budget = tiny(), ByteBudget(BUDGET)
    async with serving(tiny_app(broker, given, max_body_bytes=150 * KIB, budget=budget), grace_s=0.1) as bound:
        yield bound, given, budget
    assert budget.free_bytes == BUDGET


# -- what is not read to its end --------------------------------------------------------------------------------------


async def test_trailers_are_not_kept(broker: Broker) -> None:
    kept: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        kept.append(scope["headers"])
        await respond(send, 200, [], b"")

    async with serving(app) as bound:
        await asked(
            bound, request(headers={**CHUNKED, "X": "y"}) + b"1\r\nx\r\n0\r\nExpect: 100-continue\r\nA: b\r\n\r\n"
        )
    assert [name for name, _ in kept[0]] == [b"host", b"transfer-encoding", b"x"]


@pytest.mark.parametrize("path", ["/health/live", "/health/nothing"])
async def test_an_answer_before_the_end_of_its_request_ends_the_connection(broker: Broker, path: str) -> None:
    async with running(broker) as (bound, *_), connected(bound) as connection:
        await connection.send(request("POST", path, CHUNKED) + b"0\r\n")
        assert (await connection.answer()).headers["connection"] == "close"
        assert await connection.ended()


async def test_trailers_behind_an_answer_are_refused(broker: Broker) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        protocol = connection_of(scope)
        assert isinstance(protocol, GuardedProtocol)
        protocol.cycle.more_body = False  # as if it had been read
        await respond(send, 200, [], b"")

    async with serving(app) as bound, connected(bound) as connection:
        await connection.send(request("POST", "/", CHUNKED) + b"0\r\n")
        assert (await connection.answer()).status == 200
        await connection.send(b"a: b\r\n" * 50_000)
        assert (await connection.answer()).status == 431


# -- the budget -------------------------------------------------------------------------------------------------------


async def test_a_body_has_its_place_until_its_operation_ends(broker: Broker) -> None:
    async with running(broker) as (bound, given, budget), asyncio.timeout(20):
        first = asyncio.create_task(asked(bound, json_request("Sleep", LARGE)))
        await given.waiting.acquire()
        assert budget.free_bytes == BUDGET - len(LARGE)
        second = asyncio.create_task(asked(bound, json_request("Echo", LARGE)))
        small = await asked(bound, json_request("Nothing", {}))
        assert (small.status, second.done()) == (200, False)
        given.release.set()
        assert [(await each).status for each in (first, second)] == [200, 200]


async def test_what_a_body_did_not_need_of_its_place_is_free_at_once(broker: Broker) -> None:
    async with running(broker) as (bound, given, budget), asyncio.timeout(20):
        head = json_request("Sleep", b"", Transfer_Encoding="chunked", Content_Length="")
        async with connected(bound) as connection:
            await connection.send(head)
            await connection.send(b"2\r\n{}\r\n0\r\n\r\n")
            await given.waiting.acquire()
            assert budget.free_bytes >= BUDGET - 2
            given.release.set()
            assert (await connection.answer()).status == 200


@pytest.mark.parametrize("pieces", [(LARGE,), (b"", LARGE), (LARGE[:9], LARGE[9:99], LARGE[99:])])
async def test_a_large_body_takes_its_place_in_however_many_pieces_it_comes(pieces: tuple[bytes, ...]) -> None:
    budget = ByteBudget(BUDGET)
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left[-1]["more_body"] = False

    async def receive() -> dict[str, object]:
        return left.pop(0)

    body, held_bytes = await read_body(receive, {b"content-length": b"%d" % len(LARGE)}, budget)
    assert body == LARGE
    assert (held_bytes, budget.free_bytes) == (len(LARGE), BUDGET - len(LARGE))


@pytest.mark.parametrize("protocol", ["json", "query"])
async def test_who_may_wait_for_long_has_a_small_body(broker: Broker, protocol: str) -> None:
    def sized(size: int) -> bytes:
        if protocol == "json":
            return json_request("Wait", b'{"X":"' + b"x" * (size - 8) + b'"}')
        return form_request("Action=Wait&X=" + "x" * (size - 14))

    async with running(broker) as (bound, given, _), asyncio.timeout(20):
        refused: Answered = await asked(bound, sized(MAX_WAITING_BODY_BYTES + 1))
        given.release.set()
        taken = await asked(bound, sized(MAX_WAITING_BODY_BYTES))
    assert (refused.status, refused.code, taken.status) == (413, "RequestEntityTooLarge", 200)
    assert b"at most 65536 bytes" in refused.body


async def test_whoever_waits_hears_of_its_clients_end_also_while_reading_was_paused(broker: Broker) -> None:
    heard: asyncio.Queue[Ending] = asyncio.Queue()
    watching = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        protocol = connection_of(scope)
        assert protocol is not None
        protocol.flow.pause_reading()  # as uvicorn does when much of a body comes at once
        protocol.watch(heard.put_nowait)
        watching.set()
        await heard.get()
        heard.put_nowait("gone")

    async with serving(app, grace_s=0.1) as bound, asyncio.timeout(20):
        async with connected(bound) as connection:
            await connection.send(request())
            await watching.wait()
        assert await heard.get() == "gone"


# -- what is left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_ended", [None, Waited()])
async def test_a_request_leaves_nothing_to_the_garbage_collector(broker: Broker, when_ended: Waited | None) -> None:
    tasks: WeakSet[asyncio.Task[object]] = WeakSet()

    async def noted(_call: Call, _given: Empty) -> Waited:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        return Waited()

    watched = Operation("Wait", Empty, noted, when_ended=when_ended, ends_with_client=True)
    service = msgspec.structs.replace(tiny().service(), operations={"Wait": watched})
    app = gateway_app(broker, Access(), services=[service])
    gc.disable()
    try:
        async with serving(app) as bound, connected(bound) as connection:
            for _ in range(10):
                await connection.send(json_request("Wait", {}))
                assert (await connection.answer()).status == 200
            await asyncio.sleep(0)
            assert len(tasks) <= 1  # the last one's may not have been let go
    finally:
        gc.enable()
