"""What has to be done whoever sends and receives: move tasks are run, outboxes that nobody owns are delivered, messages
that nobody receives are removed after their retention. In every account and region; any number of processes may do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Final

import anyio
import anyio.abc

from broker.client import Broker
from broker.core import Core
from broker.errors import InvalidName
from broker.log import log
from broker.mover import Mover
from broker.names import Kind, Resource
from broker.relays import Relays

EVERY_S: Final = 60.0
LOOK_EVERY_S: Final = 45.0
_OUTBOXES_A_ROUND: Final = 50
_QUEUES_A_ROUND: Final = 50
_EXPIRE_CALLS: Final = 200  # of a queue in a round: 100,000 messages, or 200 MiB of them
_TURN: Final = "upkeep"
_MOVES_AT_ONCE: Final = 50
_FAILED_AGAIN_S: Final = 2.0
_FULL_AGAIN_S: Final = 5.0


class Upkeep:
    """Does it, in the background of a worker or a gateway. Nothing is lost where none runs; it waits."""

    def __init__(
        self,
        broker: Broker,
        *,
        relays: Relays | None = None,
        every_s: float = EVERY_S,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._core: Final[Core] = broker.core
        self._relays: Final = relays or Relays(broker)
        self._broker: Final = broker
        self._every_s: Final = every_s
        self._look_every_s: Final = look_every_s
        self._movers: Final[dict[Resource, Mover]] = {}
        self._due: Final[dict[Resource, float]] = {}
        self._look_at = 0.0
        self._changed: Final = asyncio.Event()
        self._next_outbox: Final[dict[tuple[str, str], int]] = {}
        self._next_queue: Final[dict[tuple[str, str], int]] = {}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        channel = self._core.keys.hints
        await self._core.channels.listen({channel: self._hear})
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_moving, group, name="moves")
                await self._keep_house()
        finally:
            with anyio.CancelScope(shield=True):
                await self._core.channels.unlisten(channel, self._hear)

    def kick(self, source: Resource) -> None:
        """A move task of this queue has begun, or is to end: looks at once."""
        mover = self._movers.get(source)
        if mover is not None:
            mover.hurry()
        self._due[source] = 0.0
        self._changed.set()

    def _hear(self, hint: bytes | None) -> None:
        if hint is None:  # some may have been missed
            self._look_at = 0.0
            self._changed.set()
            return
        with contextlib.suppress(InvalidName, UnicodeDecodeError):
            self.kick(Resource.from_arn(hint.decode()))

    # -- move tasks ---------------------------------------------------------------------------------------------------

    async def _keep_moving(self, group: anyio.abc.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self._look_at:
                self._look_at = loop.time() + self._look_every_s * random.uniform(0.7, 1.0)
                await self._look()
            due = [source for source, at in self._due.items() if at <= loop.time() and source not in self._movers]
            for source in due:
                if len(self._movers) >= _MOVES_AT_ONCE:
                    self._due[source] = loop.time() + _FULL_AGAIN_S
                    continue
                del self._due[source]
                mover = self._movers[source] = Mover(self._core, self._broker.deliver, source)
                group.start_soon(self._move, source, mover, name=f"move {source.name}")
            next_at = min([self._look_at, *(at for source, at in self._due.items() if source not in self._movers)])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_at - loop.time())):
                    await self._changed.wait()
            self._changed.clear()

    async def _look(self) -> None:
        """Finds tasks that nobody runs, whose hint was missed."""
        try:
            for source, task_id in (await self._core.moves.running()).items():
                states = await self._core.moves.all(source)
                if states and states[0].status in {"RUNNING", "CANCELLING"}:
                    self._due.setdefault(source, 0.0)
                else:
                    await self._core.moves.delist(source, task_id)
        except Exception as error:  # noqa: BLE001 - the next look may succeed, and the tasks that run go on
            log.warning("upkeep_failed", error_type=type(error).__name__, reason=str(error))

    async def _move(self, source: Resource, mover: Mover) -> None:
        again_s: float | None = None
        try:
            lead = await mover.run()
            if lead.status == "other":  # should that process die, this one goes on
                again_s = lead.left_ms / 1000 + random.uniform(0.1, 1.0)
        except Exception as error:  # noqa: BLE001 - whatever one task meets must not end the others, nor the process
            log.warning("move_interrupted", queue=source.name, error_type=type(error).__name__, reason=str(error))
            again_s = _FAILED_AGAIN_S
        finally:
            del self._movers[source]
        if again_s is not None:
            self._due.setdefault(source, asyncio.get_running_loop().time() + again_s)
        self._changed.set()

    # -- chores -------------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if await self._core.directory.take_turn(_TURN, for_ms=int(self._every_s * 900), everywhere=True):
                    await self.round()
            except Exception as error:  # noqa: BLE001 - also what a newer release has written
                log.warning("upkeep_failed", error_type=type(error).__name__, reason=str(error))

    async def round(self) -> None:
        """All chores once, in every account and region."""
        own = self._core.settings.account, self._core.settings.region
        for scope in sorted({own, *await self._core.directory.scopes()}):
            core = self._core if scope == own else self._core.within(*scope)
            split = await core.partitions.listed()
            functions = await self._all_parts(core, "function", split)
            queues = await self._all_parts(core, "queue", split)
            await self._follow(core, split)
            await self._deliver_some(core, functions + queues)
            await self._expire_some(core, queues)

    async def _all_parts(self, core: Core, kind: Kind, split: Mapping[tuple[Kind, str], int]) -> list[Resource]:
        names = await core.directory.names(kind)
        return [part for name in names for part in core.resource(kind, name).parts(split.get((kind, name), 1))]

    async def _follow(self, core: Core, split: Mapping[tuple[Kind, str], int]) -> None:
        """Lets partitions follow a change of settings that was broken off."""
        for kind, name in split:
            if behind := await core.partitions.adopt(core.resource(kind, name)):
                log.warning("partitions_followed", kind=kind, name=name, count=behind)

    async def _deliver_some(self, core: Core, resources: list[Resource]) -> None:
        """Looks at some outboxes in turn: those of resources that no worker serves have no other relay."""
        for resource in self._some(core, self._next_outbox, resources, _OUTBOXES_A_ROUND):
            if await core.outbox.entries(resource, 1):
                self._relays.kick(resource)

    async def _expire_some(self, core: Core, queues: list[Resource]) -> None:
        """Removes what is past its retention from some queues in turn: a queue that nobody reads would only grow."""
        for queue in self._some(core, self._next_queue, queues, _QUEUES_A_ROUND):
            if count := await core.messages.expire(queue, calls=_EXPIRE_CALLS):
                log.info("messages_expired", queue=queue.name, count=count)

    def _some(
        self, core: Core, turns: dict[tuple[str, str], int], resources: list[Resource], most: int
    ) -> list[Resource]:
        """The next ones in turn."""
        if not resources:
            return []
        scope = core.settings.account, core.settings.region
        start = turns.get(scope, 0) % len(resources)
        count = min(most, len(resources))
        turns[scope] = start + count
        return [resources[(start + step) % len(resources)] for step in range(count)]
