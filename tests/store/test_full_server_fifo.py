"""FIFO queues at maxmemory: sends are refused and leave nothing half-done; what ends or keeps work passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Broker, Message, Queue
from broker.embedded import EmbeddedRedis
from broker.errors import StoreFull
from broker.settings import Settings
from tests.store.audit import State, check_state

_MAX_BYTES = 6_000_000
_MOST_SENDS = 10_000


class _Full:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queue = broker.queue("orders.fifo")
        self.leased: list[Message] = []
        self.sent = 0

    async def prepare(self) -> None:
        await self.queue.create(dead_letter=Queue("dead.fifo"), max_receives=2)
        await self.queue.send_batch(
            [{"body": f"leased {n}", "group": f"g{n % 10}", "deduplication_id": f"leased-{n}"} for n in range(50)]
        )
        self.leased = await self.queue.receive(50, visibility_timeout=3_600)
        assert len(self.leased) == 50
        await self.fill_up()

    async def fill_up(self) -> None:
        """Sends until it is full."""
        for size in (10_000, 1_000, 100, 100):
            await self._fill(size)

    async def _fill(self, size: int) -> None:
        for _ in range(_MOST_SENDS):
            try:
                await self.queue.send("y" * size, group=f"g{self.sent % 20}", deduplication_id=f"{self.sent}")
            except StoreFull:
                return
            self.sent += 1
        raise AssertionError("the server never became full")

    async def is_full(self) -> None:
        with pytest.raises(StoreFull):
            await self.queue.send("refused " * 1_000, group="g1", deduplication_id="refused")

    async def check_state(self) -> State:
        """The state is sound; reading it takes a transaction, which a full server refuses."""
        core = self.broker.core
        await core.runner.fetch("CONFIG", "SET", "maxmemory", 0)
        try:
            return await check_state(core, self.queue.resource)
        finally:
            await core.runner.fetch("CONFIG", "SET", "maxmemory", _MAX_BYTES)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[_Full]:
    """A server filled through sends until it refuses them, with leases taken before."""
    with EmbeddedRedis(tmp_path / "redis", append_only=False, max_memory_bytes=_MAX_BYTES) as server:
        async with Broker(server.url, settings=Settings(test_clock=True, full_at_percent=100)) as broker:
            prepared = _Full(broker)
            await prepared.prepare()
            yield prepared


async def test_sends_are_refused_and_leave_nothing_half_done(full: _Full) -> None:
    before = await full.queue.counts()
    for _ in range(3):
        await full.is_full()
    assert await full.queue.counts() == before
    state = await full.check_state()
    assert len(state.places) == full.sent + 50


async def test_receives_hand_out_also_as_a_repeated_attempt(full: _Full) -> None:
    await full.is_full()
    first = await full.queue.receive(100, attempt="t")
    assert len(first) == 100
    again = await full.queue.receive(100, attempt="t")
    assert [message.member for message in again] == [message.member for message in first]
    await full.check_state()


async def test_deletions_extensions_and_releases_go_through(full: _Full) -> None:
    core, resource = full.broker.core, full.queue.resource
    members = [message.member for message in full.leased]
    assert await core.messages.extend(resource, members, lease_ms=7_200_000) == []
    assert await full.queue.delete_many(full.leased[:10]) == []
    for message in full.leased[10:20]:
        await message.release(60)
    assert await core.messages.release_claim(resource, full.leased[0].member.partition("|")[2]) == 30
    assert (await full.queue.counts()).retrying == 10
    await full.check_state()


async def test_dead_letters_are_written_and_delivered(full: _Full) -> None:
    core, resource = full.broker.core, full.queue.resource
    for message in full.leased:
        await message.extend(0)
    assert len(await full.queue.receive(50, visibility_timeout=0)) == 50
    await full.fill_up()  # some of it may be free by now
    await full.is_full()
    await full.queue.receive(1)
    await full.broker.deliver(resource)
    assert await core.outbox.entries(resource, 100) == []
    assert (await full.broker.queue("dead.fifo").counts()).visible > 0
    await full.check_state()


async def test_messages_past_their_retention_are_removed(full: _Full) -> None:
    core, resource = full.broker.core, full.queue.resource
    await core.directory.configure(resource, b"{}", {"retention_ms": "1"}, mode="replace")
    free = sum(f"g{n % 20}" not in {f"g{m}" for m in range(10)} for n in range(full.sent))
    assert await core.messages.expire(resource, calls=1_000) == free  # the others stand behind what is leased
    await full.check_state()
    await full.queue.send("works again", group="other", deduplication_id="works-again")


async def test_repair_goes_through(full: _Full) -> None:
    core, keys = full.broker.core, full.broker.core.keys.of(full.queue.resource)
    members = await core.runner.fetch("ZRANGE", keys.order, 0, 29)
    await core.runner.fetch("ZREM", keys.order, *members)
    assert await core.repairs.repair(full.queue.resource) == 30
    await full.check_state()
