"""Random operations on a real FIFO queue, compared with the reference at every step.

``PENSTOCK_MODEL_EXAMPLES`` runs more examples, and other ones each time.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from broker import Queue
from broker.message import Message
from broker.records import unpack
from broker.store.values import Deferral, member_of
from tests.model.fifo_reference import FifoMessage, FifoReference
from tests.model.machine import EXAMPLES, Machine, explore
from tests.model.reference import Mode, Told
from tests.store.audit import check_state

_MAX_RECEIVES: Final = 3
_RETENTION_S: Final = 400
_ROOM: Final = 500

_GROUPS = st.sampled_from(["a", "a!", "b", "c"])
_IDS = st.sampled_from([None, None, None, "x", "y"])
_SECONDS = st.sampled_from([0, 10, 30])
_CHOICE = st.integers(0, 1_000)


class _Held(msgspec.Struct, frozen=True):
    """A lease that was granted, perhaps long over."""

    there: FifoMessage
    token: str
    member: str
    message: Message | None = None


class FifoMachine(Machine):
    """The operations, each on both sides."""

    def __init__(self, url: str, delay_s: int) -> None:
        super().__init__(url)
        self.model = FifoReference(self.time, max_receives=_MAX_RECEIVES, retention_s=_RETENTION_S, delay_s=delay_s)
        self.queue, self.dead = self.broker.queue("orders.fifo"), self.broker.queue("dead.fifo")
        self.run(self.dead.create(retention=14 * 86_400))
        self.run(
            self.queue.create(
                dead_letter=Queue("dead.fifo"),
                max_receives=_MAX_RECEIVES,
                retention=_RETENTION_S,
                delay=delay_s,
                content_deduplication=True,
            )
        )
        self.ids: dict[str, str] = {}
        self.buried: list[str] = []
        self.held: list[_Held] = []

    # -- sending ------------------------------------------------------------------------------------------------------

    @rule(group=_GROUPS, deduplication_id=_IDS)
    def send(self, group: str, deduplication_id: str | None) -> None:
        body = f"m{next(self.numbers)}"
        sent = self.run(self.queue.send(body, group=group, deduplication_id=deduplication_id))
        first = self.model.send(body, group, deduplication_id or body)
        assert self.ids.setdefault(first, sent) == sent

    @initialize(groups=st.lists(_GROUPS, min_size=3, max_size=12))
    def begin(self, groups: list[str]) -> None:
        self.send_batch([(group, None) for group in groups])

    @rule(entries=st.lists(st.tuples(_GROUPS, _IDS), min_size=2, max_size=6))
    def send_batch(self, entries: list[tuple[str, str | None]]) -> None:
        bodies = [f"m{next(self.numbers)}" for _ in entries]
        sent = self.run(
            self.queue.send_batch(
                [
                    {"body": body, "group": group, "deduplication_id": deduplication_id}
                    for body, (group, deduplication_id) in zip(bodies, entries, strict=True)
                ]
            )
        )
        for body, (group, deduplication_id), sent_id in zip(bodies, entries, sent, strict=True):
            first = self.model.send(body, group, deduplication_id or body)
            assert self.ids.setdefault(first, sent_id) == sent_id

    # -- receiving and settling ---------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 6), timeout_s=_SECONDS)
    def receive(self, count: int, timeout_s: int) -> None:
        """Any groups may come; of each its first messages in order, and all that may, if there is room. Without a
        timeout there may be fewer: where some of the first to come are dead letters, no more groups are looked at, for
        those that were handed out would be among them.
        """
        messages = self.run(self.queue.receive(count, wait=0, visibility_timeout=timeout_s))
        assert len(messages) <= count
        dead = self._newly_dead()
        handed_out: dict[str, list[Message]] = {}
        for message in messages:
            handed_out.setdefault(message.group or "", []).append(message)
        for group in list(self.model.groups):
            mine = handed_out.pop(group, [])
            for there in list(self.model.groups[group]):
                fate = self.model.fate(there, "receive", first=not mine)
                if fate == "too old":
                    self.model.remove(there)
                elif there.body in dead:
                    assert fate == "dead", there
                    dead.remove(there.body)
                    self.model.remove(there)
                elif mine and mine[0].body == there.body:
                    assert fate == "handed out", there
                    self._lease(there, mine.pop(0), timeout_s)
                else:
                    assert not mine, f"{mine[0].body} was handed out before {there}"
                    fewer = len(messages) < count and not (messages and timeout_s == 0)
                    assert not fewer or fate == "stops", f"there was room for {there}"
                    break
            assert not mine, mine
        assert not handed_out
        assert not dead
        still = self.run(self.core.runner.fetch("ZRANGE", self.core.keys.of(self.queue.resource).suspects, 0, -1))
        self.model.suspects &= {group.decode() for group in still}  # a receiver looks at some of them as at any other

    def _lease(self, there: FifoMessage, message: Message, timeout_s: int) -> None:
        assert message.id == self.ids[there.body]
        token = message.member.partition("|")[2]
        told = Told(message.facts.receives, message.facts.tries, message.facts.crashes)
        assert self.model.lease(there, token, timeout_s) == told
        self.held.append(_Held(there, token, message.member, message))

    def _newly_dead(self) -> set[str]:
        self.run(self.broker.deliver(self.queue.resource))
        found = self.run(self.dead.peek(1_000))
        new = {message.body for message in found} - set(self.buried)
        assert all(message.id == self.ids[message.body] for message in found)
        assert len(found) == len(self.buried) + len(new)
        self.buried += new
        return new

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE, timeout_s=_SECONDS)
    def extend(self, choice: int, timeout_s: int) -> None:
        held = self._one(choice)
        lost = self.run(self.core.messages.extend(self.queue.resource, [held.member], lease_ms=timeout_s * 1_000))
        assert (lost == []) == self.model.holds(held.there, held.token)
        if not lost:
            self.model.extend(held.there, timeout_s)

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE)
    def delete(self, choice: int) -> None:
        held = self._one(choice)
        mine, there = self.model.holds(held.there, held.token), self.model.is_there(held.there)
        if held.message is not None:
            assert self.keeps(held.message.delete()) == (mine or not there)
        else:
            settled = self.run(self.core.messages.finish(self.queue.resource, [held.member], counter="done"))
            assert settled.settled == mine
            assert settled.refused == ({} if mine else {0: "fenced" if there else "unknown"})
        if mine:
            self.model.remove(held.there)

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE, delay_s=_SECONDS, failed=st.booleans())
    def release(self, choice: int, delay_s: int, *, failed: bool) -> None:
        held = self._one(choice)
        mine = self.model.holds(held.there, held.token)
        if held.message is not None:
            failed = False
            repeated = not self.model.is_there(held.there) or held.there.given_back
            assert self.keeps(held.message.release(delay_s)) == (mine or repeated)
        else:
            deferral = Deferral(held.member, delay_s * 1_000, adds_try=failed)
            assert self.run(self.core.messages.defer(self.queue.resource, [deferral])).settled == mine
        if mine:
            self.model.release(held.there, delay_s, adds_try=failed)

    @precondition(lambda self: self.held)
    @rule(choice=_CHOICE)
    def give_back_a_lost_claim(self, choice: int) -> None:
        token = self._one(choice).token
        mine = {id(one.there): one.there for one in self.held if one.token == token and one.there.token == token}
        found = [there for there in mine.values() if self.model.is_there(there)]
        assert self.run(self.core.messages.release_claim(self.queue.resource, token)) == len(found)
        for there in found:
            there.token, there.until_s = "", 0
            self.model.suspects.discard(there.group)

    # -- workers ------------------------------------------------------------------------------------------------------

    @rule(mode=st.sampled_from(["work", "work", "alone"]), of_one_group=st.integers(1, 3))
    def claim(self, mode: Mode, of_one_group: int) -> None:
        """With room for all, what a worker gets is known exactly."""
        token = f"{'s' if mode == 'alone' else 'w'}{next(self.numbers)}"
        claim = self.run(
            self.core.messages.claim(
                self.queue.resource, token=token, lease_ms=10_000, room=_ROOM, mode=mode, of_one_group=of_one_group
            )
        )
        expected: list[FifoMessage] = []
        dead: set[str] = set()
        for group in list(self.model.groups):
            if (mode == "alone") == (group in self.model.suspects):
                self._walk(group, mode, 1 if mode == "alone" else of_one_group, expected, dead)
        told = {unpack(item.blob)[1].decode(): item for item in claim.messages}
        assert told.keys() == {there.body for there in expected}
        for there in expected:
            facts = told[there.body].facts
            assert self.model.lease(there, token, 10) == Told(facts.receives, facts.tries, facts.crashes)
            self.held.append(_Held(there, token, member_of(told[there.body].entry, token)))
        in_groups = [there.body for there in expected]
        assert sorted(told, key=in_groups.index) == in_groups
        assert self._newly_dead() == dead

    def _walk(self, group: str, mode: Mode, most: int, expected: list[FifoMessage], dead: set[str]) -> None:
        taken = 0
        for there in list(self.model.groups[group]):
            fate = self.model.fate(there, mode, first=not taken)
            if fate == "suspect":
                self.model.set_apart(there)
            if fate in {"suspect", "stops"} or taken == most:
                return
            if fate == "handed out":
                expected.append(there)
                taken += 1
            else:
                self.model.remove(there)
                if fate == "dead":
                    dead.add(there.body)

    # -- the rest -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([10, 10, 20, 30, 200, 300]))
    def advance(self, seconds: int) -> None:
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([10, 30, 400]), count=st.integers(1, 6))
    def advance_and_receive(self, seconds: int, count: int) -> None:
        """Whoever receives is the first to see what has become too old."""
        self.advance(seconds)
        self.receive(count, 30)

    @rule(seconds=st.sampled_from([10, 30, 400]))
    def advance_and_claim(self, seconds: int) -> None:
        self.advance(seconds)
        self.claim("work", 2)

    @precondition(lambda self: self.time.now_s % 70 == 60)
    @rule()
    def purge(self) -> None:
        assert self.run(self.queue.purge()) == sum(map(len, self.model.groups.values()))
        self.model.groups.clear()
        self.model.suspects.clear()

    @rule()
    def repair(self) -> None:
        assert self.run(self.core.repairs.repair(self.queue.resource)) == 0

    # -- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_exact_and_every_group_is_in_one_place(self) -> None:
        counts = msgspec.structs.asdict(self.run(self.queue.counts()))
        self.model.expire()
        expected = self.model.counts()
        assert {key: counts[key] for key in expected} == expected
        state = self.run(check_state(self.core, self.queue.resource))
        order = {unpack(state.bodies[entry])[1].decode(): entry for entry in state.places}
        assert order.keys() == {there.body for messages in self.model.groups.values() for there in messages}
        for messages in self.model.groups.values():
            entries = [order[there.body] for there in messages]
            assert entries == sorted(entries)

    # -- one side -----------------------------------------------------------------------------------------------------

    def _one(self, choice: int) -> _Held:
        """Mostly one of the last leases."""
        return self.held[-1 - choice % min(len(self.held), 12)]


@pytest.mark.timeout(3_600 if EXAMPLES else 240)
@pytest.mark.parametrize("delay_s", [0, 20])
def test_fifo_queue_behaves_like_its_reference(redis_url: str, delay_s: int) -> None:
    explore(partial(FifoMachine, redis_url, delay_s), 30)
