"""How batches end: what succeeded is deleted, what failed is visible again after the queue's visibility timeout."""

from __future__ import annotations

import time
from typing import Final

from broker import limits
from broker.records import MappingSettings
from broker.store.values import Deferral
from runtime.batch_claims import BatchClaims
from runtime.batches import Batch, Held
from runtime.handlers import HandlerFunction
from runtime.outcomes import Abandoned, Outcome, Throttled
from runtime.policy import after_batch, visible_again_s
from runtime.settler import Settler
from runtime.tally import BatchTally


class BatchEnds:
    """Settles the messages of one mapping that one process has claimed."""

    def __init__(
        self,
        function: HandlerFunction,
        mapping: MappingSettings,
        claims: BatchClaims,
        settler: Settler,
        tally: BatchTally,
    ) -> None:
        self._function: Final = function
        self._claims: Final = claims
        self._settler: Final = settler
        self._tally: Final = tally
        self.mapping = mapping
        """Its settings, as they were read last."""
        self.visibility_s: float = limits.DEFAULT_VISIBILITY_TIMEOUT_S
        """The queue's visibility timeout."""

    def settle(self, batch: Batch, outcome: Outcome, *, started: float = 0) -> None:
        """What becomes of a batch whose call has ended."""
        if isinstance(outcome, Abandoned | Throttled):
            self._claims.release(batch.held)
            return
        ids = [item.letter.id for item in batch.held]
        verdict = after_batch(outcome, ids, partial_failures=self.mapping.partial_failures)
        done = [item.member for index, item in enumerate(batch.held) if index not in verdict.failed]
        self._settler.finish_all(done, counter="done")
        self.send_back([batch.held[index] for index in sorted(verdict.failed)])
        self._tally.add(len(batch.held), outcome, verdict, started)

    def hidden_s(self, since_claim_s: float) -> float:
        """For how long what fails now is hidden."""
        return visible_again_s(
            visibility_timeout_s=self.visibility_s,
            batch_window_s=self.mapping.batch_window_s,
            timeout_s=self._function.settings.timeout_s,
            since_claim_s=since_claim_s,
        )

    def send_back(self, held: list[Held]) -> None:
        """What failed is visible again when the queue's visibility timeout, counted from its claim, is over."""
        now = time.monotonic()  # once, so that what was claimed together comes back together
        for item in held:
            deferral = Deferral(item.member, round(self.hidden_s(now - item.claimed_at) * 1000), adds_try=True)
            self._settler.defer(deferral, counter="retried")
        if held and self._tally.figures is not None:
            self._tally.figures.retried(len(held))
