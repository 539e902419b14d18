"""The event stream of InvokeWithResponseStream: what a function yields, framed as it comes, and how it ended."""

from __future__ import annotations

from base64 import b64encode
from typing import Final

import msgspec

from broker.call_streams import ChunkReader
from broker.errors import CallTimeout, StoreError
from broker.gateway.aws import event_stream
from broker.gateway.aws.errors import INTERNAL, from_store
from broker.limits import KIB
from broker.log import log

_UNHANDLED: Final = "Unhandled"
_TOGETHER_BYTES: Final = 64 * KIB


class InvokeComplete(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """The last event of the stream."""

    error_code: str | None = None
    """``Unhandled`` when the handler failed, as Invoke's ``X-Amz-Function-Error`` says it."""
    error_details: str | None = None
    """Lambda's error object as JSON."""
    log_result: str | None = None


class EventFrames:
    """The frames of one streamed call; see :class:`broker.gateway.aws.service.Frames`.

    ``timed_out`` is the error object of a call whose worker says nothing until the end of its time.
    """

    def __init__(self, reader: ChunkReader, *, timed_out: bytes) -> None:
        self._reader: Final = reader
        self._timed_out: Final = timed_out
        self._ended = False

    async def next(self) -> bytes:
        """The next frames, those that are there already in one; nothing behind the end."""
        if self._ended:
            return b""
        frames: list[bytes] = []
        size = 0
        while not frames or (size < _TOGETHER_BYTES and self._more_is_there()):
            frames.append(await self._frame())
            size += len(frames[-1])
        return b"".join(frames)

    def _more_is_there(self) -> bool:
        return not self._ended and self._reader.queued()

    async def _frame(self) -> bytes:
        try:
            chunk = await self._reader.next()
        except CallTimeout:
            return self._complete(self._timed_out, b"")
        except StoreError as error:
            self._ended = True
            log.warning("stream_broken_off", request_id=self._reader.request_id, code=error.code, reason=str(error))
            return event_stream.error("ServiceException", (from_store(error) or INTERNAL).message)
        if chunk is not None:
            return event_stream.event("PayloadChunk", chunk, content_type="application/octet-stream")
        end = self._reader.end
        return self._complete(b"", b"") if end is None else self._complete(end.error, end.log_tail)

    def _complete(self, error: bytes, log_tail: bytes) -> bytes:
        self._ended = True
        complete = InvokeComplete(
            error_code=_UNHANDLED if error else None,
            error_details=error.decode() if error else None,
            log_result=b64encode(log_tail).decode() if log_tail else None,
        )
        return event_stream.event("InvokeComplete", msgspec.json.encode(complete), content_type="application/json")

    def close(self) -> None:
        """Cancels what has not ended."""
        self._reader.close()
