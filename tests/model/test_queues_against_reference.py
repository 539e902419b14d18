"""Random operations on a real queue, its dead-letter queue and workers, compared with the reference at every step.

``PENSTOCK_MODEL_EXAMPLES`` runs more examples, and other ones each time.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Final

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
)

from broker import Queue
from broker.message import Message
from broker.names import Resource
from broker.records import unpack
from broker.store.values import Deferral, member_of
from tests.conftest import move_clock
from tests.model.machine import EXAMPLES, Machine, explore
from tests.model.reference import Mode, ReferenceMessage, ReferenceQueue, Told
from tests.store.audit import check_state

MAX_RECEIVES: Final = 2
_ROOM: Final = 100

# All durations are multiples of ten seconds, so that the real milliseconds that pass between the steps decide nothing.
_QUEUES = st.sampled_from(["orders", "orders", "orders", "dead"])
_SECONDS = st.sampled_from([0, 10, 30])
_MODES = st.sampled_from(["work", "work", "alone"])
_OUTCOMES = st.sampled_from(["failed", "released", "crashed", "done"])
_CHOICE = st.integers(0, 1_000)


class _Held(msgspec.Struct, frozen=True):
    """A lease that was granted, perhaps long over."""

    queue: str
    body: str
    token: str
    member: str
    part: Resource
    message_then: ReferenceMessage
    message: Message | None = None


class QueueMachine(Machine):
    """The operations, each on both sides."""

    partitions = 1

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.models = {
            "orders": ReferenceQueue(self.time, max_receives=MAX_RECEIVES),
            "dead": ReferenceQueue(self.time, max_receives=None),
        }
        self.queues = {name: self.broker.queue(name) for name in self.models}
        retention = 14 * 86_400
        self.run(self.queues["dead"].create(retention=retention, partitions=self.partitions))
        self.run(
            self.queues["orders"].create(
                dead_letter=Queue("dead"), max_receives=MAX_RECEIVES, retention=retention, partitions=self.partitions
            )
        )
        self.ids: dict[str, str] = {}
        self.held: list[_Held] = []

    def parts(self, queue: str) -> list[Resource]:
        """The partitions of a queue."""
        return self.core.splits.parts(self.queues[queue].resource)

    # -- sending ------------------------------------------------------------------------------------------------------

    @rule(
        queue=_QUEUES, delay_s=st.sampled_from([None, 0, 10, 30]), own_id=st.sampled_from([None, None, None, "a", "b"])
    )
    def send(self, queue: str, delay_s: int | None, own_id: str | None) -> None:
        body = f"m{next(self.numbers)}"
        self.ids[body] = self.run(self.queues[queue].send(body, delay=delay_s, id=own_id))
        self.models[queue].send(body, delay_s=delay_s or 0, own_id=own_id)

    @initialize(number=st.integers(4, 12))
    def begin(self, number: int) -> None:
        self.send_many(number, None)

    @rule(number=st.integers(2, 6), delay_s=st.sampled_from([None, 10]))
    def send_many(self, number: int, delay_s: int | None) -> None:
        bodies = [f"m{next(self.numbers)}" for _ in range(number)]
        ids = self.run(self.queues["orders"].send_many(bodies, delay=delay_s))
        assert len(set(ids)) == number
        for body, message_id in zip(bodies, ids, strict=True):
            self.ids[body] = message_id
            self.models["orders"].send(body, delay_s=delay_s or 0)

    # -- receiving and settling ---------------------------------------------------------------------------------------

    @rule(queue=_QUEUES, count=st.integers(1, 4), timeout_s=_SECONDS)
    def receive(self, queue: str, count: int, timeout_s: int) -> None:
        messages = self.run(self.queues[queue].receive(count, wait=0, visibility_timeout=timeout_s))
        told: dict[str, Told] = {}
        for message in messages:
            assert message.id == self.ids[message.body]
            told[message.body] = Told(message.facts.receives, message.facts.tries, message.facts.crashes)
            token = message.member.partition("|")[2]
            there = self.models[queue].messages[message.body]
            self.held.append(_Held(queue, message.body, token, message.member, message.queue, there, message))
            assert self.models[queue].fate(message.body, "receive") == "handed out", message
            assert self.models[queue].lease(message.body, token, timeout_s) == told[message.body], message
        assert len(told) == len(messages)
        assert len(messages) <= count
        self._bury(queue, "receive")
        if len(messages) < count:
            left = [
                body
                for body in self.models[queue].messages
                if body not in told and self.models[queue].fate(body, "receive") != "stays"
            ]
            assert not left, f"there was room for {left}"

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE, timeout_s=_SECONDS)
    def extend(self, choice: int, timeout_s: int) -> None:
        held = self._one(choice)
        if held.message is not None:
            kept = self.keeps(held.message.extend(timeout_s))
        else:
            kept = self.run(self.core.messages.extend(held.part, [held.member], lease_ms=timeout_s * 1_000)) == []
        assert kept == self.models[held.queue].holds(held.body, held.token)
        if kept:
            self.models[held.queue].extend(held.body, timeout_s)

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE)
    def delete(self, choice: int) -> None:
        held = self._one(choice)
        model = self.models[held.queue]
        mine, there = model.holds(held.body, held.token), model.messages.get(held.body) is held.message_then
        if held.message is not None:
            assert self.keeps(held.message.delete()) == (mine or not there)
        else:
            settled = self.run(self.core.messages.finish(held.part, [held.member], counter="done"))
            assert settled.settled == mine
            assert settled.refused == ({} if mine else {0: "fenced" if there else "unknown"})
        if mine:
            del model.messages[held.body]

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE, delay_s=_SECONDS, failed=st.booleans())
    def release(self, choice: int, delay_s: int, *, failed: bool) -> None:
        held = self._one(choice)
        model = self.models[held.queue]
        if held.message is not None:
            failed = False
            kept = self.keeps(held.message.release(delay_s))
            if kept and not model.holds(held.body, held.token):  # as the repeat of a release whose reply was lost
                assert not model.is_leased(held.body)
                return
        else:
            deferral = Deferral(held.member, delay_s * 1_000, adds_try=failed)
            kept = self.run(self.core.messages.defer(held.part, [deferral])).settled == 1
        assert kept == model.holds(held.body, held.token)
        if kept:
            model.release(held.body, delay_s, adds_try=failed)

    # -- workers ------------------------------------------------------------------------------------------------------

    @rule(queue=_QUEUES, mode=_MODES, lease_s=st.sampled_from([10, 30]))
    def claim(self, queue: str, mode: Mode, lease_s: int) -> None:
        self._claim(queue, mode, lease_s)

    @rule(queue=_QUEUES, mode=_MODES, outcomes=st.lists(_OUTCOMES, min_size=1, max_size=5))
    def work(self, queue: str, mode: Mode, outcomes: list[str]) -> None:
        """A claim whose messages are settled at once, each in its way; some are forgotten."""
        model = self.models[queue]
        pairs = list(zip(self._claim(queue, mode, 10), itertools.cycle(outcomes), strict=False))
        done = [one for one, outcome in pairs if outcome == "done"]
        for one in done:
            settled = self.run(self.core.messages.finish(one.part, [one.member], counter="done"))
            assert (settled.settled, settled.refused) == (1, {})
            del model.messages[one.body]
        back = [(one, outcome == "failed") for one, outcome in pairs if outcome in {"failed", "released"}]
        for one, failed in back:
            deferral = Deferral(one.member, 0, adds_try=failed)
            settled = self.run(self.core.messages.defer(one.part, [deferral]))
            assert (settled.settled, settled.refused) == (1, {})
            model.release(one.body, 0, adds_try=failed)

    def _claim(self, queue: str, mode: Mode, lease_s: int) -> list[_Held]:
        token = f"{'s' if mode == 'alone' else 'w'}{len(self.held)}x{next(self.numbers)}"
        model = self.models[queue]
        fates = {body: model.fate(body, mode) for body in model.messages}
        before, seen = len(self.held), set()
        for part in self.parts(queue):
            claim = self.run(
                self.core.messages.claim(part, token=token, lease_ms=lease_s * 1_000, room=_ROOM, mode=mode)
            )
            assert len({item.entry for item in claim.messages}) == len(claim.messages)
            for item in claim.messages:
                body = unpack(item.blob)[1].decode()
                seen.add(body)
                assert fates[body] == "handed out", body
                expected = model.lease(body, token, lease_s)
                assert Told(item.facts.receives, item.facts.tries, item.facts.crashes) == expected, body
                self.held.append(_Held(queue, body, token, member_of(item.entry, token), part, model.messages[body]))
            self.run(self.broker.deliver(part))
        assert seen == {body for body, fate in fates.items() if fate == "handed out"}
        for body, fate in fates.items():
            if fate == "set apart":
                model.set_apart(body)
        self._bury(queue, mode, must={body for body, fate in fates.items() if fate == "dead"})
        return self.held[before:]

    # -- the rest -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([10, 10, 20, 30, 300]))
    def advance(self, seconds: int) -> None:
        self.run(move_clock(self.core.runner, seconds * 1_000))
        self.time.now_s += seconds

    @rule()
    def redrive(self) -> None:
        dead = self.models["dead"]
        moving = [body for body in dead.messages if dead.fate(body, "receive") == "handed out" and body in self.buried]
        staying = [
            body for body in dead.messages if dead.fate(body, "receive") == "handed out" and body not in self.buried
        ]
        assert self.run(self.queues["dead"].redrive()) == len(moving)
        for body in moving:
            del dead.messages[body]
            self.models["orders"].send(body)
            self.buried.discard(body)
        for body in staying:  # nobody knows where it came from: it was received, and given back
            receives = self._receives_of(body)
            dead.lease(body, "r", 0)
            dead.release(body, 0, adds_try=False)
            dead.messages[body].receives = receives

    @precondition(lambda self: self.time.now_s % 50 == 0)
    @rule(queue=_QUEUES)
    def purge(self, queue: str) -> None:
        assert self.run(self.queues[queue].purge()) == len(self.models[queue].messages)
        self.models[queue].messages.clear()

    @rule()
    def repair(self) -> None:
        for part in itertools.chain(*map(self.parts, self.queues)):
            assert self.run(self.core.repairs.repair(part)) == 0

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_exact_and_no_message_has_two_leases(self) -> None:
        for name, queue in self.queues.items():
            counts = msgspec.structs.asdict(self.run(queue.counts()))
            expected = self.models[name].counts()
            assert {key: counts[key] for key in expected} == expected, name
            states = [self.run(check_state(self.core, part)) for part in self.parts(name)]
            held = [unpack(blob)[1].rpartition(b"m")[2] for state in states for blob in state.bodies.values()]
            assert sorted(held) == sorted(body[1:].encode() for body in self.models[name].messages)

    # -- one side -----------------------------------------------------------------------------------------------------

    @property
    def buried(self) -> set[str]:
        """Dead letters that know their source."""
        found: set[str] = self.__dict__.setdefault("_buried", set())
        return found

    def _one(self, choice: int) -> _Held:
        # The newest ones first: most of the others are over.
        return self.held[-1 - choice % min(len(self.held), 8)]

    def _receives_of(self, body: str) -> int:
        found = {message.body: message.receives for message in self.run(self.queues["dead"].peek(1_000))}
        return found[body]

    def _bury(self, queue: str, mode: Mode, *, must: set[str] | None = None) -> None:
        """Moves to the dead letters what the claim moved there; only what is used up may be."""
        if queue == "dead":
            return
        for part in self.parts(queue):
            self.run(self.broker.deliver(part))
        model, dead = self.models["orders"], self.models["dead"]
        there = {message.body: message for message in self.run(self.queues["dead"].peek(1_000))}
        moved = there.keys() - dead.messages.keys()
        for body in moved:
            assert model.messages[body].receives == MAX_RECEIVES
            assert mode == "receive" or must is None or body in must
            assert there[body].id == self.ids[body]
            dead.bury(body, receives=model.messages.pop(body).receives)
            self.buried.add(body)
        if must is not None:
            assert moved == must


class SplitQueueMachine(QueueMachine):
    """The same over partitions, of which there are more and more: nobody must see that."""

    partitions = 3

    @precondition(lambda self: len(self.parts("orders")) < 8)
    @rule(queue=st.sampled_from(["orders", "dead"]), more=st.integers(1, 4))
    def grow(self, queue: str, more: int) -> None:
        self.run(self.queues[queue].configure(partitions=len(self.parts(queue)) + more))


@pytest.mark.timeout(3_600 if EXAMPLES else 120)
@pytest.mark.parametrize("machine", [QueueMachine, SplitQueueMachine])
def test_queue_behaves_like_its_reference(redis_url: str, machine: type[QueueMachine]) -> None:
    examples = 100 if machine is QueueMachine else 25  # of several times as many commands
    explore(partial(machine, redis_url), examples)
