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
from broker.store.channels import Channels
from broker.store.connection import check_server, connect
from broker.store.directory import DirectoryStore
from broker.store.durable import DurableWrites
from broker.store.headroom import Headroom
from broker.store.keys import Keyspace
from broker.store.logs import LogStore
from broker.store.messages import MessageStore
from broker.store.moves import MoveStore
from broker.store.once import OnceStore
from broker.store.outbox import OutboxStore
from broker.store.parcels import ParcelStore
from broker.store.partitions import PartitionStore
from broker.store.permits import PermitStore
from broker.store.repair import RepairStore
from broker.store.scripts import ScriptRunner, load_scripts
from broker.store.splits import Splits
from broker.store.statuses import StatusStore

_CLOSE_GRACE_S: Final = 1.0


class Core:
    """The stores of one Redis, the channels, and the background work that one process does on it."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address: Final = address
        self._client: Final = connect(address.url)
        self.scripts: Final = load_scripts(test_clock=settings.test_clock)
        self.runner: Final = ScriptRunner(self._client, self.scripts, url=address.url, chosen_by=address.chosen_by)
        self.channels: Final = Channels(self._client)
        self.splits: Final = Splits()
        self.runner.on_demoted = self.channels.renew
        self._background: Final[set[asyncio.Task[Any]]] = set()
        self._see(settings)
        self.headroom: Final = Headroom(self.runner, full_at_percent=settings.full_at_percent)
        self.durable: Final = DurableWrites(self.runner, self.scripts, self.keys, confirm_ms=settings.confirm_ms)

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
        """Checks the server. Errors: the StoreError family, with the address and why it is used."""
        info = await self.runner.fetch("INFO")
        check_server(info, self.address.url)
        self.headroom.note(info)

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
        await self._client.aclose()

    def resource(self, kind: Kind, name: str) -> Resource:
        """A resource of this process's account and region."""
        return Resource(kind, self.settings.account, self.settings.region, name)

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
