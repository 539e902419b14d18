"""Handlers of every kind, and every bad one refused by name. The annotations here are text, as in users' modules."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import pytest

from broker import Queue
from broker.errors import InvalidName, InvalidOption
from runtime import App, Context, Record
from runtime.handlers import Unreadable

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypes


class Order(msgspec.Struct):
    id: int
    note: str = ""


class Other(msgspec.Struct):
    key: str


@dataclass
class Item:
    id: int


class Row(TypedDict):
    id: int


class SqsEvent(TypedDict):
    Records: list[dict[str, Any]]


async def on_loop(event: dict[str, Any], context: Context) -> None: ...
def in_thread(event: dict[str, Any], context: Context) -> None: ...
async def bare(event, context): ...  # type: ignore[no-untyped-def]  # as users write it  # noqa: ANN001, ANN201
async def plain_dict(event: dict, context: Context) -> None: ...  # type: ignore[type-arg]  # noqa: RUF100
async def struct(event: Order, context: Context) -> None: ...
async def data(event: Item, context: Context) -> None: ...
async def row(event: Row, context: Context) -> None: ...
async def numbers(event: list[int], context: Context) -> None: ...
async def either(event: Order | None, context: Context) -> None: ...
async def unresolved_context(event: Order, context: OnlyForTypes) -> None: ...
async def unresolved_event(event: OnlyForTypes, context: Context) -> None: ...
async def unsupported(event: Order | Other, context: Context) -> None: ...
async def star(*both: Any) -> None: ...
async def defaults(event: Any, context: Any = None, more: int = 1) -> None: ...
async def one(event: Any) -> None: ...
async def three(event: Any, context: Any, more: Any) -> None: ...
async def keyword(event: Any, *, context: Any) -> None: ...
def generates(event: Any, context: Any) -> Iterator[int]:
    yield 1


async def records(event: list[Record[Order]], context: Context) -> None: ...
async def bare_records(event: list[Record], context: Context) -> None: ...  # type: ignore[type-arg]
async def text_records(event: list[Record[str]], context: Context) -> None: ...
async def raw_records(event: list[Record[bytes]], context: Context) -> None: ...
async def sqs_event(event: SqsEvent, context: Context) -> None: ...


class CallableObject:
    async def __call__(self, event: Order, context: Context) -> None: ...


class Methods:
    async def handle(self, event: Order, context: Context) -> None: ...


def function(handler: Any, **options: Any) -> Any:
    app = App()
    app.function(**options)(handler)
    (made,) = app.functions.values()
    return made


def mapped(handler: Any, **options: Any) -> Any:
    app = App()
    app.queue("q", **options)(handler)
    (made,) = app.functions.values()
    return made


@pytest.mark.parametrize(
    ("handler", "on_the_loop"),
    [
        (on_loop, True),
        (in_thread, False),
        (star, True),
        (defaults, True),
        (functools.partial(three, more=1), True),
        (functools.partial(in_thread), False),
        (CallableObject(), True),
        (Methods().handle, True),
        (lambda event, context: None, False),
    ],
)
def test_coroutines_run_on_the_loop_and_others_in_a_thread(handler: Any, on_the_loop: bool) -> None:  # noqa: FBT001 - a table
    assert function(handler, name="f").on_loop is on_the_loop


def test_the_decorator_gives_the_handler_back_and_takes_its_name() -> None:
    app = App()
    assert app.function()(on_loop) is on_loop
    assert app.queue(Queue("q"), name="other")(on_loop) is on_loop
    assert list(app.functions) == ["on_loop", "other"]
    asyncio.run(on_loop({}, None))  # type: ignore[arg-type]  # still an ordinary coroutine function


@pytest.mark.parametrize(
    ("handler", "payload", "expected"),
    [
        (on_loop, b'{"id":1}', {"id": 1}),
        (bare, b"[1]", [1]),
        (plain_dict, b"7", 7),  # a bare dict is Lambda's usual spelling of "whatever"
        (struct, b'{"id":1,"unknown":2}', Order(1)),
        (data, b'{"id":1}', Item(1)),
        (row, b'{"id":1}', {"id": 1}),
        (numbers, b"[1,2]", [1, 2]),
        (either, b"null", None),
        (either, b'{"id":2}', Order(2)),
        (unresolved_context, b'{"id":1}', Order(1)),
        (CallableObject(), b'{"id":1}', Order(1)),
        (Methods().handle, b'{"id":1}', Order(1)),
        (star, b"1", 1),
    ],
)
def test_the_event_is_decoded_into_its_annotation(handler: Any, payload: bytes, expected: Any) -> None:
    assert function(handler, name="f").decode(payload) == expected


@pytest.mark.parametrize(
    ("handler", "payload", "says"),
    [
        (struct, b"{}", "missing required field `id`"),
        (struct, b'{"id":"x"}', r"Expected `int`, got `str` - at `\$.id`"),
        (data, b"[]", "Expected `object`, got `array`"),
        (row, b'{"id":null}', "Expected `int`, got `null`"),
        (numbers, b'{"a":1}', "Expected `array`"),
        (on_loop, b"{", "truncated"),
    ],
)
def test_what_does_not_fit_says_where(handler: Any, payload: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        function(handler, name="f").decode(payload)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        ("not callable", "must be a coroutine function or a function"),
        (7, "must be a coroutine function or a function"),
        (one, "must take two arguments, the event and the context"),
        (three, "must take two arguments, the event and the context"),
        (keyword, "must take two arguments, the event and the context"),
        (generates, "must return its result, not yield it"),
        (unresolved_event, "cannot be resolved when the worker starts: name 'OnlyForTypes' is not defined"),
        (unsupported, "multiple Struct types"),
    ],
)
def test_a_bad_handler_is_refused_with_its_function_and_the_rule(handler: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says) as caught:
        function(handler, name="shop")
    assert '"shop"' in str(caught.value)


def test_a_name_that_breaks_the_pattern_is_refused() -> None:
    with pytest.raises(InvalidName, match="<lambda>"):
        function(lambda event, context: None)
    with pytest.raises(InvalidName, match="only 1 to 64"):
        function(on_loop, name="a b")


def test_two_functions_of_one_name_are_refused() -> None:
    app = App()
    app.function()(on_loop)
    with pytest.raises(InvalidOption, match="a function of this app has that name already"):
        app.queue("q", name="on_loop")(in_thread)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0}, "timeout=0: must be a number"),
        ({"retries": -1}, "retries=-1: must be a whole number from 0 to 100"),
        ({"retries": 101}, "retries=101"),
        ({"retries": True}, "retries=True"),
        ({"retry_delays": ()}, "retry_delays"),
        ({"retry_delays": "60"}, "retry_delays='60': must be a .* of seconds"),
        ({"retry_delays": 60}, "retry_delays=60: must be a .* of seconds"),
        ({"retry_delays": (-1,)}, "retry_delays=-1"),
        ({"max_event_age": "1h"}, "max_event_age='1h'"),
        ({"concurrency": -1}, "concurrency=-1"),
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"max_crashes": -1}, "max_crashes=-1"),
        ({"on_success": "done"}, "on_success='done': must be Queue"),
        ({"dead_letter": 1}, "dead_letter=1: must be Queue"),
    ],
)
def test_a_bad_option_is_refused_with_the_rule_and_the_value(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        function(on_loop, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size=0: must be a whole number from 1 to 10000"),
        ({"batch_size": 10_001}, "batch_size=10001"),
        ({"batch_window": 301}, "batch_window=301"),
        ({"max_concurrency": 0}, "max_concurrency=0"),
    ],
)
def test_a_bad_option_of_a_mapping_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        mapped(on_loop, **options)


@pytest.mark.parametrize(
    ("handler", "body", "expected"),
    [
        (records, b'{"id":3}', Order(3)),
        (bare_records, b'{"id":3}', {"id": 3}),
        (text_records, b"not json", "not json"),
        (raw_records, b"not json", b"not json"),
    ],
)
def test_a_batch_handler_may_take_typed_records(handler: Any, body: bytes, expected: Any) -> None:
    made = mapped(handler)
    assert made.takes_records
    assert made.decode_record(body) == expected


def test_a_handler_of_records_cannot_be_given_an_event() -> None:
    with pytest.raises(Unreadable, match="takes the records of a queue"):
        mapped(records).decode(b"{}")


def test_a_batch_handler_may_type_the_whole_event() -> None:
    event = {"Records": [{"body": "x"}]}
    assert not mapped(sqs_event).takes_records
    assert mapped(sqs_event).typed(event) == event
    assert mapped(on_loop).typed(event) is event
    with pytest.raises(Unreadable):
        mapped(struct).typed(event)


def test_a_batch_handler_cannot_take_another_list() -> None:
    with pytest.raises(InvalidOption, match=r"a batch handler takes the event of the queue, or list\[Record\[T\]\]"):
        mapped(numbers)


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda app: app.function, "@app.function needs parentheses: write @app.function()"),
        (lambda app: app.queue, '@app.queue needs the name of its queue: write @app.queue("orders")'),
    ],
)
def test_a_decorator_without_parentheses_says_that_it_needs_them(decorate: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        decorate(App())(on_loop)
