"""What random operations on a real queue stand on: an open broker, and an event loop that runs step by step."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from broker import Broker
from broker.errors import LeaseLost
from broker.settings import Settings
from tests.conftest import set_clock
from tests.model.reference import Time

T = TypeVar("T")
EXAMPLES: Final = os.environ.get("PENSTOCK_MODEL_EXAMPLES")
_prefixes = itertools.count()


class Machine(RuleBasedStateMachine):
    """Operations on both sides, the real one under a prefix of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        prefix = f"model{os.getpid()}-{next(_prefixes)}"
        self.broker = Broker(url, settings=Settings(prefix=prefix, test_clock=True))
        self.run(self.broker.__aenter__())
        self.core = self.broker.core
        self.run(set_clock(self.core.runner))
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


def explore(machine: Callable[[], Machine], examples: int) -> None:
    """Runs so many random sequences of operations, or as many as the environment asks for."""
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # any callable that makes one will do
        settings=settings(
            max_examples=int(EXAMPLES or examples),
            stateful_step_count=40,
            derandomize=EXAMPLES is None,
            # Shrinking a failure takes minutes: only where somebody asked for a long run.
            phases=tuple(Phase) if EXAMPLES else (Phase.generate,),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
