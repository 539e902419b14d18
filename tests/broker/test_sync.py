"""`broker.sync`: the same for programs without an event loop, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import client, functions, message, queues, streams, sync
from broker.errors import (
    FunctionNotFound,
    InvalidOption,
    LeaseLost,
    NoLiveWorker,
    PayloadNotJson,
    PenstockError,
    QueueNotFound,
    StoreUnavailable,
)
from broker.functions import register_function
from broker.names import Queue
from broker.records import FunctionSettings
from broker.settings import Settings
from tests.conftest import set_clock


@pytest.fixture
def opened(redis_url: str, settings: Settings) -> Iterator[sync.Broker]:
    with sync.Broker(redis_url, settings=settings) as broker:
        broker._run(lambda: set_clock(broker._broker.core.runner))  # a test before may have moved it
        yield broker


@pytest.fixture
def queue(opened: sync.Broker) -> sync.QueueClient:
    made = opened.queue("orders")
    made.create()
    return made


def register(broker: sync.Broker, name: str) -> None:
    """What a worker does; the sync face has no use for it."""
    broker._run(lambda: register_function(broker._broker.core, name, FunctionSettings()))


def test_a_queue_can_be_used_from_creation_to_deletion(opened: sync.Broker) -> None:
    queue = opened.queue("orders")
    queue.create(visibility_timeout=30, dead_letter=Queue("orders-dead"), max_receives=5)
    assert opened.queues() == ["orders", "orders-dead"]
    first_id = queue.send({"id": 1}, attributes={"kind": "new"}, id="mine")
    others = queue.send_many({"id": n} for n in (2, 3))
    queue.send("later", delay=100)
    counts = queue.counts()
    assert (counts.visible, counts.delayed) == (3, 1)
    messages = queue.receive(10, wait=5, visibility_timeout=60)
    assert [found.id for found in messages] == [first_id, *others]
    one, two, three = messages
    assert (one.id, one.body, one.json(), one.attributes) == ("mine", '{"id":1}', {"id": 1}, {"kind": "new"})
    assert (one.receives, one.source) == (1, None)
    assert abs(one.sent_ms - time.time() * 1000) < 60_000
    one.extend(120)
    one.delete()
    two.release()
    three.release(50)
    assert [found.body for found in queue.peek()] == ['{"id":2}', '{"id":3}', "later"]
    queue.configure(delay=3)
    assert queue.settings().delay_s == 3
    assert queue.purge() == 3
    queue.delete()
    with pytest.raises(QueueNotFound):
        queue.counts()


def test_settling_somebody_else_s_message_raises_lease_lost(queue: sync.QueueClient) -> None:
    queue.send("x")
    (old,) = queue.receive(visibility_timeout=0)
    (new,) = queue.receive()
    with pytest.raises(LeaseLost, match=old.id):
        old.delete()
    assert repr(new).endswith("receive 2>")
    with pytest.raises(PayloadNotJson):
        new.json()


def test_dead_letters_can_be_redriven(opened: sync.Broker, queue: sync.QueueClient) -> None:
    opened.queue("there").create()
    queue.send_many(range(5))
    assert queue.redrive(to=Queue("there"), count=3) == 3
    assert opened.queue("there").counts().visible == 3


def test_functions_are_invoked_counted_paused_and_removed(opened: sync.Broker) -> None:
    with pytest.raises(FunctionNotFound):
        opened.invoke("work", {})
    register(opened, "work")
    assert opened.functions() == ["work"]
    assert opened.invoke("work", {"n": 1}, id="r-1") == "r-1"
    assert len(opened.invoke_many("work", ({"n": n} for n in range(3)))) == 3
    function = opened.function("work")
    assert len(function.invoke_many([1, 2])) == 2
    function.invoke(3)
    assert function.counts().visible == 7
    assert function.settings() == FunctionSettings()
    function.pause()
    function.resume()
    with pytest.raises(NoLiveWorker):
        opened.call("work", {}, timeout=1)
    assert function.purge() == 7
    function.delete()
    assert opened.functions() == []


def test_streams_are_appended_to_and_read(opened: sync.Broker) -> None:
    stream = opened.stream("done")
    stream.create(max_length=10, retention=60)
    position = stream.append({"n": 1})
    (record,) = stream.read()
    assert (record.position, record.json()) == (position, {"n": 1})
    assert stream.read(after=position, count=5) == []
    assert (stream.length(), opened.streams()) == (1, ["done"])
    assert stream.key.endswith(":log")
    stream.delete()
    assert opened.streams() == []


def test_it_works_from_many_threads_at_once(queue: sync.QueueClient) -> None:
    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(lambda n: queue.send(str(n)), range(300)))
        assert len(set(ids)) == 300
        batches = list(threads.map(lambda _: queue.receive(10), range(40)))
    bodies = sorted(int(found.body) for batch in batches for found in batch)
    assert bodies == list(range(300))


def test_a_waiting_receive_in_one_thread_gets_what_another_sends(queue: sync.QueueClient) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.receive, 1, wait=20)
        queue.send("x")
        assert [found.body for found in waiting.result(timeout=5)] == ["x"]


def test_a_generator_of_bodies_runs_in_the_caller_s_thread(queue: sync.QueueClient) -> None:
    seen: list[int] = []

    def bodies() -> Iterator[int]:
        seen.append(threading.get_ident())
        yield 1

    queue.send_many(bodies())
    assert seen == [threading.get_ident()]


def test_used_unopened_or_closed_it_says_how_to_open_it(redis_url: str, settings: Settings) -> None:
    broker = sync.Broker(redis_url, settings=settings)
    for use in (broker.queues, lambda: broker.queue("orders"), lambda: broker.invoke("work", {})):
        with pytest.raises(PenstockError, match="not open: use it with `with Broker"):
            use()
    with broker:
        queue = broker.queue("orders")
        queue.create()
        with pytest.raises(PenstockError, match="open already"), broker:
            pass
        assert broker.queues() == ["orders"]
    with pytest.raises(PenstockError, match="not open"):
        queue.send("x")
    with broker:  # it can be opened again
        assert broker.queues() == ["orders"]


def test_errors_arrive_as_they_are_and_opening_fails_by_name(queue: sync.QueueClient, settings: Settings) -> None:
    with pytest.raises(InvalidOption, match="delay=901"):
        queue.send("x", delay=901)
    before = threading.active_count()
    with (
        pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1:1 \(the URL given\)"),
        sync.Broker("redis://127.0.0.1:1", settings=settings),
    ):
        pass
    assert threading.active_count() == before  # the thread of the failed one is gone


def test_leaving_waits_for_the_calls_of_other_threads(redis_url: str, settings: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        with sync.Broker(redis_url, settings=settings) as broker:
            queue = broker.queue("orders")
            queue.create()
            waiting = threads.submit(queue.receive, 1, wait=0.3)
            sends = [threads.submit(queue.send, str(n), delay=5) for n in range(50)]
            while broker._calls == 0:
                time.sleep(0)
        outcomes = [send.exception() or send.result() for send in sends]
        assert waiting.exception() is None or "not open" in str(waiting.exception())
    stored = [outcome for outcome in outcomes if isinstance(outcome, str)]
    refused = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert all("not open" in str(error) for error in refused)  # came too late; nothing was cut off half-way
    with sync.Broker(redis_url, settings=settings) as broker:
        assert broker.queue("orders").counts().delayed == len(stored)


def test_it_can_be_used_beside_a_running_event_loop(queue: sync.QueueClient) -> None:
    async def program() -> str:
        return await asyncio.to_thread(queue.send, "x")

    assert asyncio.run(program())


@pytest.mark.parametrize(
    ("plain", "asynchronous", "left_out"),
    [
        (sync.Broker, client.Broker, {"core", "caller", "deliver", "sender", "receiver", "within"}),
        (sync.QueueClient, queues.QueueClient, {"core", "resource"}),
        (sync.FunctionClient, functions.FunctionClient, {"resource"}),
        (sync.StreamClient, streams.StreamClient, set()),
        (sync.Message, message.Message, {"entry", "member", "facts", "header", "redriven"}),
    ],
)
def test_every_method_is_there_with_the_same_options(plain: type, asynchronous: type, left_out: set[str]) -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, lambda member: callable(member) or isinstance(member, property))
        return {
            name: []
            if isinstance(member, property)
            else [str(p) for p in inspect.signature(member).parameters.values()]
            for name, member in methods
            if not name.startswith("_") and name not in left_out
        }

    def named(methods: dict[str, list[str]]) -> dict[str, list[str]]:
        return {name: [p.replace("'", "") for p in parameters] for name, parameters in methods.items()}

    assert named(public(plain)) == named(public(asynchronous))
    for name in public(plain):
        assert inspect.getdoc(getattr(plain, name)), name
