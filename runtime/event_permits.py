"""Permits of the events of a function with a limit that is split: taken before the claim, as the first partition alone
gives them, so that the limit holds over all partitions and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from broker.names import Resource
from broker.store.values import Claim
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.permit_wish import PermitWish
from runtime.waiter import Waiter


class EventPermits:
    """The permits of one partition's events in this process. Errors: the StoreError family."""

    def __init__(self, engine: Engine, function: HandlerFunction, whole: Resource, waiter: Waiter) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._whole: Final = whole
        self._waiter: Final = waiter
        self._key: Final = engine.core.keys.of(whole).permits
        self._taken: list[str] = []
        self.held: Final[dict[str, str]] = {}
        """By the lease of the event that has it."""
        self._used = 0
        self._wish: Final = PermitWish(waiter.wake)

    @property
    def needed(self) -> bool:
        """Whether claims do not take permits themselves: the function is split."""
        return self._engine.core.splits.count(self._whole) > 1

    def given_back(self) -> bool:
        """Whether a permit that is given back concerns this partition. Where the function is split, an idle one would
        take it in vain, and wake the next by giving it back."""
        return self._wish.concerns() or not self.needed

    async def take(self, room: int, *, stopped: Callable[[], bool]) -> int | Claim:
        """Takes some of as many permits as there is room, at least one; answers how many, or as what to take it that
        there is none.

        The partitions of a function wait in turn: each takes what is free when it is its turn, whatever the others
        still have queued.
        """
        wanted = min(room, 2 * self._used + 1)  # permits taken for nothing are refused to others meanwhile
        lease_ms = self._engine.core.settings.lease_ms
        async with self._engine.turn(self._whole):
            while not stopped():
                names = [self._engine.lease_token() for _ in range(wanted)]
                self._wish.asks()
                grant = await self._engine.core.permits.take_of_function(self._whole, names, permit_ms=lease_ms)
                if grant.status != "ok":
                    return Claim(grant.status)
                if grant.granted is None or grant.granted:
                    self._taken = names[: grant.granted]
                    self._engine.keeper.hold_permits(self._key, self._taken if grant.granted else ())
                    return len(self._taken)
                self._wish.got_none()
                if self._engine.alone:  # others are not to wait for this one
                    return Claim("full", next_due_ms=lease_ms)
                await self._waiter.wait(self._engine.permit_wait_s(self._function))
            self._wish.ends()
            return Claim("full", next_due_ms=0)

    def assign(self, members: Sequence[str]) -> None:
        """Each of these events has one of the permits taken."""
        self._used = len(members)
        if self._taken:
            pairs = dict(zip(members, self._taken, strict=False))
            self._taken = self._taken[len(pairs) :]
            self.held.update(pairs)

    def give_back_rest(self) -> None:
        """Gives back what was taken and not assigned."""
        if self._taken:
            names, self._taken = self._taken, []
            self._release(names)

    def give_back(self, members: Iterable[str]) -> None:
        """These events do not run, or have stopped. What has none is passed over."""
        if self.held and (names := [self.held.pop(member) for member in members if member in self.held]):
            self._release(names)

    def _release(self, names: list[str]) -> None:
        core = self._engine.core
        if held := self._engine.keeper.drop_permits(self._key, names):
            core.in_background(core.permits.release_of_function(self._whole, held), name="release_permits")
