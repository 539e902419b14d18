"""Health: is the process there, and can it work."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from broker.client import Broker
from broker.errors import PenstockError
from broker.gateway.asgi import Scope, Send, respond

PATH_PREFIX: Final = "/health/"
_ANSWER_WITHIN_S: Final = 5.0
_ASK_EVERY_S: Final = 0.05  # whoever asks more often than this gets the answer that is there


class Health:
    """``/health/live`` and ``/health/ready``, for anybody who asks: probes have no access keys."""

    def __init__(self, broker: Broker) -> None:
        self._broker: Final = broker
        self._asking: asyncio.Task[str | None] | None = None
        self._asked_at_s = 0.0
        self._durability = "unknown"

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answers in JSON: 200 where all is well, 503 with a reason, 404 and 405 for other requests."""
        status, answer = await self._answer(scope["method"], scope["path"].removeprefix(PATH_PREFIX))
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await respond(send, status, headers, msgspec.json.encode(answer))

    async def _answer(self, method: str, name: str) -> tuple[int, dict[str, str]]:
        if name not in {"live", "ready"}:
            return 404, {"status": "unknown", "reason": "there are /health/live and /health/ready"}
        if method not in {"GET", "HEAD"}:
            return 405, {"status": "unknown", "reason": "only GET and HEAD"}
        if name == "live":
            return 200, {"status": "ok"}
        reason = await self.why_not_ready()
        if reason is not None:
            return 503, {"status": "unavailable", "reason": reason}
        return 200, {"status": "ok", "durability": self._durability}

    async def why_not_ready(self) -> str | None:
        """None when Redis answers now and its settings are the promised ones; else a reason without its address."""
        now_s = time.monotonic()
        if self._asking is None or (self._asking.done() and now_s - self._asked_at_s > _ASK_EVERY_S):
            self._asked_at_s = now_s
            self._asking = asyncio.create_task(self._ask(), name="penstock-health")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._broker.core.open()
                self._durability = await self._broker.durability() or "unknown"
        except TimeoutError:
            return f"StoreUnavailable: Redis did not answer within {_ANSWER_WITHIN_S:g} s"
        except PenstockError as error:
            return error.code
        return None
