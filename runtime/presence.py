"""What a worker process says of itself in the directory of live workers, from its start until it leaves."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

import msgspec

from broker.core import Core
from broker.errors import StoreError
from broker.log import log
from broker.workers import HEARTBEAT_AGAIN_S, HEARTBEAT_S, HEARTBEAT_TTL_MS, Serves
from runtime.serving import Duties


class Presence:
    """Says what the process serves, again and again; once it has left it says nothing more, whoever asks for it."""

    def __init__(self, core: Core, process: str, duties: Duties, *, alone: bool) -> None:
        self._core: Final = core
        self._process: Final = process
        self._duties: Final = duties
        self._alone: Final = alone
        self._left = False
        self._turn: Final = asyncio.Lock()
        """What is said under way when the process leaves must not come behind its leaving."""

    async def tell(self) -> None:
        """Says what is served now. Raises StoreError."""
        async with self._turn:
            if self._left:
                return
            encoded = msgspec.json.encode(self._serves())
            gone = await self._core.directory.heartbeat(self._process, encoded, ttl_ms=HEARTBEAT_TTL_MS)
        for process in gone:
            log.warning("worker_gone", process=process, reason="no sign of life for 30 s")

    async def keep(self) -> None:
        """Tells every ten seconds, until the process leaves."""
        pause_s = HEARTBEAT_S
        while not self._left:
            await asyncio.sleep(pause_s)
            try:
                await self.tell()
                pause_s = HEARTBEAT_S
            except StoreError as error:
                log.debug("heartbeat_failed", reason=str(error))
                pause_s = HEARTBEAT_AGAIN_S

    async def leave(self) -> None:
        """Callers look for another worker from now on."""
        self._left = True
        try:
            async with self._turn:
                await self._core.directory.heartbeat(self._process, b"", ttl_ms=0)
            for function in self._duties.of_builds():
                await self._core.directory.tell_of_versions(function)  # an older build may be the newest by now
        except StoreError as error:
            log.debug("heartbeat_failed", reason=str(error))

    def _serves(self) -> Serves:
        served = self._duties.served
        return Serves(
            process=self._process,
            host=socket.gethostname(),
            pid=os.getpid(),
            functions=tuple(served),
            build=self._duties.build,
            mappings=tuple(
                function.mapping.name
                for name, function in served.items()
                if function.mapping is not None and name == function.name
            ),
            alone=self._alone,
        )
