"""Streams: an append-only log, kept by length and age, that our client and any other one can follow."""

from __future__ import annotations

from typing import Any

import pytest

from broker import Broker
from broker.errors import InvalidOption, PayloadTooLarge, StreamNotFound
from broker.records import StreamSettings
from broker.store.logs import NewRecord
from broker.streams import StreamClient, ensure_stream
from tests.conftest import Clock


@pytest.fixture
async def stream(broker: Broker) -> StreamClient:
    made = broker.stream("done")
    await made.create()
    return made


async def test_records_are_read_in_the_order_they_were_appended(stream: StreamClient) -> None:
    positions = [await stream.append({"n": n}) for n in range(5)]
    records = await stream.read()
    assert [record.json() for record in records] == [{"n": n} for n in range(5)]
    assert [record.position for record in records] == positions
    assert len({record.id for record in records}) == 5


async def test_reading_goes_on_behind_a_position(stream: StreamClient) -> None:
    for n in range(5):
        await stream.append(str(n))
    first = await stream.read(count=2)
    assert [record.body for record in first] == ["0", "1"]
    rest = await stream.read(after=first[-1].position)
    assert [record.body for record in rest] == ["2", "3", "4"]
    assert await stream.read(after=rest[-1].position) == []


async def test_text_is_kept_as_it_is_and_anything_else_as_json(stream: StreamClient) -> None:
    for body in ("text", {"é": 1}, [None]):
        await stream.append(body)
    assert [record.body for record in await stream.read()] == ["text", '{"é":1}', "[null]"]


async def test_any_redis_client_can_follow_a_stream_with_xread(broker: Broker, stream: StreamClient) -> None:
    position = await stream.append({"n": 1})
    ((key, ((entry, fields),)),) = await broker.core.runner.fetch("XREAD", "COUNT", 10, "STREAMS", stream.key, "0")
    assert (key.decode(), entry.decode()) == (stream.key, position)
    assert (fields[0], fields[2], fields[3]) == (b"id", b"record", b'{"n":1}')


async def test_a_stream_keeps_no_more_than_its_length(stream: StreamClient) -> None:
    await stream.create(max_length=100)
    for n in range(1_000):
        await stream.append(str(n))
    assert 100 <= await stream.length() < 300  # Redis trims whole nodes
    assert (await stream.read(count=1_000))[-1].body == "999"


async def test_a_stream_keeps_nothing_longer_than_its_retention(stream: StreamClient, clock: Clock) -> None:
    await stream.create(retention=60)
    for n in range(500):
        await stream.append(str(n))
    await clock.advance(50)
    await stream.append("x")
    assert await stream.length() == 501
    await clock.advance(11)
    await stream.append("y")
    assert await stream.length() <= 100  # Redis trims whole nodes


async def test_a_repeated_own_id_is_appended_once_within_five_minutes(
    broker: Broker, stream: StreamClient, clock: Clock
) -> None:
    resource = broker.core.resource("stream", "done")
    record = NewRecord("r", b"x", "from/1")
    first = await broker.core.logs.append(resource, [record, record])
    assert first is not None
    assert first[1] == ""
    await clock.advance(299)
    assert await broker.core.logs.append(resource, [record]) == [""]
    await clock.advance(1)
    await broker.core.logs.append(resource, [record])
    assert await stream.length() == 2


async def test_creating_again_changes_the_settings_and_keeps_the_records(broker: Broker, stream: StreamClient) -> None:
    await stream.append("x")
    await stream.create(max_length=10)
    assert await stream.length() == 1
    described = await broker.core.directory.describe(broker.core.resource("stream", "done"))
    assert described is not None
    assert described.settings == b'{"max_length":10}'


async def test_naming_a_stream_creates_it_once_with_defaults(broker: Broker) -> None:
    await ensure_stream(broker.core, "named")
    assert await broker.streams() == ["named"]
    await broker.stream("named").create(max_length=5)
    await ensure_stream(broker.core, "named")
    described = await broker.core.directory.describe(broker.core.resource("stream", "named"))
    assert described is not None
    assert described.settings == b'{"max_length":5}'


async def test_a_deleted_stream_is_unknown_and_its_records_are_gone(broker: Broker, stream: StreamClient) -> None:
    await stream.append("x")
    await stream.delete()
    assert await broker.streams() == []
    for use in (lambda: stream.append("x"), stream.read, stream.delete):
        with pytest.raises(StreamNotFound, match='stream "done" does not exist'):
            await use()
    await stream.create()
    assert await stream.read() == []


@pytest.mark.parametrize("after", ["", "x", "1-", "-1", "1-1-1", "$", "(1"])
async def test_a_position_that_is_none_is_refused_by_name(stream: StreamClient, after: str) -> None:
    with pytest.raises(InvalidOption, match="after="):
        await stream.read(after=after)


async def test_records_that_cannot_be_stored_are_refused_by_name(stream: StreamClient) -> None:
    with pytest.raises(PayloadTooLarge, match='record for stream "done" has 1048577 bytes; at most 1048576'):
        await stream.append("x" * 1_048_577)
    with pytest.raises(InvalidOption, match="surrogate"):
        await stream.append("\ud800")
    with pytest.raises(InvalidOption, match="count=0"):
        await stream.read(count=0)
    assert await stream.length() == 0


@pytest.mark.parametrize("options", [{"max_length": 0}, {"retention_s": 0.5}, {"max_length": True}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options)).removesuffix("_s")):
        StreamSettings(**options)
