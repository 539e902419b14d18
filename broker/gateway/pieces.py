"""Answers whose body is sent piece by piece, for as long as the client reads them."""

from __future__ import annotations

import asyncio
from typing import Final

from broker.gateway.asgi import Headers, Send
from broker.gateway.aws.service import Frames
from broker.gateway.protocol import Ending, GuardedProtocol


class StreamedAnswer:
    """Status, headers and the frames that follow."""

    def __init__(self, status: int, headers: Headers, frames: Frames) -> None:
        self._status: Final = status
        self._headers: Final = headers
        self._frames: Final = frames
        self._client_gone = False

    async def send(self, send: Send, connection: GuardedProtocol | None) -> None:
        """Sends it, no faster than the client reads; the frames are closed behind it, and when the client goes.

        A stop of the gateway lets it end; when the grace period is over, its task is cancelled and the connection ends
        without the end of the body.
        """
        try:
            self._watch(connection)
            await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})  # the head goes at once
            while piece := await self._frames.next():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if connection is not None:
                connection.watch(None)
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._client_gone or task is None:
                raise
            task.uncancel()
        finally:
            if connection is not None:
                connection.watch(None)
            self._frames.close()

    def _watch(self, connection: GuardedProtocol | None) -> None:
        task = asyncio.current_task()
        if connection is None or task is None:
            return

        def end(why: Ending) -> None:
            if why == "stopping":
                connection.watch(end)
                return
            self._client_gone = True
            task.cancel()

        connection.watch(end)
