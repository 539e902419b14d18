"""A queue as it should behave, in plain Python: what a real one is compared with."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

MAX_CRASHES: Final = 3
OWN_ID_MEMORY_S: Final = 300
Place: TypeAlias = Literal["fresh", "delayed", "waiting", "leased", "suspect"]
Mode: TypeAlias = Literal["receive", "work", "alone"]
Fate: TypeAlias = Literal["stays", "handed out", "dead", "set apart"]


class Time:
    """Seconds, shared by all queues of a model."""

    def __init__(self) -> None:
        self.now_s: int = 0


class Told(msgspec.Struct, frozen=True):
    """What a message says of itself when it is handed out."""

    receives: int
    tries: int
    crashes: int


class ReferenceMessage(msgspec.Struct):
    """One message: where it is, until when, and its three counters."""

    place: Place
    until_s: int = 0
    token: str = ""
    receives: int = 0
    tries: int = 0
    crashes: int = 0


class ReferenceQueue:
    """Messages by body; each body is sent once."""

    def __init__(self, time: Time, *, max_receives: int | None) -> None:
        self._time = time
        self._max_receives = max_receives
        self.messages: Final[dict[str, ReferenceMessage]] = {}
        self._seen: Final[dict[str, int]] = {}

    # -- in -----------------------------------------------------------------------------------------------------------

    def send(self, body: str, *, delay_s: int = 0, own_id: str | None = None) -> None:
        """Accepts a message, unless its id was accepted less than five minutes ago."""
        if own_id is not None:
            if self._seen.get(own_id, 0) > self._time.now_s:
                return
            self._seen[own_id] = self._time.now_s + OWN_ID_MEMORY_S
        place: Place = "delayed" if delay_s else "fresh"
        self.messages[body] = ReferenceMessage(place, self._time.now_s + delay_s)

    def bury(self, body: str, *, receives: int) -> None:
        """Accepts a dead letter, whose receive count goes on."""
        self.messages[body] = ReferenceMessage("fresh", receives=receives)

    # -- out ----------------------------------------------------------------------------------------------------------

    def fate(self, body: str, mode: Mode) -> Fate:
        """What a claim that gets to see this message does with it."""
        message = self.messages[body]
        crashes = self._crashes(message)
        suspect = 0 < crashes <= MAX_CRASHES
        if message.place != "suspect" and message.until_s > self._time.now_s:
            return "stays"
        if mode == "alone" and message.place in {"fresh", "delayed", "waiting"}:
            return "stays"
        if mode == "work" and message.place == "suspect":
            return "stays"
        if mode == "work" and suspect:
            return "set apart"
        if self._max_receives is not None and message.receives >= self._max_receives:
            return "dead"
        return "handed out"

    def lease(self, body: str, token: str, lease_s: int) -> Told:
        """Hands the message out."""
        message = self.messages[body]
        message.crashes = self._crashes(message)
        message.receives += 1
        message.place, message.until_s, message.token = "leased", self._time.now_s + lease_s, token
        return Told(message.receives, message.tries, message.crashes)

    def set_apart(self, body: str) -> None:
        """From now on it runs alone."""
        message = self.messages[body]
        message.crashes = self._crashes(message)
        message.place, message.token = "suspect", ""

    def _crashes(self, message: ReferenceMessage) -> int:
        """Its crashes, the one included that is found when a worker's lease has ended."""
        ended = message.place == "leased" and message.until_s <= self._time.now_s
        return message.crashes + (ended and not message.token.startswith("r"))

    # -- leases -------------------------------------------------------------------------------------------------------

    def holds(self, body: str, token: str) -> bool:
        """Whether this is still the message's lease; one that has ended is, until the next one."""
        message = self.messages.get(body)
        return message is not None and message.place == "leased" and message.token == token

    def extend(self, body: str, lease_s: int) -> None:
        """Moves the end of the lease."""
        self.messages[body].until_s = self._time.now_s + lease_s

    def release(self, body: str, delay_s: int, *, adds_try: bool) -> None:
        """Gives the message back."""
        message = self.messages[body]
        message.tries += adds_try
        message.place, message.until_s, message.token = "waiting", self._time.now_s + delay_s, ""

    # -- numbers ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Exact numbers, named as the real queue names them."""
        counts = dict.fromkeys(("visible", "in_flight", "retrying", "delayed", "set_apart"), 0)
        hidden: dict[Place, str] = {"leased": "in_flight", "waiting": "retrying", "delayed": "delayed"}
        for message in self.messages.values():
            if message.place == "suspect":
                counts["set_apart"] += 1
            elif message.until_s > self._time.now_s:
                counts[hidden[message.place]] += 1
            else:
                counts["visible"] += 1
        return counts
