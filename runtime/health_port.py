"""The port on which a supervisor tells whoever watches of its workers: health, and metrics for Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from broker.exposition import exposition, families
from broker.gateway.asgi import Scope, Send, respond
from broker.gateway.health import PATH_PREFIX
from broker.gateway.hosts import Hosts
from broker.gateway.metrics_access import MetricsAccess, MetricsToken
from broker.gateway.server import Bound, is_loopback, serve
from broker.log import log
from runtime.monitor import Monitor

_GRACE_S: Final = 1.0
_NO_STORE: Final = (b"cache-control", b"no-store")


class _App:
    """``/health/live``, ``/health/ready`` for everybody, ``/metrics`` for those who may see."""

    def __init__(self, monitor: Monitor, access: MetricsAccess) -> None:
        self._monitor: Final = monitor
        self._access: Final = access

    async def __call__(self, scope: Scope, _receive: object, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        status, content_type, body = await self._answer(scope, headers)
        more = [(b"www-authenticate", b"Bearer")] if status == 401 else []  # noqa: PLR2004 - Unauthorized
        await respond(send, status, [(b"content-type", content_type.encode()), _NO_STORE, *more], body)

    async def _answer(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, str, bytes]:
        path = scope["path"]
        if path not in {"/metrics", f"{PATH_PREFIX}live", f"{PATH_PREFIX}ready"}:
            return _said(404, "there are /health/live, /health/ready and /metrics")
        if scope["method"] not in {"GET", "HEAD"}:
            return _said(405, "only GET and HEAD")
        if path == "/metrics":
            refused = self._access.refusal(headers, scope["scheme"])
            if refused is not None:
                return _said(*refused)
            return 200, *self._metrics(headers.get(b"accept", b"").decode("latin-1"))
        reason = await self._monitor.why_not_ready() if path.endswith("ready") else None
        return _said(200 if reason is None else 503, reason)

    def _metrics(self, accept: str) -> tuple[str, bytes]:
        return exposition(families(self._monitor.figures, self._monitor.gauges()), accept)


def _said(status: int, reason: str | None) -> tuple[int, str, bytes]:
    word = "ok" if reason is None else "unavailable" if status == 503 else "unknown"  # noqa: PLR2004 - by the status
    answer = {"status": word, **({} if reason is None else {"reason": reason})}
    return status, "application/json", msgspec.json.encode(answer)


@asynccontextmanager
async def serve_monitor(monitor: Monitor, host: str, port: int, *, token: MetricsToken | None) -> AsyncIterator[Bound]:
    """Serves while the block runs, and gives the address. Without a token metrics are for this machine's programs
    alone, and closed where other machines reach the port. Raises AddressUnusable."""
    access = MetricsAccess(token, Hosts(known=(host,)), open_to_machine=is_loopback(host))
    async with serve(_App(monitor, access), host, port, grace_s=_GRACE_S) as bound:
        log.info("health_listening", url=bound.url)
        yield bound
