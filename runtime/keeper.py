"""The lease keeper: a thread that renews all leases and permits of its process, and notices a blocked event loop.

A thread, so that a handler that blocks the loop does not lose its lease; with a connection of its own; and in this
process, so that a stopped process does not keep its leases alive.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Final

from broker.core import Core
from broker.errors import StoreError
from broker.log import log
from broker.names import Resource
from broker.store.addresses import Place
from broker.store.messages import extension

_PAGE: Final = 1_000
_LOOK_S: Final = 1.0
RETRY_S: Final = 0.5
"""After a failure the keeper tries again this often."""
_BLOCKED_AFTER_S: Final = 1.0
_STACK_FRAMES: Final = 8


class LeaseKeeper:
    """Renews what the process holds until it is dropped. ``on_lost`` is called on the loop; ``latest_function`` names
    the one whose call last began or ended, for a handler that has left the stack when it can be looked at."""

    def __init__(
        self,
        core: Core,
        *,
        on_lost: Callable[[Resource, list[str]], None],
        latest_function: Callable[[], str] = lambda: "?",
    ) -> None:
        self._core: Final = core
        self._lease_ms: Final = core.settings.lease_ms
        self._on_lost: Final = on_lost
        self._latest_function: Final = latest_function
        self._leases: Final[dict[Resource, set[str]]] = {}
        self._permits: Final[dict[str, set[str]]] = {}
        self._loop: Final = asyncio.get_running_loop()
        self._loop_thread: Final = threading.get_ident()
        self._stop: Final = threading.Event()
        self._asked = self._reported = False
        self._asked_at = 0.0
        self._failing = False
        self._thread: Final = threading.Thread(target=self._run, name="penstock-lease-keeper", daemon=True)
        self._runner: Final = core.in_thread()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is still held runs out by itself."""
        self._stop.set()
        self._thread.join(timeout=5)
        self._runner.close()

    def hold(self, resource: Resource, members: Iterable[str]) -> None:
        """Renews these leases from now on."""
        self._leases.setdefault(resource, set()).update(members)

    def drop(self, resource: Resource, members: Iterable[str]) -> None:
        """They are settled."""
        held = self._leases.get(resource)
        if held is not None:
            held.difference_update(members)

    def hold_permits(self, key: str, names: Iterable[str]) -> None:
        """Renews these permits from now on."""
        self._permits.setdefault(key, set()).update(names)

    def drop_permits(self, key: str, names: Iterable[str]) -> list[str]:
        """They are not renewed any more; answers which of them were, for these must be given back."""
        held = self._permits.get(key, set())
        dropped = [name for name in names if name in held]
        held.difference_update(dropped)
        return dropped

    def holding(self, resource: Resource) -> frozenset[str]:
        """The leases of a resource that are being renewed."""
        return frozenset(self._leases.get(resource, ()))

    async def renew_now(self, resource: Resource) -> bool:
        """Renews everything at once; False when Redis, or on a cluster what serves the resource, is (still) away. After
        that its leases of this process, which may have run out meanwhile, are no one else's to take."""
        return await self._loop.run_in_executor(None, self._renew_and_ask, resource)

    def doubt(self, place: Place | None) -> None:
        """A server was lost, and another may serve by now what that one did: it is not waited for."""
        self._runner.link.doubt(place)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        renew_every_s = self._lease_ms / 4000
        next_renewal = time.monotonic() + renew_every_s
        while not self._stop.is_set():
            pause_s = min(RETRY_S if self._failing else _LOOK_S, renew_every_s / 2)
            due = time.monotonic() + pause_s
            if self._stop.wait(pause_s):
                return
            self._notice_standstill(due)  # first of all: whoever held everybody up may still be on the stack
            self._watch_loop()
            if time.monotonic() >= next_renewal or self._failing:
                due = time.monotonic()
                next_renewal = due + renew_every_s
                if not self._renew_all():
                    self._notice_standstill(due)

    def _notice_standstill(self, due: float) -> None:
        """Who comes round far too late was not let run, and nothing was renewed meanwhile."""
        late_s = time.monotonic() - due
        if late_s >= _BLOCKED_AFTER_S:
            why = "a C call did not let other threads run, the process was stopped, or Redis was slow"
            self._report("process_stood_still", late_s, reason=why)

    def _renew_all(self) -> set[Place | None]:
        """Answers which servers did not: what the others hold is renewed all the same, what these hold is not tried
        again and again. Also at each look after a failure: Redis may be back, and leases are running out."""
        failed: set[Place | None] = set()
        for resource, held in tuple(self._leases.items()):
            self._try(self._core.keys.of(resource).leases, failed, partial(self._renew, resource, tuple(held)))
        for key, names in tuple(self._permits.items()):
            self._try(key, failed, partial(self._renew_permits, key, tuple(names)))
        if self._failing and not failed:
            log.info("lease_renewal_back")
        self._failing = bool(failed)
        return failed

    def _renew_and_ask(self, resource: Resource) -> bool:
        keys = self._core.keys.of(resource)
        failed = self._renew_all()
        if failed and self._runner.link.place_of(keys.leases) in {None, *failed}:
            return False
        if not self._leases.get(resource):  # then nothing has shown yet that Redis is there
            try:
                self._runner.run(*extension(keys, resource, (), lease_ms=self._lease_ms))
            except StoreError:
                return False
        return True

    def _try(self, key: str, failed: set[Place | None], renew: Callable[[], None]) -> None:
        place = self._runner.link.place_of(key)
        if place in failed:
            return
        try:
            renew()
        except StoreError as error:
            if not self._failing and not failed:
                log.warning("lease_renewal_failed", code=error.code, reason=str(error))
            failed.add(place)

    def _renew_permits(self, key: str, names: tuple[str, ...]) -> None:
        for start in range(0, len(names), _PAGE):
            self._runner.run("renew_permits", (key,), (self._lease_ms, *names[start : start + _PAGE]))

    def _renew(self, resource: Resource, members: tuple[str, ...]) -> None:
        keys = self._core.keys.of(resource)
        for start in range(0, len(members), _PAGE):
            page = members[start : start + _PAGE]
            indexes = self._runner.run(*extension(keys, resource, page, lease_ms=self._lease_ms))
            lost = [page[index - 1] for index in indexes]
            if lost:
                self._loop.call_soon_threadsafe(self._on_lost, resource, lost)

    # -- the loop's health --------------------------------------------------------------------------------------------

    def _watch_loop(self) -> None:
        """Asks the loop for a sign of life; when it gives none for a second, says which function holds it, once."""
        if not any(self._leases.values()) and not any(self._permits.values()):
            self._asked = False
            return
        if not self._asked:
            self._asked, self._reported, asked_at = True, False, time.monotonic()
            self._asked_at = asked_at
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                self._stop.set()
        elif not self._reported and time.monotonic() - self._asked_at >= _BLOCKED_AFTER_S:
            self._reported = True
            self._report("loop_blocked", time.monotonic() - self._asked_at)

    def _answer(self) -> None:
        if self._reported:
            log.warning("loop_unblocked", after_s=round(time.monotonic() - self._asked_at, 1))
        self._asked = False

    def _report(self, what: str, for_s: float, **more: str) -> None:
        """Says what the event loop is at."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to see a stack
        if frame is None:
            return
        stack = "".join(traceback.format_list(traceback.extract_stack(frame)[-_STACK_FRAMES:]))
        log.error(
            what, function=_function_on(frame) or self._latest_function(), for_s=round(for_s, 1), **more, stack=stack
        )


def _function_on(frame: FrameType | None) -> str:
    """Which function's call is on a stack, '' where there is none: the invoker's frame knows."""
    while frame is not None:
        call = frame.f_locals.get("call")
        if frame.f_code.co_name in {"_run_on_loop", "_run_in_thread"} and call is not None:
            return str(call.function.name)
        frame = frame.f_back
    return ""
