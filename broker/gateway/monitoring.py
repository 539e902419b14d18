"""What the gateway tells monitoring: ``/metrics`` for Prometheus, ``/scaling/…`` for autoscalers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs, unquote

import msgspec

from broker.client import Broker
from broker.errors import InvalidInput, InvalidOption, NotFound, PenstockError
from broker.exposition import Family, exposition, families, family
from broker.figures import SECONDS, Figures, Histogram, LoopLag, Metric, Tick
from broker.gateway.asgi import Scope, Send, respond
from broker.gateway.aws.service import ServiceError
from broker.gateway.metrics_access import MetricsAccess
from broker.gateway.scaling import work_of_function, work_of_queue
from broker.gateway.stored_figures import STORED, StoredFigures

METRICS_PATH: Final = "/metrics"
SCALING_PREFIX: Final = "/scaling/"
_SCALING: Final = re.compile(r"/scaling/(queue|function)/([^/]{1,300})")
_PAGE: Final = re.compile(r"[1-9][0-9]{0,5}")
_SCOPE: Final = {"account": re.compile(r"[0-9]{12}"), "region": re.compile(r"[a-z0-9-]{1,32}")}
_MAX_PARAMETERS: Final = 20
_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")

_REQUESTS: Final = Metric(
    "penstock_gateway_requests",
    "counter",
    "Requests by what was asked and how it was answered: OK, or the code of the error.",
    ("service", "operation", "code"),
)
_TOOK: Final = Metric(
    "penstock_gateway_request_duration_seconds",
    "histogram",
    "From a request's head to its answer, long polls included.",
    ("service", "operation"),
    SECONDS,
)
_LAG: Final = Metric(
    "penstock_gateway_loop_lag_seconds", "gauge", "The latest that the event loop came round in the last minute."
)
_STORE_UP: Final = Metric("penstock_store_up", "gauge", "Whether Redis gave the figures of this scrape: 1 or 0.")
_RESOURCES: Final = Metric("penstock_resources", "gauge", "Queues and functions that there are, on all pages.")
COUNTED: Final = (_REQUESTS, _TOOK)
GATEWAY: Final = (*COUNTED, _LAG, _STORE_UP, _RESOURCES, *STORED)
"""Every metric of a gateway."""


class Asked:
    """What one request was about, as far as it got: names of ours, not the client's, so their number is bounded."""

    __slots__ = ("code", "operation", "service", "started_s")

    def __init__(self) -> None:
        self.service = self.operation = "unknown"
        self.code = "OK"
        self.started_s = time.monotonic()

    def failed(self, error: ServiceError) -> ServiceError:
        """Notes the error that it is answered with."""
        self.code = error.name
        return error


class GatewayFigures(Figures):
    """What one gateway process counts."""

    def __init__(self) -> None:
        super().__init__(COUNTED)
        self._of: Final = lru_cache(maxsize=None)(self._new)

    def answered(self, asked: Asked) -> None:
        """One request."""
        requests, took = self._of(asked.service, asked.operation, asked.code)
        requests.value += 1
        took.observe(time.monotonic() - asked.started_s)

    def _new(self, service: str, operation: str, code: str) -> tuple[Tick, Histogram]:
        return self.tick(_REQUESTS.name, service, operation, code), self.histogram(_TOOK.name, service, operation)


class Monitoring:
    """Answers monitoring's requests, for those who may see."""

    def __init__(self, broker: Broker, figures: GatewayFigures, access: MetricsAccess) -> None:
        self._broker: Final = broker
        self._figures: Final = figures
        self._access: Final = access
        self._stored: Final = StoredFigures(broker)
        self._lag: LoopLag | None = None

    async def __call__(self, scope: Scope, send: Send) -> None:
        """Answers one request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = self._access.refusal(headers, scope["scheme"])
        if refused is None and scope["method"] not in {"GET", "HEAD"}:
            refused = 405, "only GET and HEAD"
        if refused is not None:
            await _refuse(send, *refused)
            return
        try:
            query = _query(scope["query_string"])
            if scope["path"] == METRICS_PATH:
                await self._send_metrics(send, query, headers.get(b"accept", b"").decode("latin-1"))
            else:
                await self._send_work(send, scope["path"], query)
        except PenstockError as error:
            status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, InvalidInput) else 503
            reason = f"{error.code}: {error}" if status != 503 else error.code  # noqa: PLR2004 - no address of Redis
            await _refuse(send, status, reason)

    # -- metrics ------------------------------------------------------------------------------------------------------

    async def _send_metrics(self, send: Send, query: Mapping[str, str], accept: str) -> None:
        number = query.get("page", "1")
        if not _PAGE.fullmatch(number):
            await _refuse(send, 400, "page must be a whole number from 1 to 999999")
            return
        content_type, text = exposition(await self._families(int(number)), accept)
        await respond(send, 200, [(b"content-type", content_type.encode()), _NO_STORE], text)

    async def _families(self, number: int) -> list[Family]:
        """The first page has this process's own, too."""
        page = await self._stored.page(number)
        found = [family(metric, page.samples.get(metric.name, ())) for metric in STORED]
        found.append(family(_STORE_UP, [((), 0 if page.error else 1)]))
        found.append(family(_RESOURCES, [] if page.error else [((), page.resources)]))
        return found if number > 1 else [*found, *self._own()]

    def _own(self) -> Iterator[Family]:
        if self._lag is None:  # nobody asked before: then it costs nothing
            self._lag = LoopLag()
            self._lag.start()
        yield from families(self._figures, {})
        yield family(_LAG, [((), self._lag.worst_s())])

    # -- scaling ------------------------------------------------------------------------------------------------------

    async def _send_work(self, send: Send, path: str, query: Mapping[str, str]) -> None:
        asked = _SCALING.fullmatch(path)
        if asked is None:
            await _refuse(send, 404, "there are /scaling/queue/NAME and /scaling/function/NAME")
            return
        settings = self._broker.core.settings
        scope = {"account": settings.account, "region": settings.region, **query}
        for option, pattern in _SCOPE.items():
            if not pattern.fullmatch(scope[option]):
                await _refuse(send, 400, f"{option} is none")
                return
        broker = self._broker.within(scope["account"], scope["region"])
        work = await (work_of_queue if asked[1] == "queue" else work_of_function)(broker, unquote(asked[2]))
        await respond(send, 200, [_JSON, _NO_STORE], msgspec.json.encode(work))


def _query(text: bytes) -> dict[str, str]:
    """The parameters; of several under one name the last."""
    try:
        found = parse_qs(text.decode("latin-1"), max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise InvalidOption("query", "...", f"has at most {_MAX_PARAMETERS} parameters") from None
    return {name: values[-1] for name, values in found.items()}


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [_JSON, _NO_STORE, *([(b"www-authenticate", b"Bearer")] if status == 401 else [])]  # noqa: PLR2004
    await respond(send, status, headers, msgspec.json.encode({"reason": reason}))
