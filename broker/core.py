"""The composition root: everything that one open connection gives, built once and handed to whoever needs it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from broker import errors
from broker.log import log
from broker.names import Kind, Resource
from broker.settings import Address, Settings
from broker.store.addresses import Place
from broker.store.channels import REPLACED_PING_S, Channels
from broker.store.cluster import ClusterLink
from broker.store.cluster_channels import ClusterChannels
from broker.store.connection import translated
from broker.store.directory import DirectoryStore
from broker.store.durable import DurableWrites
from broker.store.headroom import Headroom
from broker.store.keys import Keyspace
from broker.store.links import SentinelLink, open_link, open_thread_link
from broker.store.logs import LogStore
from broker.store.messages import MessageStore
from broker.store.moves import MoveStore
from broker.store.once import OnceStore
from broker.store.outbox import OutboxStore
from broker.store.parcels import ParcelStore
from broker.store.partitions import PartitionStore
from broker.store.permits import PermitStore
from broker.store.repair import RepairStore
from broker.store.scripts import ScriptRunner, ThreadScriptRunner, load_scripts
from broker.store.splits import Splits
from broker.store.statuses import StatusStore

_CLOSE_GRACE_S: Final = 1.0


class Core:
    """The stores of one Redis, the channels, and the background work that one process does on it."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address: Final = address
        self._link: Final = open_link(address.url)
        self.scripts: Final = load_scripts(test_clock=settings.test_clock)
        self.runner: Final = ScriptRunner(self._link, self.scripts, url=address.url, chosen_by=address.chosen_by)
        self.channels: Final = self._channels()
        self.splits: Final = Splits()
        self.runner.on_demoted = self.channels.renew
        self._background: Final[set[asyncio.Task[Any]]] = set()
        self._see(settings)
        self.headroom: Final = Headroom(self.runner, full_at_percent=settings.full_at_percent)
        self.durable: Final = DurableWrites(self.runner, self.scripts, self.keys, confirm_ms=settings.confirm_ms)

    def _channels(self) -> Channels | ClusterChannels:
        if isinstance(self._link, ClusterLink):
            return ClusterChannels(self._link)
        if isinstance(self._link, SentinelLink):
            return Channels(self._link.client, ping_s=REPLACED_PING_S)
        return Channels(self._link.client)

    def in_thread(self) -> ThreadScriptRunner:
        """The same commands for a thread, over connections of its own."""
        address = self.address
        link = open_thread_link(address.url)
        return ThreadScriptRunner(link, self.scripts, url=address.url, chosen_by=address.chosen_by)

    def _see(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keyspace(settings.prefix, settings.account, settings.region)
        self.messages = MessageStore(self.runner, self.keys, self.splits)
        self.outbox = OutboxStore(self.runner, self.keys)
        self.moves = MoveStore(self.runner, self.keys)
        self.once = OnceStore(self.runner, self.keys)
        self.partitions = PartitionStore(self.runner, self.keys, self.splits)
        self.permits = PermitStore(self.runner, self.keys)
        self.directory = DirectoryStore(self.runner, self.keys, self.splits)
        self.logs = LogStore(self.runner, self.keys)
        self.parcels = ParcelStore(self.runner, self.keys)
        self.statuses = StatusStore(self.runner, self.keys)
        self.repairs = RepairStore(self.runner, self.keys)

    def within(self, account: str, region: str) -> Core:
        """The same connections and background work, seeing the resources of another account and region."""
        other = copy.copy(self)
        other._see(msgspec.structs.replace(self.settings, account=account, region=region))  # noqa: SLF001 - its own kind
        return other

    async def open(self) -> None:
        """Checks the server, or every node. Errors: the StoreError family, with the address and why it is used."""
        with translated(self.address.url, self.address.chosen_by):
            self.headroom.note(await self._link.check())

    async def close(self) -> None:
        """Lets background work end (sends under way, leases given back) for a second, and ends the connections."""
        if self._background:
            await asyncio.wait(self._background, timeout=_CLOSE_GRACE_S)
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.channels.close()
        await self.headroom.close()
        await self.durable.close()
        await self._link.close()

    def resource(self, kind: Kind, name: str) -> Resource:
        """A resource of this process's account and region."""
        return Resource(kind, self.settings.account, self.settings.region, name)

    def place_of(self, resource: Resource) -> Place | None:
        """The node of a cluster that serves a resource now; None on one server, or where none does."""
        return self._link.place_of(self.keys.of(resource).meta)

    def in_background(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Starts work that this core owns; a failure in it is logged, for its own retry to mend."""
        task = asyncio.create_task(_logged(work, name), name=f"penstock-{name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began would complain
        return task


async def _logged(work: Coroutine[Any, Any, Any], name: str) -> Any:
    try:
        return await work
    except errors.PenstockError as error:
        log.warning("background_work_failed", work=name, code=error.code, reason=str(error))
        return None
