"""Into how many partitions resources are split, as far as this process has heard: replies of Redis tell it."""

from __future__ import annotations

import random
from typing import Final

from broker.names import Resource


class Splits:
    """One table a connection, for all accounts and regions. What it does not know counts as not split."""

    def __init__(self) -> None:
        self.known: Final[dict[Resource, int]] = {}
        """Only what is split; by the first partition."""
        self._turns: Final[dict[Resource, int]] = {}

    def count(self, whole: Resource) -> int:
        """How many partitions a resource has, by all that is known."""
        return self.known.get(whole, 1)

    def parts(self, whole: Resource) -> list[Resource]:
        """Its partitions, by all that is known."""
        return whole.parts(self.known[whole]) if whole in self.known else [whole]

    def turn(self, whole: Resource) -> int:
        """The partition that is next, each in its turn; the first one at random, so that processes do not march in
        step."""
        turn = self._turns.get(whole)
        turn = random.randrange(self.count(whole)) if turn is None else turn + 1
        self._turns[whole] = turn
        return turn % self.count(whole)

    def heard(self, resource: Resource, told: bytes | int | None) -> None:
        """What a reply of one partition said (None: not split). The first one always knows; the others may be
        behind, as there are only ever more."""
        count = int(told or 1)
        if not resource.partition:
            if count > 1:
                self.known[resource] = count
            elif self.known.pop(resource, None):
                self._turns.pop(resource, None)
        elif count > self.count(resource.whole):
            self.known[resource.whole] = count
