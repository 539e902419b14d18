"""A cluster: each command goes straight to the node that serves its slot, over connections like those to one server.

What a node refused (MOVED, ASK, TRYAGAIN) did not run, so it is sent again; what was sent and not answered never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from redis import exceptions as failures

from broker import errors
from broker.log import log
from broker.store.addresses import Place, Target, hidden, written
from broker.store.connection import Client, Execute, check_server, connect
from broker.store.slots import SLOTS, Shard, Word, name_in, read_place, read_slots, slot_of, uncovered

REDIRECTED: Final = (failures.AskError, failures.TryAgainError)
"""The node did not run the command. MovedError is an AskError."""
FOLLOW_FOR_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.2
_LOST: Final = (failures.ConnectionError, failures.TimeoutError, OSError)
_MAP_TIMEOUT_S: Final = 1.0
_MAP_PAUSE_S: Final = 0.1
_WATCH_S: Final = 0.2
_SILENT_S: Final = 1.0
"""Who answers nothing for so long is doubted: the others are asked at every look, who serves by now."""
_RETIRED_KEPT: Final = 32  # closed once more at the end: somebody may have been about to use them
_RETIRE_S: Final = 0.5
"""A node that serves nothing any more may still be answering what it had begun."""


def pause_before(attempt: int, error: Exception) -> float:
    """Seconds before the next attempt: a redirection is followed at once, unless they go round in circles."""
    if isinstance(error, failures.TryAgainError):
        return min(_FIRST_PAUSE_S * (1 << attempt), _LONGEST_PAUSE_S)
    return 0.0 if attempt < 3 else 0.05  # noqa: PLR2004 - moved, moved again while it was asked, and once more


class Node:
    """One node and the connections to it. ``doubtful``: it did not answer lately."""

    def __init__(self, place: Place, target: Target) -> None:
        self.place: Final = place
        self.client: Final = connect(target.node_url(place))
        self._execute: Final = self.client.execute
        self.doubtful = False
        self.under_way = 0
        self.answered = 0
        self._answered_before = 0
        self._heard_at = time.monotonic()

    async def send(self, command: Sequence[Word]) -> Any:
        """The reply to one command."""
        self.under_way += 1
        try:
            reply = await self._execute(*command)
        except _LOST:
            self.doubtful = True
            raise
        except failures.ResponseError:
            self.answered += 1
            raise
        else:
            self.answered += 1
            self.doubtful = False
            return reply
        finally:
            self.under_way -= 1

    def is_silent(self) -> bool:
        """Whether it owes an answer and has given none for a while; to be looked at all the time."""
        if not self.under_way or self.answered != self._answered_before:
            self._answered_before, self._heard_at = self.answered, time.monotonic()
        return time.monotonic() - self._heard_at >= _SILENT_S

    async def ask(self, command: Sequence[Word]) -> Any:
        """The same for a slot that is still on its way to this node."""
        _, reply = await self.client.together([("ASKING",), tuple(command)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        """Ends its connections; whoever waits for an answer hears that it is lost."""
        await self.client.drop()


class ClusterLink:
    """The nodes of one cluster and which of them serves what."""

    spread: Final = True

    def __init__(self, target: Target) -> None:
        self._target: Final = target
        self._nodes: Final[dict[Place, Node]] = {}
        self._retired: Final[deque[Node]] = deque(maxlen=_RETIRED_KEPT)
        self._slots: list[Node | None] = [None] * SLOTS
        self._known: tuple[Place, ...] = target.places
        self._mapping: asyncio.Task[None] | None = None
        self._mapped_at = float("-inf")
        self._moved = False
        self._tasks: Final[set[asyncio.Task[Any]]] = set()
        self._watching: asyncio.Task[None] | None = None
        self.on_moved: Callable[[], None] = lambda: None
        """Called when slots have moved to other nodes."""

    # -- commands -----------------------------------------------------------------------------------------------------

    async def execute(self, *command: Word) -> Any:
        """The reply to one command, from the node that serves its key or channel. Errors: those of redis."""
        name = name_in(command)
        node = self._node_for(name) or await self._find(name)
        try:
            return await node.send(command)
        except REDIRECTED as error:
            return await self._follow(error, node, command, name)
        except _LOST:
            self.doubt()
            raise

    def servers(self) -> list[tuple[str, Execute]]:
        """The nodes that serve slots, as messages name them, and what sends them commands."""
        return [(f"Redis at {written(node.place)}", node.client.execute) for node in self.primaries()]

    async def execute_at(self, place: Place, *command: Word) -> Any:
        """The reply of one node to one command, whatever it serves."""
        try:
            return await self.node_at(place).send(command)
        except _LOST:
            self.doubt()
            raise

    async def everywhere(self, *command: Word) -> list[Any]:
        """The replies of all nodes that serve slots; of those that answer."""
        replies = await asyncio.gather(*(node.send(command) for node in self.primaries()), return_exceptions=True)
        if any(isinstance(reply, Exception) for reply in replies):
            self.doubt()
        return [reply for reply in replies if not isinstance(reply, BaseException)]

    async def _follow(self, error: Exception, node: Node, command: Sequence[Word], name: str | bytes | None) -> Any:
        give_up, attempt, asking = time.monotonic() + FOLLOW_FOR_S, 0, False
        while time.monotonic() < give_up:
            await asyncio.sleep(pause_before(attempt, error))
            attempt += 1
            asking = isinstance(error, failures.AskError) and not isinstance(error, failures.MovedError)
            if isinstance(error, failures.AskError):
                node = self._redirected(error, node)
            else:
                node = self._node_for(name) or await self._find(name)
            try:
                return await (node.ask(command) if asking else node.send(command))
            except REDIRECTED as again:
                error = again
            except _LOST:
                self.doubt()
                raise
        raise error

    def _redirected(self, error: failures.AskError, node: Node) -> Node:
        place = read_place(error.host, int(error.port), node.place)
        there = self.node_at(place)
        if isinstance(error, failures.MovedError):
            self._slots[int(error.slot_id)] = there
            self._moved = True
            self.doubt()
        return there

    # -- who serves what ----------------------------------------------------------------------------------------------

    def _node_for(self, name: str | bytes | None) -> Node | None:
        if name is not None:
            return self._slots[slot_of(name)]
        return next((node for node in self.primaries() if not node.doubtful), None)

    async def _find(self, name: str | bytes | None) -> Node:
        await self.refresh()
        node = self._node_for(name) or (next(iter(self.primaries()), None) if name is None else None)
        if node is None:
            where = "no node" if name is None else f"slot {slot_of(name)} belongs to no node"
            raise failures.ClusterDownError(f"the cluster is down: {where}")
        return node

    def primaries(self) -> list[Node]:
        """The nodes that serve slots, each once."""
        return list(dict.fromkeys(node for node in self._slots if node is not None))

    @property
    def first_place(self) -> Place:
        """The first node that the address names."""
        return self._target.places[0]

    def node_at(self, place: Place) -> Node:
        """One node."""
        return self._nodes.get(place) or self._nodes.setdefault(place, Node(place, self._target))

    def client_for(self, name: str | bytes) -> Client:
        """The connections to the node that serves a name now."""
        node = self._slots[slot_of(name)]
        if node is None:
            raise failures.ClusterDownError(f"slot {slot_of(name)} belongs to no node")
        return node.client

    def place_of(self, name: str | bytes) -> Place | None:
        """Where a name is served now, None where nowhere."""
        node = self._slots[slot_of(name)]
        return node.place if node else None

    def doubt(self) -> None:
        """Looks at once, in the background, who serves what."""
        if self._mapping is None:
            self._start(self._look_again())

    async def _look_again(self) -> None:
        with contextlib.suppress(*_LOST, failures.RedisError):
            await self.refresh()

    async def refresh(self) -> None:
        """Asks who serves what; whoever wants to know meanwhile waits for the same answer. Raises redis's errors."""
        if self._mapping is None:
            self._mapping = asyncio.create_task(self._refresh(), name="penstock-cluster-map")
            self._mapping.add_done_callback(self._mapped)
        await asyncio.shield(self._mapping)

    def _mapped(self, task: asyncio.Task[None]) -> None:
        self._mapping = None
        if not task.cancelled():
            task.exception()  # those who waited have it

    async def _refresh(self) -> None:
        await asyncio.sleep(max(0.0, self._mapped_at + _MAP_PAUSE_S - time.monotonic()))
        self._mapped_at = time.monotonic()
        reasons: list[str] = []
        for place in self._order():
            try:
                shards = read_slots(await self._ask_for_map(place), place)
            except (failures.AuthenticationError, failures.NoPermissionError):
                raise
            except (*_LOST, failures.ClusterDownError) as error:
                reasons.append(str(error) or f"{written(place)}: {type(error).__name__}")
                continue
            if shards:
                self._apply(shards)
                return
            reasons.append(f"{written(place)} knows of no slots")
        raise failures.ConnectionError(f"no node of the cluster answers: {'; '.join(reasons)}")

    def _order(self) -> list[Place]:
        """Whom to ask: those that answer, then the rest."""
        places = dict.fromkeys((*self._nodes, *self._known, *self._target.places))
        return sorted(places, key=lambda place: (node := self._nodes.get(place)) is None or node.doubtful)

    async def _ask_for_map(self, place: Place) -> list[Any]:
        client = connect(self._target.node_url(place), timeout_s=_MAP_TIMEOUT_S)
        try:
            return await client.execute("CLUSTER", "SLOTS")  # type: ignore[no-any-return]
        finally:
            with contextlib.suppress(*_LOST):
                await client.aclose()

    def _apply(self, shards: Sequence[Shard]) -> None:
        before = self._slots
        slots: list[Node | None] = [None] * SLOTS
        for shard in shards:
            slots[shard.first : shard.last + 1] = [self.node_at(shard.primary)] * (shard.last + 1 - shard.first)
        self._slots = slots
        self._known = tuple(dict.fromkeys(place for shard in shards for place in (shard.primary, *shard.replicas)))
        if slots == before and not self._moved:
            return
        self._moved = False
        serving = {node.place for node in self.primaries()}
        for place in self._nodes.keys() - serving:
            node = self._nodes.pop(place)
            self._retired.append(node)
            self._start(self._retire(node))
        self.on_moved()

    async def _retire(self, node: Node) -> None:
        if not node.doubtful:  # whoever waits for one that is silent has waited long enough
            await asyncio.sleep(_RETIRE_S)
        answered = -1
        while node.under_way and node.answered != answered and not node.doubtful:
            answered = node.answered
            await asyncio.sleep(_RETIRE_S)
        await node.close()

    async def _watch(self) -> None:
        """A node that is stopped, or cut off, answers nothing and closes nothing: who waits for it would for the whole
        timeout, though another serves its slots by now."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for node in tuple(self._nodes.values()):
                if node.is_silent():
                    node.doubtful = True
                    self.doubt()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- open and close -----------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """A node is a replica now: somebody else serves its slots."""
        self.doubt()

    async def check(self) -> list[bytes]:
        """Checks the cluster and every node that can be reached, and answers what those that serve slots say of
        themselves. Errors: StoreUnsuitable, or those of redis."""
        try:
            await self.refresh()
        except failures.ResponseError as error:
            if "cluster support disabled" not in str(error):
                raise
            rule = "is not a cluster (cluster-enabled no); write redis:// instead of redis+cluster://"
            raise errors.StoreUnsuitable(f"Redis at {hidden(self._target.url)} {rule}") from error
        await self._check_slots()
        serving = {node.place for node in self.primaries()}
        infos: list[bytes] = []
        for node in self.primaries():
            infos.append(await node.send(("INFO",)))
            check_server(infos[-1], self._target.node_url(node.place), mode="cluster")
        await asyncio.gather(*(self._check_replica(place) for place in self._known if place not in serving))
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="penstock-cluster-watch")
        return infos

    async def _check_slots(self) -> None:
        held = [Shard(slot, slot, node.place, ()) for slot, node in enumerate(self._slots) if node is not None]
        missing = uncovered(held)
        if missing:
            some = written(self.primaries()[0].place)
            raise errors.StoreUnsuitable(
                f"the cluster at {hidden(self._target.url)} does not serve all slots: {missing} belong to no node, and "
                f"nothing in them can be reached; assign them (redis-cli --cluster fix {some}), then start again"
            )

    async def _check_replica(self, place: Place) -> None:
        """One that is away does not stop the start; one that would evict keys once it is promoted does."""
        url = self._target.node_url(place)
        client = connect(url, timeout_s=_MAP_TIMEOUT_S)
        try:
            info = await client.execute("INFO")
        except _LOST as error:
            log.warning("replica_away", node=written(place), reason=str(error) or type(error).__name__)
        else:
            check_server(info, url, mode="cluster")
        finally:
            with contextlib.suppress(*_LOST):
                await client.aclose()

    async def close(self) -> None:
        """Ends all connections."""
        tasks = [task for task in (self._watching, self._mapping, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in (*self._nodes.values(), *self._retired):
            await node.close()
