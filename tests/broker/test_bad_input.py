"""Bad input and bad servers: each a named error that says which thing, which rule, which value; nothing half-done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from broker import Broker, Function, Queue, Stream, errors
from broker.functions import register_function
from broker.queues import QueueClient
from broker.records import FunctionSettings, MappingSettings, QueueSettings

# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "rule"),
    [
        ("queue", "a b", "only 1 to 80 of letters, digits, - and _"),
        ("queue", "", "only 1 to 80"),
        ("queue", "x" * 81, "only 1 to 80"),
        ("queue", "naïve", "only 1 to 80"),
        ("queue", "orders\n", "only 1 to 80"),
        ("queue", "a{b}", "only 1 to 80"),
        ("queue", "orders.fifo.fifo", "with .fifo at the end of a FIFO queue's"),
        ("queue", ".fifo", "1 to 80 of letters"),
        ("queue", 5, "must be text"),
        ("queue", None, "must be text"),
        ("function", "a.b", "only 1 to 64 of letters, digits, - and _"),
        ("function", "x" * 65, "only 1 to 64"),
        ("function", "arn:aws:lambda:us-east-1:000000000000:function:f", "only 1 to 64"),
        ("stream", "a b", "only 1 to 128 of letters, digits, -, _ and ."),
        ("stream", "x" * 129, "only 1 to 128"),
    ],
)
async def test_a_bad_name_is_refused_wherever_it_stands(broker: Broker, kind: str, name: Any, rule: str) -> None:
    targets: dict[str, Callable[[Any], object]] = {"queue": Queue, "function": Function, "stream": Stream}
    clients: dict[str, Callable[[Any], object]] = {
        "queue": broker.queue,
        "function": broker.function,
        "stream": broker.stream,
    }
    for use in (targets[kind], clients[kind]):
        with pytest.raises(errors.InvalidName, match=re.escape(rule)) as caught:
            use(name)
        assert (caught.value.what, caught.value.code) == (kind, "InvalidName")
        assert str(name) in str(caught.value)


async def test_a_bad_name_of_a_function_is_refused_by_every_way_to_it(broker: Broker) -> None:
    for use in (broker.invoke, broker.invoke_many, broker.call):
        with pytest.raises(errors.InvalidName, match='function name "a b"'):
            await use("a b", {})
    with pytest.raises(errors.InvalidName):
        await register_function(broker.core, "a b", FunctionSettings(on_success=Queue("made")))
    assert await broker.queues() == []


# -- unknown things ----------------------------------------------------------------------------------------------------


async def test_an_unknown_queue_is_an_error_for_every_use(broker: Broker) -> None:
    queue = broker.queue("nowhere")
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: queue.send("x"),
        lambda: queue.send("x", delay=1, id="a"),
        lambda: queue.send_many(["x"]),
        queue.receive,
        lambda: queue.receive(wait=0.1),
        lambda: queue.receive(wait=5, visibility_timeout=1),
        queue.settings,
        lambda: queue.configure(delay=1),
        queue.counts,
        queue.peek,
        queue.purge,
        queue.delete,
        queue.redrive,
    ]
    for use in uses:
        async with asyncio.timeout(5):
            with pytest.raises(errors.QueueNotFound, match='queue "nowhere" does not exist') as caught:
                await use()
        assert (caught.value.name, caught.value.code) == ("nowhere", "QueueNotFound")
        assert isinstance(caught.value, errors.NotFound)
    assert await broker.queues() == []


# -- events and bodies -------------------------------------------------------------------------------------------------


def _endless() -> list[object]:
    inner: list[object] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "event",
    [
        {1, 2}.__iter__(),
        object(),
        {"a": object()},
        {(1, 2): 3},
        "\ud800",
        _endless(),
        b"{",
        b"",
        b"{'a': 1}",
        b"\xff\xfe",
    ],
    ids=["iterator", "object", "object inside", "tuple as key", "half a character", "circle", *"4567"],
)
async def test_an_event_that_is_not_json_is_refused_and_nothing_is_stored(broker: Broker, event: object) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: broker.invoke("work", event),
        lambda: broker.invoke_many("work", [{}, event]),
        lambda: broker.call("work", event),
    ]
    for use in uses:
        with pytest.raises(errors.PayloadNotJson, match=r'event for function "work" is not JSON: .'):
            await use()
    assert (await broker.function("work").counts()).total == 0


async def test_an_event_over_the_limit_is_refused_with_its_size(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    await broker.invoke("work", "x" * (1_048_576 - 2))
    with pytest.raises(
        errors.PayloadTooLarge, match='event for function "work" has 1048577 bytes; at most 1048576 are allowed'
    ) as caught:
        await broker.invoke("work", "x" * (1_048_576 - 1))
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (1_048_577, 1_048_576)
    with pytest.raises(errors.PayloadTooLarge, match="at most 6291456"):
        await broker.call("work", "x" * 6_291_456)
    assert (await broker.function("work").counts()).total == 1


@pytest.mark.parametrize(
    ("body", "error", "rule"),
    [
        ("", errors.InvalidOption, "must not be empty"),
        ("a\x00b", errors.InvalidOption, "a character that SQS does not allow"),
        ("\ud800", errors.InvalidOption, "a character that SQS does not allow"),
        ("\uffff", errors.InvalidOption, "a character that SQS does not allow"),
        (object(), errors.PayloadNotJson, 'message for queue "orders" is not JSON'),
        ("x" * 1_048_577, errors.PayloadTooLarge, 'message for queue "orders" has 1048577 bytes; at most 1048576'),
    ],
    ids=["empty", "control character", "half a character", "no character", "object", "too large"],
)
async def test_a_bad_body_is_refused(queue: QueueClient, body: object, error: type[Exception], rule: str) -> None:
    with pytest.raises(error, match=rule):
        await queue.send(body)
    with pytest.raises(error, match=rule):
        await queue.send_many(["fine", body])
    assert (await queue.counts()).total == 0


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ({"": "x"}, "attribute name="),
        ({"a b": "x"}, "attribute name="),
        ({".a": "x"}, "attribute name="),
        ({"a.": "x"}, "attribute name="),
        ({"a..b": "x"}, "attribute name="),
        ({"AWS.x": "x"}, "not starting with AWS"),
        ({"amazon.x": "x"}, "not starting with AWS"),
        ({"x" * 257: "x"}, "1 to 256"),
        ({5: "x"}, "attribute name=5"),
        ({"a": ""}, r"attributes\['a'\]=''"),
        ({"a": b""}, r"attributes\['a'\]"),
        ({"a": None}, r"attributes\['a'\]=None"),
        ({"a": True}, r"attributes\['a'\]=True"),
        ({"a": [1]}, r"attributes\['a'\]"),
        ({"a": float("nan")}, r"attributes\['a'\]=nan: text, a finite number"),
        ({"a": Decimal("inf")}, "finite"),
        ({"a": "\ud800"}, r"attributes\['a'\]"),
        ({f"a{n}": "x" for n in range(11)}, "at most 10"),
    ],
)
async def test_bad_attributes_are_refused(queue: QueueClient, attributes: Any, rule: str) -> None:
    with pytest.raises(errors.InvalidOption, match=rule):
        await queue.send("x", attributes=attributes)
    assert (await queue.counts()).total == 0


async def test_attributes_count_to_the_size_of_a_message(broker: Broker) -> None:
    small = broker.queue("small")
    await small.create(max_message_bytes=1_024)
    # 1,000 of body, 1 of name, 6 of "String", 17 of value: exactly the limit
    await small.send("x" * 1_000, attributes={"a": "y" * 17})
    with pytest.raises(errors.PayloadTooLarge, match="has 1025 bytes; at most 1024"):
        await small.send("x" * 1_000, attributes={"a": "y" * 18})


@pytest.mark.parametrize("own_id", ["", "a b", "x" * 129, "é", "a\n", 5])
async def test_a_bad_own_id_is_refused(broker: Broker, queue: QueueClient, own_id: Any) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    uses: list[Callable[[], Awaitable[str]]] = [
        lambda: queue.send("x", id=own_id),
        lambda: broker.invoke("work", {}, id=own_id),
    ]
    for use in uses:
        with pytest.raises(errors.InvalidOption, match="1 to 128 printable characters without spaces"):
            await use()


@pytest.mark.parametrize("delay", [-1, 901, "5", True, float("nan"), float("inf")])
async def test_a_bad_delay_is_refused(queue: QueueClient, delay: Any) -> None:
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: queue.send("x", delay=delay),
        lambda: queue.send_many(["x"], delay=delay),
    ]
    for use in uses:
        with pytest.raises(errors.InvalidOption, match=r"delay=.*must be a number of seconds from 0 to 900"):
            await use()


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "option"),
    [
        (0, {}, "count=0"),
        (-1, {}, "count=-1"),
        (1_001, {}, "count=1001"),
        (1.5, {}, "count=1.5"),
        (True, {}, "count=True"),
        (1, {"wait": -1}, "wait=-1"),
        (1, {"wait": "5"}, "wait='5'"),
        (1, {"visibility_timeout": 43_201}, "visibility_timeout=43201"),
        (1, {"visibility_timeout": -0.1}, "visibility_timeout=-0.1"),
    ],
)
async def test_bad_options_of_receive_are_refused(
    queue: QueueClient, count: Any, options: dict[str, Any], option: str
) -> None:
    await queue.send("x")
    with pytest.raises(errors.InvalidOption, match=re.escape(option)):
        await queue.receive(count, **options)
    assert (await queue.counts()).in_flight == 0


async def test_bad_options_of_settling_are_refused_and_keep_the_lease(queue: QueueClient) -> None:
    await queue.send("x")
    (message,) = await queue.receive()
    uses: list[Callable[[], Awaitable[None]]] = [
        lambda: message.extend(-1),
        lambda: message.extend(43_201),
        lambda: message.release(-1),
    ]
    for use in uses:
        with pytest.raises(errors.InvalidOption, match="must be a number from 0 to 43200"):
            await use()
    await message.delete()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"visibility_timeout": -1}, "visibility_timeout=-1: must be a number from 0 to 43200"),
        ({"visibility_timeout": 43_201}, "visibility_timeout=43201"),
        ({"delay": 901}, "delay=901: must be a number from 0 to 900"),
        ({"retention": 59}, "retention=59: must be a number from 60 to "),
        ({"retention": 1_209_601}, "retention=1209601"),
        ({"max_message_bytes": 1_023}, "max_message_bytes=1023: must be a whole number from 1024 to "),
        ({"max_message_bytes": 1_048_577}, "max_message_bytes=1048577"),
        ({"receive_wait": 21}, "receive_wait=21: must be a number from 0 to 20"),
        ({"max_receives": 5}, "max_receives=5: goes together with dead_letter"),
        ({"dead_letter": Queue("dead")}, "max_receives=None: goes together with dead_letter"),
        ({"dead_letter": Queue("dead"), "max_receives": 0}, "max_receives=0"),
        ({"dead_letter": Queue("dead"), "max_receives": 1_001}, "max_receives=1001"),
        ({"dead_letter": Queue("orders"), "max_receives": 5}, "a queue cannot be its own dead-letter queue"),
        ({"delay": "5"}, "delay='5'"),
        ({"delay": True}, "delay=True"),
    ],
)
async def test_bad_settings_of_a_queue_are_refused_and_nothing_is_created(
    broker: Broker, options: dict[str, Any], option: str
) -> None:
    with pytest.raises(errors.InvalidOption, match=re.escape(option)):
        await broker.queue("orders").create(**options)
    assert await broker.queues() == []


async def test_bad_changes_of_a_queue_are_refused_and_nothing_is_changed(queue: QueueClient) -> None:
    with pytest.raises(errors.InvalidOption, match="delay=901"):
        await queue.configure(delay=901, visibility_timeout=5)
    assert await queue.settings() == QueueSettings()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"timeout_s": 0}, "timeout=0"),
        ({"timeout_s": 86_401}, "timeout=86401"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 101}, "retries=101: must be a whole number from 0 to 100"),
        ({"retries": 1.0}, "retries=1.0"),
        ({"retry_delays_s": ()}, "at least one delay"),
        ({"retry_delays_s": (-1.0,)}, "retry_delays=-1.0"),
        ({"max_event_age_s": 0}, "max_event_age=0"),
        ({"concurrency": -1}, "concurrency=-1"),
        ({"concurrency": 2.5}, "concurrency=2.5"),
        ({"max_crashes": -1}, "max_crashes=-1"),
    ],
)
def test_bad_settings_of_a_function_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(errors.InvalidOption, match=re.escape(option)):
        FunctionSettings(**options)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 10_001}, "batch_size=10001: must be a whole number from 1 to 10000"),
        ({"batch_window_s": 301}, "batch_window=301"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"max_concurrency": 1_001}, "max_concurrency=1001"),
    ],
)
def test_bad_settings_of_a_mapping_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(errors.InvalidOption, match=re.escape(option)):
        MappingSettings(queue="orders", function="work", **options)


@pytest.mark.parametrize("timeout", [0, -1, 86_401, "5"])
async def test_a_bad_timeout_of_a_call_is_refused(broker: Broker, timeout: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="timeout="):
        await broker.call("work", {}, timeout=timeout)


async def test_a_broker_that_is_not_open_says_how_to_open_it(redis_url: str) -> None:
    broker = Broker(redis_url)
    with pytest.raises(errors.PenstockError, match="not open: use it with `async with Broker"):
        await broker.invoke("work", {})
    with pytest.raises(errors.PenstockError, match="not open"):
        broker.queue("orders")
