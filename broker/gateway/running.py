"""A whole gateway, put together: the application, its port, and the upkeep of what lies in the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.client import Broker
from broker.gateway.access import Access
from broker.gateway.app import gateway_app
from broker.gateway.hosts import Hosts
from broker.gateway.options import GatewayOptions
from broker.gateway.server import DEFAULT_GRACE_S, Bound, serve
from broker.log import log
from broker.upkeep import Upkeep


@asynccontextmanager
async def run_gateway(
    broker: Broker, options: GatewayOptions, *, grace_s: float = DEFAULT_GRACE_S, upkeep: bool = True
) -> AsyncIterator[Bound]:
    """Serves on an open broker while the block runs; gives the address. Raises AddressUnusable.

    ``upkeep`` runs move tasks and the other chores here too; any number of processes may.
    """
    settings = broker.core.settings
    access = Access(options.keys, account=settings.account, region=settings.region)
    hosts = Hosts(public_url=options.public_url, known=(options.host,), guarded=not access.verified)
    app = gateway_app(broker, access, hosts=hosts, metrics_token=options.metrics_token)
    async with serve(app, options.host, options.port, grace_s=grace_s) as bound:
        chores = asyncio.create_task(Upkeep(broker).run(), name="penstock-upkeep") if upkeep else None
        log.info("gateway_listening", url=bound.url, public_url=options.public_url, signed=access.verified)
        if not access.verified:
            log.warning("gateway_open", reason="no access keys are set: every program on this machine may call")
        try:
            yield bound
        finally:
            if chores is not None:
                chores.cancel()
                await asyncio.gather(chores, return_exceptions=True)
