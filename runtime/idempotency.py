"""Handlers that have their effect once: a second call under the same key gets the first one's result.

The key, who runs under it, and the result are kept in the Redis of the worker. While a handler runs its key is leased,
and the lease renewed; after a crash it runs out, and the next try runs.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec

from broker.core import Core
from broker.errors import InvalidOption, PenstockError, StoreError
from broker.limits import KIB
from broker.log import log
from broker.records import check_range, check_whole, decode_json, encode_json
from runtime.handlers import Handler, name_of

DEFAULT_EXPIRES_S: Final = 3_600.0
MAX_EXPIRES_S: Final = 86_400.0 * 365
DEFAULT_RESULT_BYTES: Final = 256 * KIB
_RENEWALS_A_LEASE: Final = 4
_ENCODER: Final = msgspec.json.Encoder(order="deterministic", decimal_format="number")

H = TypeVar("H", bound=Handler)
T = TypeVar("T")
Part: TypeAlias = str | Callable[[Any], object]
"""What is taken of an event: a path, as ``order.id`` or ``items.0.id``, or a function of the event."""


class IdempotencyError(PenstockError):
    """Base of what an idempotent handler raises itself: a function error, which Lambda's rules try again."""

    code = "IdempotencyError"


class IdempotencyInProgress(IdempotencyError):
    """Another call under the same key has not ended."""

    code = "IdempotencyInProgress"


class IdempotencyKeyMissing(IdempotencyError):
    """The event has nothing where its key should be."""

    code = "IdempotencyKeyMissing"


class IdempotencyPayloadChanged(IdempotencyError):
    """The key was used before, with another payload."""

    code = "IdempotencyPayloadChanged"


class IdempotencyResultTooLarge(IdempotencyError):
    """The handler has run under this key, but its result was too large to be kept."""

    code = "IdempotencyResultTooLarge"


class _Place:
    """Where a worker's handlers keep their keys."""

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop) -> None:
        self.core: Final = core
        self.loop: Final = loop


_place: Final[ContextVar[_Place]] = ContextVar("penstock_idempotency")


def use_store(core: Core) -> None:
    """Makes handlers that are started from this context on keep their keys there. For workers."""
    _place.set(_Place(core, asyncio.get_running_loop()))


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    key: Part | None
    payload: Part | None
    expires_s: float
    max_result_bytes: int


def idempotent(
    *,
    key: Part | None = None,
    payload: Part | None = None,
    expires: float = DEFAULT_EXPIRES_S,
    max_result_bytes: int = DEFAULT_RESULT_BYTES,
) -> Callable[[H], H]:
    """Makes a handler, or any function of an event and a context, run once for each key within ``expires`` seconds.

    ``key`` is a path into the event or a function of it; the whole event by default. ``payload`` is what must be the
    same whenever a key is used again; the whole event by default. Keys are those of the calling function and the
    handler's name. A call under a key whose first run has ended returns the saved result, as JSON gives it back; one
    whose first run has not raises IdempotencyInProgress; with another payload, IdempotencyPayloadChanged. A run that
    raises frees its key. A result over ``max_result_bytes`` of JSON is not saved: later calls raise
    IdempotencyResultTooLarge instead of running again. Raises InvalidOption for values out of range.
    """
    check_range("expires", expires, 1, MAX_EXPIRES_S)
    check_whole("max_result_bytes", max_result_bytes, 0, 6 * KIB * KIB)
    for option, part in (("key", key), ("payload", payload)):
        if part == "" or not (part is None or callable(part) or isinstance(part, str)):
            raise InvalidOption(option, part, 'must be a path as "order.id", or a function of the event')

    def wrap(handler: H) -> H:
        if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
            raise InvalidOption("handler", name_of(handler), "must return its result, not yield it, to be idempotent")
        options = _Options(
            name=name_of(handler), key=key, payload=payload, expires_s=expires, max_result_bytes=max_result_bytes
        )
        wrapper = _on_loop if inspect.iscoroutinefunction(handler) else _in_thread
        return cast("H", wrapper(handler, options))

    return wrap


def _on_loop(handler: Handler, options: _Options) -> Handler:
    @functools.wraps(handler)
    async def once(event: Any, context: Any) -> Any:
        run = _Run(_found_place(options.name), options, event, context)
        if await run.has_result():
            return run.result
        try:
            result = await handler(event, context)
        except (asyncio.CancelledError, GeneratorExit):
            run.free_in_background()
            raise
        except BaseException:
            await run.free()
            raise
        await run.keep(result)
        return result

    return once


def _in_thread(handler: Handler, options: _Options) -> Handler:
    @functools.wraps(handler)
    def once(event: Any, context: Any) -> Any:
        place = _found_place(options.name)
        run = _Run(place, options, event, context)
        if _awaited(place, options, run.has_result()):
            return run.result
        try:
            result = handler(event, context)
        except BaseException:
            _awaited(place, options, run.free())
            raise
        _awaited(place, options, run.keep(result))
        return result

    return once


def _awaited(place: _Place, options: _Options, work: Coroutine[Any, Any, T]) -> T:
    """What work on the worker's loop answers to this thread."""
    with suppress(RuntimeError):  # there is no loop in this thread, as it should be
        if asyncio.get_running_loop() is place.loop:
            work.close()
            raise PenstockError(
                f"{options.name} is no coroutine function and would block the event loop: call it from a plain function"
            )
    return asyncio.run_coroutine_threadsafe(work, place.loop).result()


def _found_place(name: str) -> _Place:
    try:
        return _place.get()
    except LookupError:
        raise PenstockError(f"{name} runs idempotently in a worker only; a test calls {name}.__wrapped__") from None


class _Run:
    """One call under its key."""

    def __init__(self, place: _Place, options: _Options, event: Any, context: Any) -> None:
        self._core: Final = place.core
        self._options: Final = options
        self._function: Final = place.core.resource("function", context.function_name)
        self._key: Final = _part(options.key, event, options.name)
        self._digest: Final = _digest(options.name, self._key)
        self._payload: Final = _digest("payload", _part(options.payload, event, options.name))
        self._owner: Final = uuid.uuid4().hex
        self._renewing: asyncio.Task[None] | None = None
        self.result: Any = None
        """What the first run has returned, where it has ended."""

    async def has_result(self) -> bool:
        """Whether it has run before; if not, this run now has the key. Raises IdempotencyError, StoreError."""
        lease_ms = self._core.settings.lease_ms
        begun = await self._core.once.begin(
            self._function, self._digest, owner=self._owner, payload=self._payload, lease_ms=lease_ms
        )
        what = f"{self._options.name}, key {_shown(self._key)}"
        match begun.status:
            case "running":
                raise IdempotencyInProgress(f"{what}: another call has not ended")
            case "other":
                raise IdempotencyPayloadChanged(f"{what}: it was used with another payload")
            case "done" if not begun.result:
                most = self._options.max_result_bytes
                raise IdempotencyResultTooLarge(f"{what}: its result had {begun.size} bytes; at most {most} are kept")
            case "done":
                self.result = decode_json(f"kept result of {what}", begun.result)
                return True
            case _:
                self._renewing = asyncio.create_task(self._renew(lease_ms), name="penstock-idempotency-lease")
                return False

    async def keep(self, result: Any) -> None:
        """Saves the result. A Redis that cannot be used is logged: to fail would make the effect happen again."""
        try:
            encoded = encode_json("result", result)
        except BaseException:
            await self.free()
            raise
        # To the end also when the call is cancelled meanwhile: its effect has happened.
        await asyncio.shield(self._core.in_background(self._save(encoded), name="idempotency"))

    async def _save(self, encoded: bytes) -> None:
        await self._stop_renewing()
        fits = len(encoded) <= self._options.max_result_bytes
        if not fits:
            log.error("idempotent_result_too_large", function=self._function.name, size=len(encoded))
        try:
            kept = await self._core.once.keep(
                self._function,
                self._digest,
                owner=self._owner,
                result=encoded if fits else b"",
                size=len(encoded),
                keep_ms=round(self._options.expires_s * 1000),
            )
        except StoreError as error:
            log.error("idempotent_result_not_kept", function=self._function.name, reason=str(error))
            return
        if not kept:
            log.error("idempotent_result_not_kept", function=self._function.name, reason="its lease had ended")

    async def free(self) -> None:
        """Gives the key back; where Redis cannot be used, its lease runs out."""
        await self._stop_renewing()
        with suppress(StoreError):
            await self._core.once.free(self._function, self._digest, owner=self._owner)

    def free_in_background(self) -> None:
        """The same for a coroutine that is being cancelled and should not wait."""
        self._core.in_background(self.free(), name="idempotency")

    async def _stop_renewing(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, lease_ms: int) -> None:
        while True:
            await asyncio.sleep(lease_ms / 1000 / _RENEWALS_A_LEASE)
            with suppress(StoreError):  # the next one may succeed; else the lease runs out
                await self._core.once.begin(
                    self._function,
                    self._digest,
                    owner=self._owner,
                    payload=self._payload,
                    lease_ms=lease_ms,
                    renews=True,
                )


def _part(part: Part | None, event: Any, name: str) -> object:
    if part is None:
        return event
    found = _at(part, event) if isinstance(part, str) else part(event)
    if found is None:
        raise IdempotencyKeyMissing(f"{name}: the event has nothing at {part if isinstance(part, str) else 'its key'}")
    return found


def _at(path: str, event: Any) -> Any:
    """What is at a path of names and numbers; None where there is nothing."""
    found = event
    for step in path.split("."):
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list | tuple):
            place = int(step) if step.isdigit() else len(found)
            found = found[place] if place < len(found) else None
        else:
            found = getattr(found, step, None)
    return found


def _digest(scope: str, value: object) -> str:
    text = scope.encode() + b"\0" + _ENCODER.encode(value)
    return hashlib.sha256(text).hexdigest()


def _shown(key: object) -> str:
    """The key where it is short; payloads do not belong into messages."""
    return repr(key) if isinstance(key, str | int) and len(str(key)) <= 80 else "of the whole event"  # noqa: PLR2004
