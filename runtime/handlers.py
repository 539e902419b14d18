"""User code as the runtime sees it: a handler, how its event is decoded, whether it runs on the loop or in a thread."""

from __future__ import annotations

import contextvars
import inspect
import json
import typing
from collections.abc import Callable
from copy import copy
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from broker.errors import InvalidOption, PayloadNotJson
from broker.names import SPARE, check_name
from broker.records import FunctionSettings, MappingSettings, encode_json
from runtime.outcomes import text_of
from runtime.shaping import Record
from runtime.yielding import Take, as_bytes, as_json, gathering, passing_on

Handler: TypeAlias = Callable[[Any, Any], Any]
_UNTYPED: Final = (inspect.Parameter.empty, Any, dict, object)


class Unreadable(Exception):
    """An event does not become what its handler takes; the text is Lambda's ``Runtime.UnmarshalError`` message."""

    def __init__(self, error: BaseException) -> None:
        ours = isinstance(error, msgspec.MsgspecError | UnicodeDecodeError)
        text = text_of(error)
        super().__init__(f"Unable to unmarshal input: {text if ours else f'{type(error).__name__}: {text}'}")


class HandlerFunction:
    """One registered function of an app: its code, settings and, for a batch handler, its mapping."""

    def __init__(
        self,
        handler: Handler,
        *,
        name: str | None,
        settings: FunctionSettings,
        mapping_of: MappingSettings | None = None,
        as_lambda: bool = False,
    ) -> None:
        what = name or name_of(handler)
        self.yields: Final = _is(inspect.isasyncgenfunction, handler)
        """Whether its result comes in chunks."""
        if rule := _broken_rule(handler, of_batches=mapping_of is not None):
            raise InvalidOption(f'handler of function "{what}"', handler, rule)
        self.name: Final = check_name("function", what)
        self.resource_name = self.name
        """What is called so in the store and serves it: the function, or a version or alias as ``orders:3``."""
        self.shares_limit = False
        """Whether others hold permits of its limit that do not wake it when they give them back."""
        self.code: Final = handler
        """What the app gave."""
        self.handler: Handler = gathering(handler) if self.yields else handler
        self.declared: Final = settings
        """What its code says."""
        self.settings: FunctionSettings = settings
        """Those in force: the code's until a newer registration is seen."""
        self.settings_at_start: FunctionSettings | None = None
        """Those that the environment of this process was made of; None where it was not."""
        self.as_lambda: Final = as_lambda
        """Whether it is an existing Lambda handler, whose process has Lambda's environment variables."""
        self.ground: contextvars.Context | None = None
        """What the context of each call is a copy of; made for the first one."""
        self.on_loop: Final = self.yields or _is(inspect.iscoroutinefunction, handler)
        self.mapping: MappingSettings | None = mapping_of
        # Lambda hands over what the JSON says, whatever the handler's annotations mean to those who check types.
        annotation = Any if as_lambda else _event_annotation(self.name, handler)
        self.encode_result: Callable[[Any], bytes] = encode_as_lambda if as_lambda else partial(encode_json, "result")
        """The JSON of what the handler returned. Raises PayloadNotJson, ResultTooLarge."""
        if self.yields:
            self.encode_result = as_json
        self.record_type: Final = _record_type(annotation) if mapping_of else None
        """T of a batch handler that takes ``list[Record[T]]``; None for any other."""
        self._event_type: Final = Any if self.takes_records or _is_untyped(annotation) else annotation
        if mapping_of and typing.get_origin(self._event_type) is list:
            rule = "a batch handler takes the event of the queue, or list[Record[T]]"
            raise InvalidOption(f'event annotation of function "{self.name}"', annotation, rule)
        self._decode_event: Final = _refuse_event if self.takes_records else self._decoder(self._event_type)
        self._decode_body: Final = self._decoder(self.record_type if self.takes_records else Any)

    def serving(self, resource_name: str, settings: FunctionSettings) -> HandlerFunction:
        """The same code as a version or alias of the function, under settings of its own."""
        other = copy(self)
        other.resource_name, other.settings = resource_name, settings
        return other

    @property
    def shown_name(self) -> str:
        """What the log calls it."""
        return self.resource_name.removesuffix(SPARE)

    @property
    def takes_records(self) -> bool:
        """Whether it is a batch handler that takes ``list[Record[T]]`` instead of the Lambda-shaped event."""
        return self.record_type is not None

    def for_call(self, take: Take | None) -> HandlerFunction:
        """The same for one call of a handler that yields: its chunks go where ``take`` puts them; without that, its
        result is the chunks as they are, whether they are JSON or not."""
        function = copy(self)
        function.encode_result = as_bytes
        if take is not None:
            function.handler = passing_on(self.code, take)
        return function

    def _decoder(self, wanted: Any) -> Callable[[bytes], Any]:
        try:
            return msgspec.json.Decoder(wanted).decode
        except TypeError as error:
            raise InvalidOption(f'event annotation of function "{self.name}"', wanted, str(error)) from error

    def decode(self, body: bytes) -> Any:
        """An event as the type that the handler takes. Raises Unreadable."""
        try:
            return self._decode_event(body)
        except BaseException as error:  # the type's own code may do anything, exit too
            raise Unreadable(error) from error

    def decode_record(self, body: bytes) -> Any:
        """The body of one record as the type that the handler takes; text stays text for ``Record[str]``. Raises
        Unreadable."""
        if self.record_type is bytes:
            return body
        try:
            return body.decode() if self.record_type is str else self._decode_body(body)
        except BaseException as error:  # the type's own code may do anything, exit too
            raise Unreadable(error) from error

    def typed(self, event: dict[str, Any]) -> Any:
        """The event of a batch as the type that the handler takes. Raises Unreadable."""
        if self._event_type is Any:
            return event
        try:
            return msgspec.convert(event, self._event_type)
        except BaseException as error:  # the type's own code may do anything, exit too
            raise Unreadable(error) from error


def _broken_rule(handler: Any, *, of_batches: bool) -> str:
    """What a handler must be and is not; '' where it is all that."""
    if not callable(handler):
        return "must be a coroutine function or a function"
    if _is(inspect.isgeneratorfunction, handler):
        return "must return its result, not yield it; one that yields is written with async def"
    if of_batches and _is(inspect.isasyncgenfunction, handler):
        return "a batch handler must return its result, not yield it"
    return ""


def _is(kind: Callable[[Any], bool], handler: Handler) -> bool:
    """Whether a handler, or the ``__call__`` of an object that is one, is a function of a kind."""
    return kind(handler) or kind(getattr(handler, "__call__", None))  # noqa: B004 - it is looked at, not for


def encode_as_lambda(result: object) -> bytes:
    """A result as Lambda's Python runtime encodes it: what `json` knows, and Decimals as numbers. NaN, which is not
    JSON, is refused, unlike there. Raises PayloadNotJson.
    """
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_number_of)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadNotJson("result", str(error)) from error


def _number_of(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _refuse_event(payload: bytes) -> Any:  # noqa: ARG001 - stands where others decode
    raise msgspec.ValidationError("this function takes the records of a queue; it cannot be given an event")


def _is_untyped(annotation: Any) -> bool:
    return annotation in _UNTYPED or (
        typing.get_origin(annotation) is dict and typing.get_args(annotation) == (str, Any)
    )


def name_of(handler: Handler) -> str:
    """What a function is called that is given no name."""
    return str(getattr(handler, "__name__", repr(handler)))


def _event_annotation(name: str, handler: Handler) -> Any:
    """The annotation of the first parameter, after checking that the handler takes an event and a context."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return Any
    try:
        signature.bind(None, None)
    except TypeError as error:
        rule = f"must take two arguments, the event and the context ({error})"
        raise InvalidOption(f'handler of function "{name}"', str(signature), rule) from error
    first = next(iter(signature.parameters.values()))
    if first.annotation is inspect.Parameter.empty or first.kind is inspect.Parameter.VAR_POSITIONAL:
        return Any
    try:
        return _resolve(first.annotation, handler)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        rule = f"cannot be resolved when the worker starts: {error}"
        raise InvalidOption(f'event annotation of function "{name}"', first.annotation, rule) from error


def _resolve(annotation: Any, handler: Handler) -> Any:
    """What an annotation means where the handler was defined; the others of the handler may stay unresolved, as those
    of a Context imported for type checking do."""
    code: Any = handler
    while isinstance(code, partial):
        code = code.func
    if not inspect.isroutine(code):
        code = type(code).__call__
    holder = type("Event", (), {"__annotations__": {"event": annotation}})
    names = getattr(inspect.unwrap(code), "__globals__", {})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["event"]


def _record_type(annotation: Any) -> Any:
    """T of ``list[Record[T]]`` (Any for a bare Record); None for any other annotation."""
    if typing.get_origin(annotation) is not list:
        return None
    (item,) = typing.get_args(annotation)
    if item is Record:
        return Any
    if typing.get_origin(item) is Record:
        return typing.get_args(item)[0]
    return None
