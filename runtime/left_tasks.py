"""Tasks that handlers start: what of them goes on after its call is told by the function's name, and ended at a stop.

Such a task does no harm to its call, which has its answer. But nobody waits for it: it is lost with the process, and
those that never end add up. A task that exits (`sys.exit`) fails, and its process goes on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from broker.log import log
from runtime.outcomes import Exited, brief, failed_with

LOOK_S: Final = 1.0
"""What ends within this time after its call is not told."""
END_S: Final = 1.0
_OWN_NAMES: Final = "penstock-"


class Starter(Protocol):
    """A call, as far as it concerns the tasks that it starts."""

    made: WeakSet[asyncio.Task[Any]] | None
    task: asyncio.Task[None] | None
    over: bool
    """Whether it has ended, where it has started tasks."""

    @property
    def whose(self) -> tuple[str, str]:
        """The name of its function and its request id."""
        ...


class Left(NamedTuple):
    """Whose a task is, and since when nobody waits for it, by the loop's clock."""

    function: str
    request_id: str
    since: float


class LeftTasks:
    """Watches one loop's tasks from :meth:`watch` to :meth:`close`. Calls that start no task cost next to nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._factory: Any = None
        self._closed = False
        self._made_by: Final[WeakKeyDictionary[asyncio.Task[Any], Starter]] = WeakKeyDictionary()
        self._left: Final[dict[asyncio.Task[Any], Left]] = {}
        self._told: Final[Counter[str]] = Counter()
        self._looking = False
        self.entered: Starter | None = None
        """The call whose first step runs at this moment, before its task is known."""
        self.calls: Final[dict[asyncio.Task[Any], Starter]] = {}
        """Running calls by their tasks."""

    def watch(self) -> None:
        """From here on the loop's tasks are made by :meth:`_make`, which asks whatever made them before."""
        self._factory = self._loop.get_task_factory()
        self._loop.set_task_factory(self._make)

    def close(self) -> None:
        """Makes nothing of what comes any more."""
        self._closed = True
        if self._loop.get_task_factory() == self._make:
            self._loop.set_task_factory(self._factory)

    def _make(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        call = None if self._closed else self.entered or self._current()
        made = work if call is None or not asyncio.iscoroutine(work) else _contained(work)
        if self._factory is None:
            task: asyncio.Task[Any] = asyncio.Task(made, loop=loop, **options)
        else:
            task = self._factory(loop, made, **options)
        if call is not None:
            self._note(call, task)
            if made is not work:
                task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began would complain
        return task

    def _note(self, call: Starter, task: asyncio.Task[Any]) -> None:
        if call.made is None:
            call.made = WeakSet()
        call.made.add(task)
        self._made_by[task] = call
        if call.over:  # by a task that was left behind
            self._leave(task, call)

    def _current(self) -> Starter | None:
        task = asyncio.current_task(self._loop)
        return None if task is None else self.calls.get(task) or self._made_by.get(task)

    # -- after a call -------------------------------------------------------------------------------------------------

    def ended(self, call: Starter) -> None:
        """Looks after what the call leaves behind."""
        if self.entered is call:
            self.entered = None
        if call.task is not None:
            self.calls.pop(call.task, None)
        if call.made:
            call.over = True
            for task in call.made:
                if not task.done():
                    self._leave(task, call)

    def _leave(self, task: asyncio.Task[Any], call: Starter) -> None:
        self._left[task] = Left(*call.whose, self._loop.time())
        task.add_done_callback(self._gone)
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _gone(self, task: asyncio.Task[Any]) -> None:
        function, request_id, _ = self._left.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            found = failed_with(error, request_id)
            log.error(
                "left_task_failed",
                function=function,
                request_id=request_id,
                task=task.get_name(),
                error_type=found.error_type,
                error=brief(found.message),
                at=found.at or None,
            )

    def _look(self) -> None:
        """Once there are some, then whenever they are twice as many."""
        self._looking = bool(self._left) and not self._closed
        if not self._looking:
            return
        self._loop.call_later(LOOK_S, self._look)
        since = self._loop.time() - LOOK_S
        late = [(task, left) for task, left in self._left.items() if left.since <= since and not _ours(task)]
        for function, count in Counter(left.function for _, left in late).items():
            if count >= max(1, 2 * self._told[function]):
                self._told[function] = count
                task, left = next(each for each in late if each[1].function == function)
                log.warning(
                    "tasks_left_behind",
                    function=function,
                    tasks=count,
                    oldest=task.get_name(),
                    request_id=left.request_id,
                )

    async def end(self) -> None:
        """Cancels what is left, and gives it a moment."""
        left = {task: found.function for task, found in self._left.items() if not _ours(task)}
        if not left:
            return
        for task in left:
            task.cancel()
        _, running = await asyncio.wait(left, timeout=END_S)
        for function, count in Counter(left.values()).items():
            going_on = sum(left[task] == function for task in running)
            log.info("left_tasks_ended", function=function, tasks=count, going_on=going_on)


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    """An exit in a task would end the loop, and with it all calls of the process."""
    try:
        return await work
    except SystemExit as error:
        raise Exited(error.code) from error
    except KeyboardInterrupt as error:
        raise Exited(130) from error


def _ours(task: asyncio.Task[Any]) -> bool:
    """Whether the SDK made it, in a handler's name. Asked late: a task gets its name after it is made."""
    return task.get_name().startswith(_OWN_NAMES)
