"""The same as :mod:`broker.store.cluster` for threads: blocking, one command at a time in each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

import redis
from redis import exceptions as failures

from broker.store.addresses import Place, Target
from broker.store.cluster import FOLLOW_FOR_S, REDIRECTED, pause_before
from broker.store.connection import connect_in_thread
from broker.store.slots import SLOTS, Word, name_in, read_place, read_slots, slot_of

_LOST: Final = (failures.ConnectionError, failures.TimeoutError, OSError)


class ClusterThreadLink:
    """Blocking connections to the nodes of a cluster, and which of them serves what."""

    def __init__(self, target: Target, *, timeout_s: float) -> None:
        self._target: Final = target
        self._timeout_s: Final = timeout_s
        self._clients: Final[dict[Place, redis.Redis]] = {}
        self._slots: list[Place | None] = [None] * SLOTS
        self._known: tuple[Place, ...] = target.places

    def execute(self, *command: Word) -> Any:
        """The reply to one command. Errors: those of redis."""
        place = self._place_for(command)
        give_up, attempt, asking = time.monotonic() + FOLLOW_FOR_S, 0, False
        while True:
            try:
                return self._send(place, command, asking=asking)
            except REDIRECTED as error:
                if time.monotonic() > give_up:
                    raise
                time.sleep(pause_before(attempt, error))
                attempt += 1
                asking = isinstance(error, failures.AskError) and not isinstance(error, failures.MovedError)
                place = self._next(error, place, command)
            except _LOST:
                self.doubt(place)
                raise

    def leave(self) -> None:
        """A node is a replica now: the next command looks who serves what."""
        self._slots = [None] * SLOTS

    def place_of(self, name: str | bytes) -> Place | None:
        """Where a name was served when this was last looked at; None where that is not known, or that node was lost."""
        return self._slots[slot_of(name)]

    def _next(self, error: Exception, place: Place, command: Sequence[Word]) -> Place:
        if not isinstance(error, failures.AskError):
            return self._place_for(command)
        there = read_place(error.host, int(error.port), place)
        if isinstance(error, failures.MovedError):
            self._slots[int(error.slot_id)] = there
        return there

    def _send(self, place: Place, command: Sequence[Word], *, asking: bool) -> Any:
        client = self._client(place)
        if not asking:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        with client.pipeline(transaction=False) as both:
            both.execute_command("ASKING")  # type: ignore[no-untyped-call]
            both.execute_command(*command)  # type: ignore[no-untyped-call]
            _, reply = both.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _client(self, place: Place) -> redis.Redis:
        client = self._clients.get(place)
        if client is None:
            client = connect_in_thread(self._target.node_url(place), timeout_s=self._timeout_s)
            self._clients[place] = client
        return client

    def _place_for(self, command: Sequence[Word]) -> Place:
        name = name_in(command)
        slot = 0 if name is None else slot_of(name)
        place = self._slots[slot]
        if place is None:
            self._refresh()
            place = self._slots[slot]
        if place is None:
            raise failures.ClusterDownError(f"the cluster is down: slot {slot} belongs to no node")
        return place

    def doubt(self, place: Place | None) -> None:
        """Whoever needs this node next looks who serves its slots now, and asks this one last."""
        self._slots = [None if each == place else each for each in self._slots]
        others = (each for each in (*self._known, *self._target.places) if each != place)
        self._known = (*dict.fromkeys(others), *((place,) if place else ()))

    def _refresh(self) -> None:
        reasons: list[str] = []
        for place in dict.fromkeys((*self._known, *self._target.places)):
            try:
                reply: Any = self._client(place).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except _LOST as error:
                reasons.append(str(error) or type(error).__name__)
                continue
            slots: list[Place | None] = [None] * SLOTS
            shards = read_slots(reply, place)
            for shard in shards:
                slots[shard.first : shard.last + 1] = [shard.primary] * (shard.last + 1 - shard.first)
            if shards:
                # Who answered now is asked first the next time.
                others = (other for shard in shards for other in (shard.primary, *shard.replicas))
                self._slots, self._known = slots, tuple(dict.fromkeys((place, *others)))
                return
        raise failures.ConnectionError(f"no node of the cluster answers: {'; '.join(reasons)}")

    def close(self) -> None:
        """Ends all connections."""
        for client in self._clients.values():
            with contextlib.suppress(*_LOST):
                client.close()
