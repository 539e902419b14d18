"""At maxmemory: producers are refused and leave nothing half-done; whatever ends, moves or keeps work goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Broker, Queue
from broker.embedded import EmbeddedRedis
from broker.errors import StoreFull
from broker.mover import Mover
from broker.moves import list_moves, start_move
from broker.settings import Settings
from broker.store.values import Claim, Onward
from tests.conftest import clock_offset_ms
from tests.store.audit import State, check_state
from tests.store.desk import Desk, bodies, members

_MAX_BYTES = 12_000_000
_MOST_SENDS = 10_000


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[_Full]:
    """A server filled through sends until it refuses them, with leases taken before."""
    with EmbeddedRedis(tmp_path / "redis", append_only=False, max_memory_bytes=_MAX_BYTES) as server:
        async with Broker(server.url, settings=Settings(test_clock=True, full_at_percent=100)) as broker:
            prepared = _Full(broker)
            await prepared.prepare()
            yield prepared


class _Full:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.desk = Desk(broker.core, "queue", "orders")
        self.queue = broker.queue("orders")
        self.leased = Claim("ok")
        self.sent = 0

    async def prepare(self) -> None:
        await self.queue.create(dead_letter=Queue("dead"), max_receives=2, visibility_timeout=30)
        await self.queue.send_many(["used up"] * 10)
        for token in ("r1", "r2"):
            assert len((await self.desk.claim(token, mode="receive", lease_ms=0)).messages) == 10
        await self.desk.send(*["leased" + "x" * 1_000] * 50)
        self.leased = await self.desk.claim("w1", room=60, lease_ms=3_600_000)
        assert (len(self.leased.messages), self.leased.outbox) == (50, 10)
        self.sent = 60
        for size in (10_000, 1_000, 100):
            await self._fill(size)
        await self._fill(100)

    async def _fill(self, size: int) -> None:
        for _ in range(_MOST_SENDS):
            try:
                await self.queue.send("y" * size)
            except StoreFull:
                return
            self.sent += 1
        raise AssertionError("the server never became full")

    async def check_state(self) -> State:
        """The state is sound; reading it takes a transaction, which a full server refuses."""
        core = self.broker.core
        await core.runner.fetch("CONFIG", "SET", "maxmemory", 0)
        try:
            return await check_state(core, self.desk.resource)
        finally:
            await core.runner.fetch("CONFIG", "SET", "maxmemory", _MAX_BYTES)

    async def is_full(self) -> None:
        with pytest.raises(StoreFull):
            await self.queue.send("z" * 10_000)


async def test_sends_are_refused_and_leave_nothing_half_done(full: _Full) -> None:
    before = await full.queue.counts(), await full.broker.core.directory.describe(full.queue.resource)
    for _ in range(3):
        with pytest.raises(StoreFull):
            await full.queue.send("refused " * 1_000)
        with pytest.raises(StoreFull):
            await full.queue.send("refused " * 1_000, delay=5, id="own")
        with pytest.raises(StoreFull):
            await full.queue.send_many(["refused " * 100] * 500)
    assert (await full.queue.counts(), await full.broker.core.directory.describe(full.queue.resource)) == before
    state = await full.check_state()
    assert not any(b"refused" in body for body in state.bodies.values())
    assert len(state.places) == full.sent - 10
    described = before[1]
    assert described is not None
    assert described.counters["sent"] == full.sent


async def test_claim_hands_out(full: _Full) -> None:
    assert len((await full.desk.claim("w2", room=100)).messages) == 100
    await full.is_full()


async def test_finish_goes_through_with_what_it_sends_on(full: _Full) -> None:
    names = members(full.leased, "w1")
    onward = [Onward(index, "s", b"r" * 2_000) for index in range(50)]
    settled = await full.broker.core.messages.finish(full.desk.resource, names, counter="done", onward=onward)
    assert settled.settled == 50
    assert (await full.desk.counts()).outbox == 60
    await full.check_state()


async def test_retries_extensions_and_releases_go_through(full: _Full) -> None:
    core, resource = full.broker.core, full.desk.resource
    names = members(full.leased, "w1")
    assert await core.messages.extend(resource, names, lease_ms=7_200_000) == []
    full.leased.messages[25:] = []
    assert (await full.desk.defer(full.leased, "w1", delay_ms=60_000, adds_try=True)).settled == 25
    assert await core.messages.release_claim(resource, "w1") == 25
    await full.check_state()


async def test_dead_letters_are_written_and_delivered(full: _Full) -> None:
    core = full.broker.core
    again = await full.desk.claim("r3", mode="receive", room=10, lease_ms=0)
    assert len(again.messages) == 10
    await full.desk.claim("r4", mode="receive", room=10, lease_ms=0)
    last = await full.desk.claim("r5", mode="receive", room=10)
    assert last.outbox == 20
    assert await full.broker.deliver(full.desk.resource) == 20
    assert await core.outbox.entries(full.desk.resource, 100) == []
    assert (await full.broker.queue("dead").counts()).visible == 20
    await full.is_full()


async def test_workers_start_and_stay_alive(full: _Full) -> None:
    core = full.broker.core
    assert await core.directory.heartbeat("worker", b'{"functions":["f"]}', ttl_ms=20_000) == []
    function = core.resource("function", "new")
    done = await core.directory.configure(function, b"{}", {"limit": "1"}, mode="replace")
    assert done.status == "created"
    assert (await core.directory.configure(function, b'{"a":1}', {}, mode="replace")).status == "changed"
    await core.directory.put_mapping("orders->new", b"{}", queue=full.desk.resource)
    assert await core.directory.hold(function, held=True)
    assert await core.directory.hold(function, held=False)
    assert (await core.permits.take_of_function(function, ["a"], permit_ms=1_000)).granted == 1
    assert await core.directory.take_turn("chore", for_ms=1_000)
    assert not await core.directory.take_turn("chore", for_ms=1_000)
    assert await core.directory.names("function") == ["new"]
    assert await core.directory.heartbeat("worker", b"", ttl_ms=0) == []


async def test_messages_past_their_retention_are_removed(full: _Full) -> None:
    core, resource = full.broker.core, full.desk.resource
    await core.directory.configure(resource, b"{}", {"retention_ms": "1"}, mode="replace")
    assert await core.messages.expire(resource, calls=1_000) == full.sent - 60
    assert (await full.check_state()).entries("leased") == {item.entry for item in full.leased.messages}
    await full.queue.send("z" * 10_000)


async def test_repair_goes_through(full: _Full) -> None:
    core = full.broker.core
    await core.runner.fetch("ZREM", full.desk.keys.leases, *members(full.leased, "w1"))
    assert await core.repairs.repair(full.desk.resource) == 50
    await full.check_state()


async def test_ended_worker_leases_are_set_apart_and_handed_out_alone(full: _Full) -> None:
    core = full.broker.core
    await core.runner.run("extend", (full.desk.keys.leases, full.desk.keys.permits), (0, *members(full.leased, "w1")))
    claim = await full.desk.claim("w2", room=60)
    assert claim.suspects == 50
    assert len((await full.desk.claim("s1", mode="alone", room=60)).messages) == 50
    await full.check_state()


async def test_sends_work_again_once_it_is_drained(full: _Full) -> None:
    await full.is_full()
    await full.desk.finish(full.leased, "w1")
    handed_out: list[str] = []
    while (claim := await full.desk.claim("w2", room=1_000)).messages:
        handed_out += bodies(claim)
        await full.desk.finish(claim, "w2")
    assert len(handed_out) == full.sent - 60
    await full.queue.send("works again")
    assert bodies(await full.desk.claim("w3")) == ["works again"]
    assert await clock_offset_ms(full.broker.core.runner) == 0


async def test_a_move_task_begins_works_and_ends(full: _Full) -> None:
    core = full.broker.core
    await full.broker.queue("other").create()
    before = await full.queue.counts()
    await start_move(core, full.desk.resource, destination=full.broker.queue("other").resource)
    await Mover(core, full.broker.deliver, full.desk.resource).run()
    (task,) = await list_moves(core, full.desk.resource)
    assert (task.status, task.moved) == ("COMPLETED", before.visible)
    assert (await full.broker.queue("other").counts()).visible == before.visible
    await full.check_state()
