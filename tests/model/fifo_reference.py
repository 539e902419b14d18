"""A FIFO queue as it should behave, in plain Python: what a real one is compared with."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from tests.model.reference import MAX_CRASHES, Mode, Time, Told

ID_MEMORY_S: Final = 300
Fate: TypeAlias = Literal["handed out", "dead", "too old", "stops", "suspect"]


class FifoMessage(msgspec.Struct):
    """One message: its group, until when it is hidden and why, and its three counters."""

    body: str
    group: str
    sent_s: int
    until_s: int = 0
    token: str = ""
    """Of its last lease; '' where it has none or was given back."""
    given_back: bool = False
    receives: int = 0
    tries: int = 0
    crashes: int = 0


class FifoReference:
    """Messages by group, in order; each body is sent once."""

    def __init__(self, time: Time, *, max_receives: int, retention_s: int, delay_s: int) -> None:
        self._time = time
        self._max_receives = max_receives
        self._retention_s = retention_s
        self._delay_s = delay_s
        self.groups: Final[dict[str, list[FifoMessage]]] = {}
        self.suspects: set[str] = set()
        self._accepted: Final[dict[str, tuple[int, str]]] = {}

    # -- in -----------------------------------------------------------------------------------------------------------

    def send(self, body: str, group: str, deduplication_id: str) -> str:
        """Accepts a message; answers its body, or the body of the one that it repeats."""
        until_s, first = self._accepted.get(deduplication_id, (0, ""))
        if until_s > self._time.now_s:
            return first
        self._accepted[deduplication_id] = self._time.now_s + ID_MEMORY_S, body
        self.groups.setdefault(group, []).append(FifoMessage(body, group, self._time.now_s))
        return body

    # -- out ----------------------------------------------------------------------------------------------------------

    def hidden(self, message: FifoMessage) -> bool:
        """Whether a lease or a delay keeps it from being handed out, and with it what is behind it."""
        now_s = self._time.now_s
        return message.until_s > now_s or message.sent_s + self._delay_s > now_s

    def fate(self, message: FifoMessage, mode: Mode, *, first: bool) -> Fate:
        """What a claim that has come as far as this message of its group does with it."""
        if self.hidden(message):
            return "stops"
        if message.sent_s + self._retention_s <= self._time.now_s:
            return "too old"
        if mode == "work" and 0 < self.crashes(message) <= MAX_CRASHES:
            return "suspect" if first else "stops"
        return "dead" if message.receives >= self._max_receives else "handed out"

    def crashes(self, message: FifoMessage) -> int:
        """Its crashes, the one included that is found when a worker's lease has ended."""
        ended = message.token and message.until_s <= self._time.now_s
        return message.crashes + bool(ended and not message.token.startswith("r"))

    def lease(self, message: FifoMessage, token: str, lease_s: int) -> Told:
        """Hands the message out."""
        message.crashes = self.crashes(message)
        message.receives += 1
        message.until_s, message.token, message.given_back = self._time.now_s + lease_s, token, False
        self.suspects.discard(message.group)
        return Told(message.receives, message.tries, message.crashes)

    def set_apart(self, message: FifoMessage) -> None:
        """Its group now goes on with it alone."""
        message.crashes = self.crashes(message)
        message.token, message.given_back, message.until_s = "", False, 0
        self.suspects.add(message.group)

    def remove(self, message: FifoMessage) -> None:
        """Takes the message out for good."""
        self.suspects.discard(message.group)
        self.groups[message.group].remove(message)
        if not self.groups[message.group]:
            del self.groups[message.group]

    def expire(self) -> None:
        """Removes what is too old from the front of every group, but for what is leased."""
        now_s = self._time.now_s
        for messages in list(self.groups.values()):
            for message in list(messages):
                leased = message.token and message.until_s > now_s
                if leased or message.sent_s + self._retention_s > now_s:
                    break
                self.remove(message)

    # -- leases -------------------------------------------------------------------------------------------------------

    def is_there(self, message: FifoMessage) -> bool:
        """Whether the message still exists."""
        return any(message is other for other in self.groups.get(message.group, ()))

    def holds(self, message: FifoMessage, token: str) -> bool:
        """Whether this is still the message's lease: a receiver's until its end; a worker's until somebody else, or
        nobody, has the head of its group."""
        if not self.is_there(message) or message.token != token:
            return False
        if message.until_s > self._time.now_s:
            return True
        return not token.startswith("r") and self.groups[message.group][0].token == token

    def extend(self, message: FifoMessage, lease_s: int) -> None:
        """Moves the end of the lease."""
        until_s = self._time.now_s + lease_s
        if until_s < message.until_s or message.until_s <= self._time.now_s:
            self.suspects.discard(message.group)
        message.until_s = until_s

    def release(self, message: FifoMessage, delay_s: int, *, adds_try: bool) -> None:
        """Gives the message back."""
        message.tries += adds_try
        message.until_s, message.token, message.given_back = self._time.now_s + delay_s, "", True
        self.suspects.discard(message.group)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Exact numbers, named as the real queue names them."""
        now_s = self._time.now_s
        messages = [message for group in self.groups.values() for message in group]
        hidden = [message for message in messages if message.until_s > now_s]
        counts = {
            "in_flight": sum(bool(message.token) for message in hidden),
            "retrying": sum(message.given_back for message in hidden),
            "delayed": sum(message.sent_s + self._delay_s > now_s for message in messages),
            "set_apart": len(self.suspects),
        }
        return counts | {"visible": len(messages) - sum(counts.values())}
