"""Handlers that yield, as coroutine functions: their chunks put together, or each passed on as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec

from broker.chunks import chunk_bytes, whole_json
from broker.errors import PayloadNotJson
from broker.limits import MAX_RESPONSE_BYTES, MAX_STREAM_BYTES
from runtime.outcomes import ResultTooLarge

Yielding: TypeAlias = Callable[[Any, Any], AsyncGenerator[Any, None]]
Take: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes one chunk; whoever yields waits for it."""
_NOTHING: Final = b""


class Yielded(msgspec.Struct, frozen=True):
    """What a handler has yielded: the chunks put together, unless they were passed on, and why it was cut short."""

    whole: bytes = _NOTHING
    problem: PayloadNotJson | ResultTooLarge | None = None


def gathering(handler: Yielding) -> Callable[[Any, Any], Awaitable[Yielded]]:
    """The handler as one that answers all chunks at once."""

    async def gather(event: Any, context: Any) -> Yielded:
        whole = bytearray()

        async def keep(chunk: bytes) -> None:
            whole.extend(chunk)

        problem = await _run(handler(event, context), keep, limit_bytes=MAX_RESPONSE_BYTES)
        return Yielded(bytes(whole), problem)

    return gather


def passing_on(handler: Yielding, take: Take) -> Callable[[Any, Any], Awaitable[Yielded]]:
    """The handler as one that passes on each chunk, and answers behind the last one."""

    async def pass_on(event: Any, context: Any) -> Yielded:
        return Yielded(problem=await _run(handler(event, context), take, limit_bytes=MAX_STREAM_BYTES))

    return pass_on


async def _run(
    chunks: AsyncGenerator[Any, None], take: Take, *, limit_bytes: int
) -> PayloadNotJson | ResultTooLarge | None:
    """Whatever ends it, the generator is closed behind it: its ``finally`` has run."""
    problem: PayloadNotJson | ResultTooLarge | None = None
    left_bytes = limit_bytes
    try:
        async for value in chunks:
            try:
                chunk = chunk_bytes(value)
            except PayloadNotJson as error:
                problem = error
                break
            left_bytes -= len(chunk)
            if left_bytes < 0:
                problem = ResultTooLarge(limit_bytes)
                break
            if chunk:
                await take(chunk)
            else:
                await asyncio.sleep(0)  # or a handler that yields nothing but these would hold the loop
    finally:
        # What it raises while it is closed says less than why it is.
        with suppress(*(() if problem is None else (Exception,))):
            await chunks.aclose()
    return problem


def as_json(yielded: Yielded) -> bytes:
    """The chunks put together as JSON, for records, results and batches. Raises PayloadNotJson, ResultTooLarge."""
    return whole_json(as_bytes(yielded))


def as_bytes(yielded: Yielded) -> bytes:
    """The same as it is, which is what Lambda answers to a plain invocation. Raises PayloadNotJson, ResultTooLarge."""
    if yielded.problem is not None:
        raise yielded.problem
    return yielded.whole
