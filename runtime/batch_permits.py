"""Permits of batches: the limits of a function and of its mapping hold over all workers and all sources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from broker.names import Resource
from runtime.engine import Engine
from runtime.handlers import HandlerFunction
from runtime.permit_wish import PermitWish

_NO_PERMIT: Final = ""


class BatchPermits:
    """Takes the permits that batches of one mapping need, and gives them back. Errors: the StoreError family.

    ``wait`` waits until a permit of the function may be free, and answers whether it is to be asked for again;
    ``is_behind`` is told when others do so before; ``wake`` ends the wait that comes next.
    """

    def __init__(
        self,
        engine: Engine,
        function: HandlerFunction,
        queue: Resource,
        *,
        wait: Callable[[], Awaitable[bool]],
        is_behind: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._engine: Final = engine
        self._function: Final = function
        self._queue: Final = queue
        self._wait: Final = wait
        self._is_behind: Final = is_behind
        self._function_resource: Final = engine.core.resource("function", function.resource_name)
        self._key_of_function: Final = engine.core.keys.of(self._function_resource).permits
        self._key_of_mapping: Final = engine.core.keys.of(queue).mapping_permits(function.name)
        self.wish: Final = PermitWish(wake)

    @property
    def channels(self) -> tuple[str, str]:
        """The channels that tell of permits given back (and of the function's settings)."""
        keys = self._engine.core.keys
        return keys.of(self._function_resource).wake, keys.of(self._queue).mapping_wake(self._function.name)

    async def take(self, room: int, *, max_concurrency: int | None) -> list[str]:
        """The names of permits for up to ``room`` batches; a permit where there is no limit is only a name."""
        if max_concurrency is None and self._function.settings.concurrency is None:
            self.wish.ends()
            return [_NO_PERMIT] * room
        names = [self._engine.lease_token() for _ in range(room)]
        names = await self._take_in_turn(names)
        if names and max_concurrency is not None:
            try:
                names = await self._take_of_mapping(names, max_concurrency)
            except BaseException:
                self.give_back(names)
                raise
        if not names:
            self.wish.got_none()
        return names

    async def park(self, name: str) -> None:
        """Gives the function's permit of a batch back while the batch is being filled: nothing runs for it."""
        if of_function := self._engine.keeper.drop_permits(self._key_of_function, [name]):
            await self._engine.core.permits.release_of_function(self._function_resource, of_function)

    def suffices(self, name: str, *, max_concurrency: int | None) -> bool:
        """Whether a batch may run with it, once it is resumed: not where there was no limit when it was taken, and now
        is."""
        unlimited = max_concurrency is None and self._function.settings.concurrency is None
        return unlimited or name != _NO_PERMIT

    async def resume(self, name: str) -> bool:
        """Takes the function's permit for a batch that was parked; False when there is none free."""
        if name == _NO_PERMIT:  # there was no limit when it was taken
            return True
        resumed = await self._take_in_turn([name]) == [name]
        if not resumed:
            self.wish.got_none()
        return resumed

    async def _take_in_turn(self, names: list[str]) -> list[str]:
        """What is queued for the function itself waits for the same permits: else whoever has much queued would always
        be the first to take what its own calls give back."""
        if self._function.settings.concurrency is None or self._engine.alone:
            return await self._take_of_function(names)
        turn = self._engine.turn(self._function_resource)
        if turn.locked():
            self._is_behind()
        async with turn:
            while not (taken := await self._take_of_function(names)):
                self.wish.got_none()
                if not await self._wait():
                    break
        return taken

    async def _take_of_function(self, names: list[str]) -> list[str]:
        self.wish.asks()
        limit = self._function.settings.concurrency
        if limit is None:
            return names
        names = names[: max(1, limit)]  # asking for more than there can be would count as going without
        core = self._engine.core
        lease_ms = core.settings.lease_ms
        grant = await core.permits.take_of_function(self._function_resource, names, permit_ms=lease_ms)
        if grant.status != "ok":
            return []
        if grant.granted is None:
            return names
        self._engine.keeper.hold_permits(self._key_of_function, names[: grant.granted])
        return names[: grant.granted]

    async def _take_of_mapping(self, names: list[str], limit: int) -> list[str]:
        core = self._engine.core
        lease_ms = core.settings.lease_ms
        grant = await core.permits.take_of_mapping(
            self._queue, self._function.name, names[:limit], permit_ms=lease_ms, limit=limit
        )
        granted = names[: grant.granted or 0]
        self._engine.keeper.hold_permits(self._key_of_mapping, granted)
        self.give_back(names[len(granted) :])
        return granted

    def give_back(self, names: list[str]) -> None:
        """Gives back those that are permits, whatever the limits are by now; in the background. One that Redis does
        not hear of runs out by itself."""
        if not any(names):
            return
        core, keeper = self._engine.core, self._engine.keeper
        if of_mapping := keeper.drop_permits(self._key_of_mapping, names):
            release = core.permits.release_of_mapping(self._queue, self._function.name, of_mapping)
            core.in_background(release, name="release_permits")
        if of_function := keeper.drop_permits(self._key_of_function, names):
            release = core.permits.release_of_function(self._function_resource, of_function)
            core.in_background(release, name="release_permits")
