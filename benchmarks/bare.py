"""The ceilings: the scripts of the product, called by as little Python as can be, with none of the product around them.

``python -m benchmarks.bare URL drain KIND NAME`` claims and finishes until nothing is left; ``… wake KIND NAME`` waits
for wake-ups and notes how late each message is; ``… echo KIND NAME`` sends back what is published on the channel NAME.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, cast

import msgspec
import redis.asyncio
from redis.asyncio.client import PubSub

from benchmarks.answering import answer, run, say
from broker.core import Core
from broker.names import Kind, Resource
from broker.records import pack
from broker.settings import Address, Settings
from broker.store.values import Claim, NewMessage, member_of

PAGE = 1_000


async def claim(core: Core, resource: Resource, token: str) -> Claim:
    """One call of the claim script."""
    return await core.messages.claim(
        resource, token=token, lease_ms=core.settings.lease_ms, room=PAGE, mode="work", wake=True
    )


async def finish(core: Core, resource: Resource, claimed: Claim, token: str) -> None:
    """One call of the finish script."""
    members = [member_of(message.entry, token) for message in claimed.messages]
    await core.messages.finish(resource, members, counter="done")


async def send(core: Core, resource: Resource, messages: Sequence[NewMessage], token: str) -> None:
    """One call of the send script."""
    await core.messages.send(resource, messages, token=token, bucket="bare")


def stamped() -> NewMessage:
    """A message that says when it was made."""
    body = msgspec.json.encode({"sent_ns": time.monotonic_ns()})
    return NewMessage(pack(body), len(body))


async def drain(core: Core, resource: Resource) -> None:
    """Claims and finishes a thousand at a time."""
    for number in count():
        token = f"wbare{number}"
        claimed = await claim(core, resource, token)
        if not claimed.messages:
            return
        await finish(core, resource, claimed, token)


async def follow_wake_ups(core: Core, resource: Resource, note: Callable[[int], None]) -> None:
    """Waits for a wake-up, claims what is there, notes how late it is, finishes it; for ever."""
    pubsub = core.runner.link.client_for("").pubsub()
    await pubsub.subscribe(core.keys.of(resource).wake)
    for number in count():
        token = f"wbare{number}"
        claimed = await claim(core, resource, token)
        for message in claimed.messages:
            note(time.monotonic_ns() - msgspec.json.decode(message.blob[1:-1])["sent_ns"])
        if claimed.messages:
            await finish(core, resource, claimed, token)
        while await pubsub.get_message(timeout=None) is None:
            pass


def _client(url: str) -> redis.asyncio.Redis:
    """The library's own, with a pool as large as it takes."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=64, timeout=30)
    return redis.asyncio.Redis.from_pool(pool)


async def echo(url: str, channel: str) -> None:
    """Publishes to the channel that each message names what else it holds; for ever."""
    client = _client(url)
    pubsub = client.pubsub()
    await pubsub.subscribe(channel)
    publishing: set[asyncio.Task[object]] = set()
    while True:
        message = await pubsub.get_message(timeout=None)
        if message is not None and message["type"] == "message":
            back_to, _, text = message["data"].partition(b" ")
            task = asyncio.ensure_future(client.publish(back_to, text))
            publishing.add(task)
            task.add_done_callback(publishing.discard)


class Echoes:
    """The other side: asks, and waits for what comes back; any number at a time. With the library as it is."""

    def __init__(self, url: str, channel: str) -> None:
        self._client: Final = _client(url)
        self._channel: Final = channel
        self._back: Final = f"{channel}-back"
        self._waiting: Final[dict[bytes, asyncio.Future[None]]] = {}
        self._numbers: Final = count()
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, payload: bytes) -> None:
        """One request and its reply: two messages through Redis."""
        if self._reader is None:
            pubsub = self._client.pubsub()
            await pubsub.subscribe(self._back)
            self._reader = asyncio.create_task(self._read(pubsub), name="echoes")
        name = b"%d" % next(self._numbers)
        answered = self._waiting[name] = asyncio.get_running_loop().create_future()
        await self._client.publish(self._channel, b"%b %b %b" % (self._back.encode(), name, payload))
        await answered

    async def aclose(self) -> None:
        """Ends the connections."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._client.aclose()

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is not None and message["type"] == "message":
                self._waiting.pop(message["data"].partition(b" ")[0]).set_result(None)


async def main(url: str, what: str, kind: str, name: str) -> None:
    """Runs one of the three until the parent has no more questions."""
    core = Core(Address(url, "given"), Settings())
    resource = core.resource(cast("Kind", kind), name)
    latencies_ns: list[int] = []

    def take_latencies_ns() -> list[int]:
        taken = list(latencies_ns)
        latencies_ns.clear()
        return taken

    say("ready")
    match what:
        case "drain":
            work = drain(core, resource)
        case "wake":
            work = follow_wake_ups(core, resource, latencies_ns.append)
        case _:
            work = echo(url, name)
    task = asyncio.create_task(work, name=what)
    await answer({"latencies_ns": take_latencies_ns})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await core.close()


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
