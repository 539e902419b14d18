"""What random operations on a real queue stand on: an open broker, and an event loop that runs step by step."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from broker import Broker
from broker.errors import LeaseLost
from broker.settings import Settings
from tests.conftest import set_clock, stop_clock
from tests.faults.scene import report
from tests.model.reference import Time

T = TypeVar("T")
EXAMPLES: Final = os.environ.get("PENSTOCK_MODEL_EXAMPLES")
M = TypeVar("M", bound="Machine")
STEPS: Final = 40
_prefixes = itertools.count()


class Machine(RuleBasedStateMachine):
    """Operations on both sides, the real one under a prefix of its own, at a time that moves only with the model's."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        prefix = f"model{os.getpid()}-{next(_prefixes)}"
        self.broker = Broker(url, settings=Settings(prefix=prefix, test_clock=True))
        self.run(self.broker.__aenter__())
        self.core = self.broker.core
        self.run(set_clock(self.core.runner))
        self.began_ms: Final = self.run(self.core.messages.now_ms())
        self.run(stop_clock(self.core.runner, self.began_ms))
        self.time = Time()
        self.numbers = itertools.count()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """One step of the event loop's work, with all that it started."""

        async def whole() -> T:
            result = await work
            if self.broker._opened is not None:
                await asyncio.gather(*self.broker.core._background)
            return result

        return self.runner.run(whole())

    def pass_time(self, seconds: int) -> None:
        """Lets so much time pass on both sides."""
        self.time.now_s += seconds
        self.run(stop_clock(self.core.runner, self.began_ms + self.time.now_s * 1_000))

    def keeps(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether a lease still held when this was done with it."""
        try:
            self.run(work)
        except LeaseLost:
            return False
        return True

    def teardown(self) -> None:
        """Back to the real time."""
        self.run(set_clock(self.core.runner))
        self.run(self.broker.__aexit__())
        self.runner.close()


@contextlib.contextmanager
def begun(machine: Callable[[], M]) -> Iterator[M]:
    """A machine for steps that are written out."""
    state = machine()
    try:
        yield state
    finally:
        state.teardown()


def explore(machine: Callable[[], Machine], examples: int) -> None:
    """Runs so many random sequences of operations, or as many as the environment asks for."""
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # any callable that makes one will do
        settings=settings(
            max_examples=int(EXAMPLES or examples),
            stateful_step_count=STEPS,
            derandomize=EXAMPLES is None,
            # Shrinking a failure takes minutes: only where somebody asked for a long run.
            phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report("R19", sequences=int(EXAMPLES or examples), steps_at_most=STEPS)
