"""Batches that are claimed while those before them start: never more than have room; a stop leaves none behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from broker import Broker
from broker.store.messages import MessageStore
from broker.store.values import Claim
from runtime import App, Context
from runtime.batch_starts import BatchStarts
from runtime.batches import Batch
from tests.runtime.orders import Orders, counts, fill, settled
from tests.runtime.scene import Gauge, Serve, eventually


class LooseEngine:
    """What the starts need of an engine."""

    def __init__(self) -> None:
        self.core = self
        self.tasks: list[asyncio.Task[object]] = []

    def in_background(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))

    def holds_loop_too_long(self) -> bool:
        return False


class Starts:
    """Batches by their permits: which were started, which given back."""

    def __init__(self, *names: str) -> None:
        self.engine = LooseEngine()
        self.started: list[str] = []
        self.given_back: list[str] = []
        self.told = 0
        self.room = len(names)
        self.lost: set[str] = set()
        self.stay: set[str] = set()
        self.starts = BatchStarts(
            self.engine,  # type: ignore[arg-type]  # a part of it
            start=self.start,
            has_room=lambda: len(self.started) < self.room,
            still_ours=lambda held: [each for each in held if str(each) not in self.lost],
            may_go=lambda held: str(held[0]) not in self.stay,
            release=lambda _: None,
            give_permits_back=self.given_back.extend,
        )
        for name in names:
            self.starts.add(Batch([name], name))  # type: ignore[list-item]  # nobody opens it

    def start(self, batch: Batch) -> None:
        self.started.append(batch.permit)
        if batch.permit == "last":
            self.starts.stop()

    def tell(self) -> None:
        self.told += 1

    async def run(self) -> None:
        self.starts.start_after_next_claim(self.tell)
        await asyncio.gather(*self.engine.tasks)


async def test_they_start_in_their_order_when_others_had_their_turn() -> None:
    starts = Starts("a", "b")
    starts.starts.start_after_next_claim(starts.tell)
    assert (starts.started, len(starts.starts)) == ([], 2)
    await starts.run()
    assert (starts.started, starts.given_back, len(starts.starts)) == (["a", "b"], [], 0)
    assert starts.told == 2


async def test_a_stop_gives_back_what_has_not_started_at_once() -> None:
    starts = Starts("a", "b")
    starts.starts.start_after_next_claim(starts.tell)
    starts.starts.stop()
    assert starts.given_back == ["a", "b"]
    await starts.run()
    assert starts.started == []


async def test_a_stop_from_a_call_gives_back_what_comes_behind_it() -> None:
    starts = Starts("a", "last", "c")
    await starts.run()
    assert (starts.started, starts.given_back) == (["a", "last"], ["c"])


async def test_what_finds_no_room_waits_for_it_and_starts_as_far_as_it_is_still_held() -> None:
    starts = Starts("a", "b", "c")
    starts.room = 1
    await starts.run()
    starts.starts.start_what_waited()
    assert (starts.started, len(starts.starts)) == (["a"], 2)
    starts.room, starts.lost = 2, {"b"}
    assert starts.starts.forget() == 1
    starts.starts.start_what_waited()
    assert (starts.started, starts.given_back, len(starts.starts)) == (["a", "c"], ["b"], 0)


async def test_what_waits_for_long_is_given_back_but_for_what_must_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts("a", "b", "c")
    starts.room, starts.stay = 0, {"b"}
    starts.starts.start_what_waited()
    assert len(starts.starts) == 3
    monkeypatch.setattr("runtime.batch_starts.HELD_S", 0)
    starts.starts.start_what_waited()
    assert (starts.started, starts.given_back, len(starts.starts)) == ([], ["a", "c"], 1)


@pytest.mark.parametrize(("size", "batches"), [(10, 100), (100, 16), (400, 16)])
async def test_no_more_is_claimed_than_has_room(broker: Broker, serve: Serve, size: int, batches: int) -> None:
    app, gauge, gate = App(), Gauge(), asyncio.Event()

    @app.queue("orders", batch_size=size)
    async def handle(event: dict[str, Any], context: Context) -> None:
        async with gauge:
            await gate.wait()

    await fill(broker, list(range(size * batches + 1_500)))
    async with serve(app):
        await eventually(lambda: gauge.now == batches, what="as many batches as have room")
        await asyncio.sleep(0.1)
        assert gauge.now == batches
        assert (await counts(broker)).in_flight == size * batches
        gate.set()
        await settled(broker)


@pytest.mark.parametrize("behind_claim", [1, 2])
async def test_a_stop_during_a_claim_leaves_nothing_in_flight(
    broker: Broker, serve: Serve, monkeypatch: pytest.MonkeyPatch, behind_claim: int
) -> None:
    real, claims, queued = MessageStore.claim, 0, asyncio.Event()
    orders = Orders(batch_size=10)
    await fill(broker, [])
    async with serve(orders.app) as worker:

        async def claim(self: MessageStore, *what: Any, **more: Any) -> Claim:
            nonlocal claims
            await queued.wait()  # so that each brings all that it asks for
            found = await real(self, *what, **more)
            claims += bool(found.messages)
            if claims == behind_claim:
                worker.stop()
                await asyncio.sleep(0.05)  # it hears of it
            return found

        monkeypatch.setattr(MessageStore, "claim", claim)
        await fill(broker, list(range(1_000)))
        queued.set()
        await eventually(lambda: claims >= behind_claim, what="the claim during which the worker stops")
    handled = sum(map(len, orders.batches))
    assert handled <= 500 * (behind_claim - 1), "what the last claim brought starts no more"
    assert (await counts(broker)).in_flight == 0
    assert (await counts(broker)).visible == 1_000 - handled
