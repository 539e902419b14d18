"""A process that does nothing but upkeep, for tests that kill it: ``python -m tests.broker.upkeep_process <url>``."""

from __future__ import annotations

import asyncio
import sys

from broker import Broker
from broker.settings import Settings
from broker.upkeep import Upkeep


async def main(url: str) -> None:
    async with Broker(url, settings=Settings.from_environment()) as broker:
        await Upkeep(broker, look_every_s=1).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
