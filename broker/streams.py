"""Streams: an append-only log, kept by length and age, that anybody can follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker import limits
from broker.core import Core
from broker.errors import InvalidOption, PayloadTooLarge, StreamNotFound
from broker.ids import random_token
from broker.message_attributes import encodable
from broker.names import Resource, check_name
from broker.records import StreamSettings, check_whole, decode_json, encode_json
from broker.store.lanes import RunsScripts
from broker.store.logs import LogEntry, NewRecord

_POSITION: Final = re.compile(r"\d{1,15}(-\d{1,15})?")


class StreamRecord(msgspec.Struct, frozen=True):
    """One record of a stream. ``position`` says where reading goes on."""

    position: str
    id: str
    body: str

    def json(self) -> Any:
        """The body decoded from JSON; raises PayloadNotJson."""
        return decode_json(f"record {self.id}", self.body)


class StreamClient:
    """One stream, as an opened :class:`broker.Broker` gives it. Errors: StreamNotFound, InvalidInput, StoreError.

    In Redis it is the stream at :attr:`key`, with the fields ``id`` and ``record``: any client's XREAD follows it.
    """

    def __init__(self, core: Core, name: str) -> None:
        self.name: Final = check_name("stream", name)
        self.key: Final[str] = core.keys.of(core.resource("stream", name)).log
        self._core: Final = core
        self._resource: Final[Resource] = core.resource("stream", name)

    async def create(
        self,
        *,
        max_length: int = limits.DEFAULT_STREAM_MAX_LENGTH,
        retention: float = limits.DEFAULT_STREAM_RETENTION_S,
        durability: str | None = None,
    ) -> None:
        """Creates the stream or changes how many records, and for how many seconds, it keeps them (nearly exactly), and
        the ``durability`` that it requires. Raises DurabilityNotMet where Redis does not give that."""
        settings = StreamSettings(max_length=max_length, retention_s=retention, durability=durability or "")
        await self._core.durable.check(settings.durability, self._resource)
        await _configure(self._core, self._resource, settings, implied=False)

    async def append(self, body: object) -> str:
        """Appends a record, text as it is and anything else as JSON; answers its position."""
        if isinstance(body, str) and not encodable(body):
            raise InvalidOption("body", body, "half of a surrogate pair, which cannot be stored as text")
        text = body.encode() if isinstance(body, str) else encode_json(f'record for stream "{self.name}"', body)
        if len(text) > limits.MAX_STREAM_RECORD_BYTES:
            raise PayloadTooLarge(f'record for stream "{self.name}"', len(text), limits.MAX_STREAM_RECORD_BYTES)
        records = [NewRecord(random_token(), text)]
        await self._core.headroom.check()
        positions = await append(self._core, self._resource, records)
        if positions is None:
            raise StreamNotFound(self.name)
        return positions[0]

    async def read(self, *, after: str = "0", count: int = 100) -> list[StreamRecord]:
        """Up to ``count`` records behind a position, oldest first; ``"0"`` is the beginning."""
        check_whole("count", count, 1, 10_000)
        if not _POSITION.fullmatch(after):
            raise InvalidOption("after", after, 'the position of a record, as "1700000000000-0", or "0"')
        if await self._core.directory.describe(self._resource) is None:
            raise StreamNotFound(self.name)
        return [_record(entry) for entry in await self._core.logs.read(self._resource, after=after, count=count)]

    async def length(self) -> int:
        """How many records it holds."""
        return await self._core.logs.length(self._resource)

    async def delete(self) -> None:
        """Removes the stream and its records."""
        status, _ = await self._core.directory.delete(self._resource, force=True)
        if status == "unknown":
            raise StreamNotFound(self.name)


def _record(entry: LogEntry) -> StreamRecord:
    return StreamRecord(entry.position, entry.id, entry.body.decode(errors="replace"))


async def _configure(core: Core, resource: Resource, settings: StreamSettings, *, implied: bool) -> None:
    fields = {
        "max_length": str(settings.max_length),
        "retention_ms": str(round(settings.retention_s * 1000)),
        "durability": settings.durability,
    }
    await core.directory.configure(
        resource, msgspec.json.encode(settings), fields, mode="ensure" if implied else "replace", implied=implied
    )


async def append(
    core: Core, stream: Resource, records: Sequence[NewRecord], *, urgent: bool = False
) -> list[str] | None:
    """Appends records, as safely as the stream requires; as :meth:`broker.store.logs.LogStore.append`."""

    async def attempt(made_sure_of: str, runs: RunsScripts) -> list[str] | None:
        return await core.logs.append(stream, records, urgent=urgent, made_sure_of=made_sure_of, runs=runs)

    return await core.durable.store(stream, attempt)


async def ensure_stream(core: Core, name: str) -> None:
    """Creates a stream that something names, with defaults, where it is missing."""
    await _configure(core, core.resource("stream", check_name("stream", name)), StreamSettings(), implied=True)
