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
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

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


class FaultProxy:
    """Listens on a unix socket and relays to the unix socket of a Redis; ``url`` is what clients are given."""

    def __init__(self, upstream: Path, socket: Path) -> None:
        self._upstream = upstream
        self._socket = socket
        self._rules: list[Rule] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        self._rules.remove(rule)

    def cut_all(self) -> None:
        """Ends every connection there is, both sides."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._socket, limit=2**26)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream, limit=2**26)
            self._writers |= {writer, up_writer}
            try:
                await _Connection(self._rules, reader, writer, up_reader, up_writer).relay()
            finally:
                self._writers -= {writer, up_writer}
                writer.transport.abort()
                up_writer.transport.abort()
        self._tasks.discard(task)


class _Connection:
    """One client's connection. Replies are relayed as they come, except the one that a rule takes away."""

    def __init__(
        self,
        rules: list[Rule],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._rules = rules
        self._client = (reader, writer)
        self._redis = (up_reader, up_writer)
        self._cut_after: set[int] = set()
        self._sent = 0

    async def relay(self) -> None:
        commands = asyncio.create_task(self._commands())
        replies = asyncio.create_task(self._replies())
        try:
            await asyncio.wait((commands, replies), return_when=asyncio.FIRST_COMPLETED)
        finally:
            commands.cancel()
            replies.cancel()
            await asyncio.gather(commands, replies, return_exceptions=True)

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
