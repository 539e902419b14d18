"""FIFO queues in Redis: messages in groups, each group in order. What differs from :mod:`broker.store.messages`, and
is used through it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from broker import limits
from broker.names import Resource
from broker.records import unpack
from broker.store.keys import Keyspace
from broker.store.lanes import RunsScripts
from broker.store.scripts import Argument, ScriptRunner
from broker.store.values import Claim, ClaimMode, NewMessage, Stored, not_sent, read_claim


class ClaimOfGroups(msgspec.Struct, frozen=True):
    """What is asked of a claim."""

    token: str
    lease_ms: int | None
    room: int
    mode: ClaimMode
    max_bytes: int
    wake: bool
    max_crashes: int | None
    max_in_flight: int | None
    of_one_group: int | None
    attempt: str | None


class FifoStore:
    """Sends to FIFO queues and claims from them. Errors: the StoreError family."""

    def __init__(self, runner: ScriptRunner, keyspace: Keyspace) -> None:
        self._runner: Final = runner
        self._keys: Final = keyspace

    async def send(
        self,
        queue: Resource,
        messages: Sequence[NewMessage],
        *,
        urgent: bool,
        made_sure_of: str,
        runs: RunsScripts,
    ) -> Stored | None:
        """Stores up to 1,000 messages in one step, each once within five minutes by its deduplication id."""
        k = self._keys.of(queue)
        plain = all(message.deduplication_id and not message.own_id and not message.facts for message in messages)
        sizes = [message.size for message in messages]
        largest = max(sizes)
        arguments: list[Argument] = [
            *(k.wake, limits.DEDUPLICATION_MS, "urgent" if urgent else "", made_sure_of),
            *("plain" if plain else "full", len(messages), largest, sizes.index(largest)),
        ]
        arguments += [message.blob for message in messages]
        arguments += [message.group for message in messages]
        arguments += [message.deduplication_id for message in messages]
        if not plain:
            arguments += [message.own_id for message in messages]
            arguments += [message.facts for message in messages]
            arguments += [
                "" if message.deduplication_id or message.own_id else content_id(message.blob) for message in messages
            ]
        keys = (
            *(k.meta, k.bodies, k.groups, k.order, k.open, k.blocked, k.suspects),
            *(k.delayed, k.facts, k.accepted_even, k.accepted_odd),
        )
        reply = await runs.run("fifo_send", keys, arguments)
        if reply[0] == b"unknown":
            return None
        if reply[0] != b"stored":
            raise not_sent(queue, reply)
        repeats = {int(reply[at]): reply[at + 1].decode() for at in range(4, len(reply), 2)}
        return Stored(reply[1].decode(), int(reply[2]), int(reply[3]), repeats)

    async def claim(self, queue: Resource, wanted: ClaimOfGroups) -> Claim:
        """Leases messages, of each group the first ones."""
        k = self._keys.of(queue)
        keys = (*k.fifo(), k.outbox, k.outgoing, k.delayed, k.attempt(wanted.attempt or ""))
        arguments: tuple[Argument, ...] = (
            *(wanted.token, _or_empty(wanted.lease_ms), wanted.room, wanted.max_bytes, wanted.mode),
            *(wanted.of_one_group or wanted.room, "1" if wanted.wake else "0", k.wake, _or_empty(wanted.max_crashes)),
            *(_or_empty(wanted.max_in_flight), limits.ATTEMPT_MS if wanted.attempt else ""),
        )
        return read_claim(await self._runner.run("fifo_claim", keys, arguments), wanted.token)


def content_id(blob: bytes) -> str:
    """The deduplication id of a message in a queue that goes by content: SHA-256 of the body alone."""
    return hashlib.sha256(unpack(blob)[1]).hexdigest()


def _or_empty(number: int | None) -> Argument:
    return "" if number is None else number
