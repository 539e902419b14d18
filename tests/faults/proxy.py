"""A relay between a client and Redis that breaks connections by rule, at an exact command.

It understands just enough of the protocol to count commands and replies on each connection: a command is forwarded
whole, its reply comes back whole, and a rule decides what happens around them::

    async with FaultProxy(server_socket, folder / "proxy.sock") as proxy:
        proxy.add(Rule("cut_after", command="EVALSHA", number=1))   # executed, but the first EVALSHA's reply is lost
        async with Broker(proxy.url) as broker: ...

Rules count over all connections, from the moment they are added, and are used up when they have fired, except
``swallow`` and ``delay``, which go on until they are removed. ``fired`` waits for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults.relay import Relay, Stream, until_one_ends

Action = Literal["cut_before", "cut_after", "swallow", "delay"]


@dataclass
class Rule:
    """One fault.

    ``cut_before``: the connection ends without the command having reached Redis. ``cut_after``: Redis has executed it
    and answered; the connection ends instead of the reply. ``swallow``: from this command on the connection is half
    open: what the client sends is taken and never answered. ``delay``: each such command waits so long before it is
    forwarded, and those behind it on its connection with it.
    """

    action: Action
    command: str | None = None
    """Which commands count, by their first word (EVAL counts as EVALSHA); None: all."""
    containing: bytes = b""
    """Only commands with these bytes in one of their arguments count: a key, a token."""
    number: int = 1
    """The how manieth of them it is."""
    delay_s: float = 0.0
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: int = 0

    def meets(self, command: list[bytes]) -> bool:
        """Counts the command and says whether it is the one."""
        word = command[0].decode().upper()
        counts = self.command is None or self.command == word or (self.command == "EVALSHA" and word == "EVAL")
        if not counts or not any(self.containing in part for part in command):
            return False
        self._seen += 1
        met = self._seen >= self.number if self.action in {"swallow", "delay"} else self._seen == self.number
        if met:
            self.fired.set()
        return met


class FaultProxy(Relay):
    """The relay, and its rules."""

    read_ahead = 2**26  # a command or reply is read whole

    def __init__(self, upstream: Path, socket: Path) -> None:
        super().__init__(upstream, socket)
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        self._rules.remove(rule)

    async def relay(self, client: Stream, redis: Stream) -> None:
        await _Connection(self._rules, client, redis).relay()


class _Connection:
    """One client's connection. Replies are relayed as they come, except the one that a rule takes away."""

    def __init__(self, rules: list[Rule], client: Stream, redis: Stream) -> None:
        self._rules = rules
        self._client = client
        self._redis = redis
        self._cut_after: set[int] = set()
        self._sent = 0

    async def relay(self) -> None:
        await until_one_ends(self._commands(), self._replies())

    async def _commands(self) -> None:
        while True:
            raw, parts = await read_value(self._client[0])
            rule = next(self._met(parts), None)
            match rule.action if rule else None:
                case "cut_before":
                    return
                case "swallow":
                    while await self._client[0].read(65_536):
                        pass
                    return
                case "cut_after":
                    self._cut_after.add(self._sent)
                case "delay":
                    assert rule is not None
                    await asyncio.sleep(rule.delay_s)
            self._sent += 1
            self._redis[1].write(raw)
            await self._redis[1].drain()

    def _met(self, parts: list[bytes]) -> Iterator[Rule]:
        for rule in tuple(self._rules):
            if rule.meets(parts):
                if rule.action.startswith("cut"):
                    self._rules.remove(rule)
                yield rule

    async def _replies(self) -> None:
        number = 0
        while True:
            raw, parts = await read_value(self._redis[0])
            if parts[:1] not in ([b"message"], [b"subscribe"], [b"unsubscribe"]):
                if number in self._cut_after:
                    return
                number += 1
            self._client[1].write(raw)
            await self._client[1].drain()


async def read_value(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """One RESP2 value: its raw bytes, and, flat, the strings in it."""
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    if kind == b"$":
        length = int(rest)
        if length < 0:
            return line, []
        body = await reader.readexactly(length + 2)
        return line + body, [body[:-2]]
    if kind == b"*":
        raw, parts = [line], list[bytes]()
        for _ in range(max(0, int(rest))):
            inner_raw, inner = await read_value(reader)
            raw.append(inner_raw)
            parts += inner
        return b"".join(raw), parts
    return line, [rest]
