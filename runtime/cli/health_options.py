"""The port for health and metrics of `penstock runtime`: where it is, or that there is none."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from broker.errors import InvalidOption
from broker.gateway.metrics_access import MetricsToken, read_metrics_token
from runtime.monitor import Monitor

PORT_VARIABLE: Final = "PENSTOCK_HEALTH_PORT"
HOST_VARIABLE: Final = "PENSTOCK_HEALTH_HOST"
DEFAULT_HOST: Final = "127.0.0.1"
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LAST_PORT: Final = 65_535


class HealthPort(msgspec.Struct, frozen=True):
    """Where it listens, and what one must have for the metrics."""

    host: str
    port: int
    token: MetricsToken | None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class HealthOptions:
    """Where the supervisor tells of its workers."""

    health_port: Annotated[
        int | None, Parameter(help=f"Port for health and metrics, 0 for any free one; or {PORT_VARIABLE}; none.")
    ] = None
    health_host: Annotated[
        str | None, Parameter(help=f"Its address; or {HOST_VARIABLE}, else {DEFAULT_HOST}.", show_default=False)
    ] = None

    def read(self, environment: Mapping[str, str] = os.environ) -> HealthPort | None:
        """What is given, else what the environment says; None where there is to be no port. Raises InvalidOption."""
        option, text = "health-port", "" if self.health_port is None else str(self.health_port)
        if self.health_port is None:
            option, text = PORT_VARIABLE, environment.get(PORT_VARIABLE, "")
        if not text:
            return None
        if not _PORT.fullmatch(text) or int(text) > _LAST_PORT:
            raise InvalidOption(option, text, f"must be a port from 0 (any free one) to {_LAST_PORT}")
        host = self.health_host or environment.get(HOST_VARIABLE) or DEFAULT_HOST
        return HealthPort(host, int(text), read_metrics_token(environment))


NO_HEALTH_PORT: Final = HealthOptions()
"""The defaults, as a signature needs them."""


@asynccontextmanager
async def serving_health(place: HealthPort | None, monitor: Monitor | None) -> AsyncIterator[None]:
    """Serves there while the block runs, if there is such a place. Raises AddressUnusable."""
    if place is None or monitor is None:
        yield
        return
    from broker.gateway.server import AddressUnusable
    from runtime.health_port import serve_monitor

    try:
        async with serve_monitor(monitor, place.host, place.port, token=place.token):
            yield
    except AddressUnusable as error:
        options = "--health-port, or --health-host"
        raise AddressUnusable(error.host, error.port, error.reason, options=options) from None
