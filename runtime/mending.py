"""What a broken-off script has left behind gets a place again; each worker looks for it once."""

from __future__ import annotations

from broker.core import Core
from broker.errors import StoreError
from broker.log import log
from broker.names import Resource


async def mend(core: Core, resource: Resource) -> None:
    """Restores what is stranded in one partition, and tells of it."""
    try:
        restored = await core.repairs.repair(resource)
    except StoreError as error:
        log.warning("repair_failed", resource=resource.arn, reason=str(error))
        return
    if restored:
        log.error("messages_restored", resource=resource.arn, count=restored)
