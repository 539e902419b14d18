"""Handlers that yield: to callers that take a stream, to those that do not, and as the result of events."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from broker import Broker, CallThrottled, CallTimeout, FunctionError, NoLiveWorker, Queue, sync
from broker.call_notices import CallNotice, CallReply
from broker.call_streams import ChunkReader
from broker.chunks import PIECE_BYTES, WINDOW_BYTES
from broker.embedded import EmbeddedRedis
from broker.errors import FunctionNotFound, InvalidOption, PayloadNotJson, PenstockError
from broker.limits import MAX_RESPONSE_BYTES, MAX_STREAM_BYTES
from broker.settings import Settings
from runtime import App, Context
from runtime.idempotency import idempotent
from runtime.outlets import Outlets
from tests.runtime.scene import Serve, empty, eventually, received, serving

WAIT_S = 30


class Teller:
    """Functions that yield, and what has become of them."""

    def __init__(self) -> None:
        self.app = App()
        self.yielded = 0
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()
        self.gate = asyncio.Event()
        self.app.function(timeout=30, retries=0, on_success=Queue("told"), keep_result=10_000)(self.each)
        self.app.function(timeout=300, concurrency=1)(self.endless)
        self.app.function(timeout=300)(self.gated)
        self.app.function(timeout=300)(self.breaks)
        self.app.function(timeout=0.05, name="brief")(self.silent)
        self.app.function(timeout=300)(self.silent)
        self.app.function(timeout=0.05)(self.stubborn)
        self.app.function(timeout=300)(self.plain)

    async def each(self, event: list[Any], context: Context) -> AsyncIterator[Any]:
        for value in event:
            yield value

    async def endless(self, event: int, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                self.yielded += 1
                yield b"%08d" % self.yielded + b"x" * event
        finally:
            await asyncio.sleep(0)
            self.closed.set()

    async def gated(self, event: Any, context: Context) -> AsyncIterator[str]:
        yield "first"
        await self.gate.wait()
        yield "second"

    async def breaks(self, event: Any, context: Context) -> AsyncIterator[Any]:
        try:
            yield "good"
            if event is None:
                raise ValueError("no more")
            yield object() if event == "object" else "\ud800"
        finally:
            self.closed.set()

    async def silent(self, event: Any, context: Context) -> AsyncIterator[str]:
        self.begun.set()
        try:
            await asyncio.sleep(300)
            yield "never"
        finally:
            self.closed.set()

    async def stubborn(self, event: Any, context: Context) -> AsyncIterator[str]:
        for _ in range(10):
            try:
                yield "on"
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                yield "and on"
            except GeneratorExit:
                self.closed.set()
                yield "even so"

    async def plain(self, event: Any, context: Context) -> Any:
        if event == "bad":
            raise ValueError("no")
        return event


@pytest.fixture
def teller() -> Teller:
    return Teller()


async def whole(broker: Broker, function: str, event: object, **options: Any) -> list[bytes]:
    """All chunks of a call."""
    async with broker.call_stream(function, event, **options) as chunks:
        return [chunk async for chunk in chunks]


# -- chunks ------------------------------------------------------------------------------------------------------------


async def test_chunks_come_as_they_were_yielded(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        event = ["a", "é", {"b": 1}, None, "", [1, 2]]
        assert await whole(broker, "each", event) == [b"a", "é".encode(), b'{"b":1}', b"null", b"[1,2]"]
        assert await whole(broker, "each", []) == []


async def test_a_chunk_comes_before_the_next_one_is_made(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app), broker.call_stream("gated", 1) as chunks:
        assert await chunks.next() == b"first"
        teller.gate.set()
        assert [chunk async for chunk in chunks] == [b"second"]


async def test_a_large_chunk_comes_in_pieces(broker: Broker, serve: Serve, teller: Teller) -> None:
    text = "".join(f"{number:08d}" for number in range(100_000))
    async with serve(teller.app):
        chunks = await whole(broker, "each", [text])
        assert b"".join(chunks).decode() == text
        assert max(map(len, chunks)) == PIECE_BYTES


async def test_bytes_of_every_kind_are_chunks(broker: Broker, serve: Serve) -> None:
    app = App()

    @app.function()
    async def kinds(event: Any, context: Context) -> AsyncIterator[Any]:
        yield b"\xff"
        yield bytearray(b"a")
        yield memoryview(b"b")

    async with serve(app):
        assert await whole(broker, "kinds", 1) == [b"\xff", b"a", b"b"]


async def test_tiny_chunks_keep_their_order_and_share_the_loop(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        async with broker.call_stream("endless", 0) as chunks:
            for number in range(1, 20_001):
                assert await chunks.next() == b"%08d" % number
                if number == 10_000:
                    assert await broker.call("plain", 7) == 7, "others run beside it"
        await empty(broker, "endless")


async def test_the_answer_of_a_handler_that_does_not_yield_is_one_chunk(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        assert await whole(broker, "plain", {"a": 1}) == [b'{"a":1}']
        assert await whole(broker, "plain", "x" * 200_000) == [b'"' + b"x" * 200_000 + b'"']
        with pytest.raises(FunctionError, match="ValueError: no"):
            await whole(broker, "plain", "bad")


# -- a reader that is slow, or leaves ---------------------------------------------------------------------------------


async def test_a_handler_waits_while_its_reader_is_a_window_behind(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        async with broker.call_stream("endless", 10_000) as chunks:
            await eventually(lambda: teller.yielded > 10, what="it has begun")
            for _ in range(50):
                assert await broker.call("plain", 1) == 1  # the loop has gone round, and Redis has answered
            ahead = teller.yielded
            assert ahead * 10_008 <= WINDOW_BYTES + 2 * 10_008
            for number in range(1, 201):
                assert (await chunks.next() or b"")[:8] == b"%08d" % number
            assert teller.yielded <= 200 + ahead
        await asyncio.wait_for(teller.closed.wait(), WAIT_S)
        await empty(broker, "endless")


async def test_a_reader_that_takes_chunks_is_sent_more_without_asking(
    broker: Broker, serve: Serve, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.call_streams._LOOK_S", 1_000.0)  # when it would ask
    values = ["x" * 50_000] * 100
    async with serve(teller.app):
        chunks = await whole(broker, "each", values, timeout=WAIT_S)
    assert sum(map(len, chunks)) == 5_000_000


async def test_a_reader_that_leaves_closes_the_generator(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        async for chunk in (chunks := await broker.call_stream("endless", 10).__aenter__()):
            assert chunk.startswith(b"00000001")
            break
        await chunks.__aexit__()
        await asyncio.wait_for(teller.closed.wait(), WAIT_S)
        await empty(broker, "endless")


async def test_a_reader_that_is_cancelled_closes_the_generator(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        reading = asyncio.create_task(whole(broker, "silent", 1))
        await asyncio.wait_for(teller.begun.wait(), WAIT_S)
        reading.cancel()
        await asyncio.wait_for(teller.closed.wait(), WAIT_S)
        await empty(broker, "silent")


@pytest.mark.parametrize("function", ["silent", "endless"])
async def test_a_caller_that_dies_without_a_word_closes_the_generator(
    redis_url: str,
    settings: Settings,
    broker: Broker,
    serve: Serve,
    teller: Teller,
    function: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.outlets._LOOK_S", 0.05)
    async with serve(teller.app):
        async with Broker(redis_url, settings=settings) as dying:
            await dying.call_stream(function, 10).__aenter__()
            await eventually(lambda: teller.yielded or teller.begun.is_set(), what="it runs")
            await dying.core.channels.close()
            await asyncio.wait_for(teller.closed.wait(), WAIT_S)
        await empty(broker, function)


async def test_the_callers_deadline_closes_the_generator(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        with pytest.raises(CallTimeout, match=r'function "silent" gave no answer within 0\.2 s'):
            await whole(broker, "silent", 1, timeout=0.2)
        await asyncio.wait_for(teller.closed.wait(), WAIT_S)
        await empty(broker, "silent")


# -- handlers that fail ------------------------------------------------------------------------------------------------


async def test_what_fails_midway_raises_behind_the_chunks(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app), broker.call_stream("breaks", None) as chunks:
        assert await chunks.next() == b"good"
        with pytest.raises(FunctionError, match="ValueError: no more") as caught:
            await chunks.next()
        assert caught.value.request_id == chunks.request_id
        (frame,) = caught.value.stack
        assert "in breaks" in frame


@pytest.mark.parametrize("event", ["object", "surrogate"])
async def test_a_chunk_that_cannot_be_encoded_is_a_marshal_error(
    broker: Broker, serve: Serve, teller: Teller, event: str
) -> None:
    async with serve(teller.app), broker.call_stream("breaks", event) as chunks:
        assert await chunks.next() == b"good"
        with pytest.raises(FunctionError, match="Unable to marshal response") as caught:
            await chunks.next()
        assert caught.value.error_type == "Runtime.MarshalError"
        assert teller.closed.is_set()


async def test_a_generator_that_never_yields_times_out_and_is_closed(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        with pytest.raises(FunctionError, match=r"Task timed out after 0\.05 seconds") as caught:
            await whole(broker, "brief", 1)
        assert caught.value.error_type == "Sandbox.Timedout"
        assert teller.closed.is_set()
        await empty(broker, "brief")


async def test_a_generator_that_will_not_be_closed_times_out_all_the_same(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        with pytest.raises(FunctionError, match="Task timed out"):
            await whole(broker, "stubborn", 1)
        await empty(broker, "stubborn")


async def test_a_stream_over_the_limit_ends_with_lambdas_error(
    broker: Broker, serve: Serve, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_STREAM_BYTES == 209_715_200
    monkeypatch.setattr("runtime.yielding.MAX_STREAM_BYTES", 1_000_000)
    got = 0

    async def take_all(chunks: AsyncIterator[bytes]) -> None:
        nonlocal got
        async for chunk in chunks:
            got += len(chunk)

    async with serve(teller.app), broker.call_stream("endless", 9_992) as chunks:
        with pytest.raises(FunctionError, match=r"maximum allowed payload size \(1000000 bytes\)") as caught:
            await take_all(chunks)
        assert caught.value.error_type == "Function.ResponseSizeTooLarge"
        assert teller.closed.is_set()
    assert got == 1_000_000


# -- where nobody takes a stream ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "result"),
    [(['{"a":', "1}"], {"a": 1}), (["once ", "upon"], "once upon"), (["1", "2"], 12), ([], ""), ([[1], [2]], "[1][2]")],
)
async def test_a_plain_call_answers_all_chunks_in_one(
    broker: Broker, serve: Serve, teller: Teller, chunks: list[Any], result: Any
) -> None:
    async with serve(teller.app):
        assert await broker.call("each", chunks) == result


async def test_an_event_keeps_and_sends_on_all_chunks_as_json(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app):
        for chunks, result in ((["once ", '"upon"'], 'once "upon"'), (['{"a":', "1}"], {"a": 1})):
            request_id = await broker.invoke("each", chunks)
            assert await broker.result(request_id, wait=20) == result
            (record,) = await received(broker, "told")
            assert record.json()["responsePayload"] == result
            await record.delete()


async def test_bytes_that_are_no_text_stay_bytes_for_a_call_and_are_base64_for_an_event(
    broker: Broker, serve: Serve
) -> None:
    app = App()

    @app.function(keep_result=100)
    async def binary(event: Any, context: Context) -> AsyncIterator[bytes]:
        yield b"\xff\x00"

    async with serve(app):
        assert await broker.call("binary", 1) == b"\xff\x00"
        assert await broker.result(await broker.invoke("binary", 1), wait=20) == "/wA="


async def test_all_chunks_in_one_may_be_six_megabytes(broker: Broker, serve: Serve) -> None:
    app = App()
    closed = asyncio.Event()

    @app.function(timeout=30)
    async def long(event: int, context: Context) -> AsyncIterator[str]:
        try:
            for _ in range(event):
                yield "x" * 1_000_000
        finally:
            closed.set()

    async with serve(app):
        assert len(await broker.call("long", 6)) == 6_000_000
        with pytest.raises(FunctionError, match=rf"maximum allowed payload size \({MAX_RESPONSE_BYTES} bytes\)"):
            await broker.call("long", 1_000_000)
        assert closed.is_set()


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_function_at_its_limit_throttles_before_the_stream(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        async with broker.call_stream("endless", 1):
            with pytest.raises(CallThrottled, match="it is at its concurrency limit"):
                await broker.call_stream("endless", 1).__aenter__()
        await empty(broker, "endless")
        async with broker.call_stream("endless", 1) as chunks:
            assert await chunks.next()


async def test_a_worker_without_room_refuses_and_another_takes_it(broker: Broker, serve: Serve) -> None:
    full, free = Teller(), Teller()
    async with serve(full.app, max_calls=1), serve(free.app, max_calls=1), broker.call_stream("silent", 1):
        for number in range(10):
            assert await whole(broker, "each", [number]) == [b"%d" % number]
        async with broker.call_stream("silent", 1):
            with pytest.raises(CallThrottled, match="no worker takes it now"):
                await whole(broker, "each", [1])


async def test_what_cannot_be_called_is_refused_before_the_stream(broker: Broker, serve: Serve, teller: Teller) -> None:
    with pytest.raises(FunctionNotFound):
        await whole(broker, "nobody", 1)
    async with serve(teller.app):
        pass
    with pytest.raises(NoLiveWorker):
        await whole(broker, "each", [1])
    with pytest.raises(PayloadNotJson):
        broker.call_stream("each", object())
    with pytest.raises(InvalidOption, match="timeout="):
        broker.call_stream("each", 1, timeout=0)


async def test_a_stream_is_read_once(broker: Broker, serve: Serve, teller: Teller) -> None:
    stream = broker.call_stream("each", [1])
    with pytest.raises(PenstockError, match="not open"):
        await stream.next()
    async with serve(teller.app):
        async with stream:
            assert [chunk async for chunk in stream] == [b"1"]
            assert await stream.next() is None
        with pytest.raises(PenstockError, match="read already"):
            await stream.__aenter__()


def refused_handlers() -> Iterator[tuple[str, Callable[[App], object]]]:
    async def chunks(event: Any, context: Context) -> AsyncIterator[int]:
        yield 1

    def items(event: Any, context: Context) -> Iterator[int]:
        yield 1

    yield "not yield it; one that yields is written with async def", lambda app: app.function()(items)
    yield "a batch handler must return its result", lambda app: app.queue("orders")(chunks)
    yield "to be idempotent", lambda _: idempotent()(chunks)


@pytest.mark.parametrize(("rule", "register"), list(refused_handlers()))
def test_handlers_that_may_not_yield_are_refused(rule: str, register: Callable[[App], object]) -> None:
    with pytest.raises(InvalidOption, match=rule):
        register(App())


# -- what is lost on its way, workers that die -------------------------------------------------------------------------


async def test_a_lost_subscription_loses_no_chunk(broker: Broker, serve: Serve, teller: Teller) -> None:
    async with serve(teller.app), broker.call_stream("endless", 20_000) as chunks:
        for number in range(1, 301):
            chunk = await chunks.next()
            assert chunk is not None
            assert chunk[:8] == b"%08d" % number
            if number % 100 == 0:  # the caller's and the worker's
                await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", "pubsub")


async def test_what_is_lost_on_its_way_is_sent_again(
    broker: Broker, serve: Serve, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts, the first and the last one too, and every other word of the reader's. What comes twice counts once."""
    heard, taken = ChunkReader._heard, Outlets.taken
    lost_parts, words = {1, 2, 3, 7, 12}, count()

    def lossy(reader: ChunkReader, reply: CallReply | None) -> None:
        if reply is not None and (reply.part in lost_parts or (reply.last and 0 not in lost_parts)):
            lost_parts.discard(reply.part)
            lost_parts.update({0} if reply.last else ())
            return
        heard(reader, reply)
        if reply is not None and reply.part % 4 == 1:
            heard(reader, reply)  # as when a worker does not hear that it was published

    def half_deaf(outlets: Outlets, notice: CallNotice) -> None:
        if next(words) % 2:
            taken(outlets, notice)

    monkeypatch.setattr(ChunkReader, "_heard", lossy)
    monkeypatch.setattr(Outlets, "taken", half_deaf)
    monkeypatch.setattr("broker.call_streams._LOOK_S", 0.02)
    values = [f"{number:06d}" * 2_000 for number in range(300)]
    async with serve(teller.app):
        chunks = await whole(broker, "each", values, timeout=WAIT_S)
    assert [chunk.decode() for chunk in chunks] == values
    assert lost_parts == {0}, "all that was to be lost was"


async def test_the_end_of_a_stream_is_not_lost_with_the_subscription(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app), broker.call_stream("gated", 1) as chunks:
        assert await chunks.next() == b"first"
        await broker.core.runner.fetch("CLIENT", "KILL", "TYPE", "pubsub")
        teller.gate.set()
        assert [chunk async for chunk in chunks] == [b"second"]


async def test_a_stream_waits_while_redis_is_away(tmp_path: Path, teller: Teller) -> None:
    redis = EmbeddedRedis(tmp_path / "redis", fsync="always")
    redis.start()
    settings = Settings(prefix="own")
    try:
        async with Broker(redis.url, settings=settings) as broker, serving(teller.app, redis.url, settings):
            async with broker.call_stream("endless", 20_000) as chunks:
                for number in range(1, 201):
                    chunk = await chunks.next()
                    assert chunk is not None
                    assert chunk[:8] == b"%08d" % number
                    if number == 50:
                        await asyncio.to_thread(redis.stop)
                    if number == 51:  # what had come before the outage can be read during it
                        await asyncio.to_thread(redis.start)
            await asyncio.wait_for(teller.closed.wait(), WAIT_S)
    finally:
        redis.stop()


async def test_a_worker_that_stops_ends_its_streams_with_an_exit_error(
    broker: Broker, serve: Serve, teller: Teller
) -> None:
    async with serve(teller.app):
        chunks = await broker.call_stream("gated", 1).__aenter__()
        assert await chunks.next() == b"first"
    with pytest.raises(FunctionError, match="Runtime exited") as caught:
        await chunks.next()
    assert caught.value.error_type == "Runtime.ExitError"
    await chunks.__aexit__()


WORKER = """
import asyncio, sys
from broker.settings import Settings
from runtime import App, Worker
app = App()

@app.function(timeout=60)
async def dies(event, context):
    yield "alive"
    await asyncio.sleep(60)

asyncio.run(Worker(app, sys.argv[1], settings=Settings(prefix=sys.argv[2], test_clock=True)).run())
"""


@pytest.fixture
def process(redis_url: str, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, which can die."""
    path = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", WORKER, redis_url, settings.prefix]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as child:
        yield child
        child.kill()


async def test_a_stream_whose_worker_dies_hears_so_long_before_its_deadline(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    async def begun() -> Any:
        try:
            return await broker.call_stream("dies", 1).__aenter__()
        except (NoLiveWorker, FunctionNotFound):
            return None

    chunks = await eventually(begun, what="the worker serves", timeout_s=WAIT_S)
    assert await chunks.next() == b"alive"
    process.send_signal(signal.SIGKILL)
    with pytest.raises(FunctionError, match="Runtime exited without providing a reason"):
        await asyncio.wait_for(chunks.next(), WAIT_S)
    await chunks.__aexit__()


# -- without an event loop ---------------------------------------------------------------------------------------------


async def test_the_synchronous_face_reads_the_same_stream(
    redis_url: str, settings: Settings, broker: Broker, serve: Serve, teller: Teller
) -> None:
    def read() -> tuple[list[bytes], list[bytes]]:
        with sync.Broker(redis_url, settings=settings) as ours:
            with ours.call_stream("each", ["a", {"b": 1}]) as chunks:
                everything = list(chunks)
            with ours.call_stream("endless", 5_000) as chunks:
                some = [chunk[:8] for chunk, _ in zip(chunks, range(100), strict=False)]
            with pytest.raises(FunctionError, match="no more"), ours.call_stream("breaks", None) as chunks:
                list(chunks)
        return everything, some

    async with serve(teller.app):
        everything, some = await asyncio.to_thread(read)
        assert everything == [b"a", b'{"b":1}']
        assert len(some) == 100
        assert all(int(before) + 1 == int(after) for before, after in pairwise(some))
        await asyncio.wait_for(teller.closed.wait(), WAIT_S)
