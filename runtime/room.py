"""Room: how many calls one worker process may run more, and who is next where it is full.

Who has nothing running and finds no room waits in a line, in which each is left one call: else a source with much
queued would always be the first to take what its own calls give back, and of several, always the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runtime.handlers import HandlerFunction
from runtime.invoker import Invoker

HELD_S: Final = 1.0
"""What has been claimed and will not have started after this long is for other processes."""


class Room:
    """The calls and threads of one process, and the line of those who wait for one."""

    def __init__(self, invoker: Invoker, *, max_calls: int, alone: bool) -> None:
        self._invoker: Final = invoker
        self._most: Final = 1 if alone else max_calls
        self._alone: Final = alone
        self._line: Final[dict[object, _Place]] = {}
        self._behind: Final[set[Callable[[], None]]] = set()

    @property
    def free(self) -> int:
        """How many more calls may run, whoever asks for them."""
        return self._most - len(self._invoker.running)

    def free_for(self, source: object, function: HandlerFunction) -> int:
        """How many more calls of its function a source may start: one in its turn, and what is left when all who wait
        in line have one."""
        calls, threads, own = self.free, self._invoker.free_threads, 0
        for waiting, place in self._line.items():
            if calls < 1:
                return own
            if place.on_loop or threads > 0:  # who waits for a thread needs no call before there is one
                calls -= 1
                threads -= not place.on_loop
                own += waiting is source
        return own + max(0, calls if function.on_loop else min(calls, threads))

    def wait_for(self, source: object, function: HandlerFunction, wake: Callable[[], None], *, idle: bool) -> None:
        """Wakes a source once, when there is room for a call of it. One that has nothing running waits in line: until
        it leaves that, one call is left to it."""
        if idle and not self._alone:  # there they take turns
            self._line.setdefault(source, _Place(function.on_loop)).wake = wake
        else:
            self._behind.add(wake)
        self._invoker.when_freed(self._tell)

    def leave_line(self, source: object) -> None:
        """It has started a call, has found nothing to start, or has something else to wait for: what was left to it is
        for all again."""
        if self._line.pop(source, None) is not None:
            self._tell()

    def _tell(self) -> None:
        """Wakes those for whom there is room."""
        calls, threads = self.free, self._invoker.free_threads
        for place in tuple(self._line.values()):
            if calls < 1:
                break
            if place.on_loop or threads > 0:
                calls -= 1
                threads -= not place.on_loop
                if place.wake is not None:
                    wake, place.wake = place.wake, None
                    wake()
        if calls > 0 and self._behind:
            told = tuple(self._behind)
            self._behind.clear()
            for wake in told:
                wake()
        if self._line or self._behind:
            self._invoker.when_freed(self._tell)


class _Place:
    """One place in the line."""

    __slots__ = ("on_loop", "wake")

    def __init__(self, on_loop: bool) -> None:  # noqa: FBT001 - what it is
        self.on_loop: Final = on_loop
        self.wake: Callable[[], None] | None = None
        """None where it has been told, and has not looked yet."""
