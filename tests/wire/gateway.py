"""A gateway on a real socket, in a thread of its own, and the clock of its Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from broker import Broker
from broker.gateway.access import AccessKey
from broker.gateway.options import GatewayOptions
from broker.gateway.running import run_gateway
from broker.settings import Settings
from tests.conftest import Clock, clock_offset_ms, set_clock
from tests.wire.clients import REGION

T = TypeVar("T")


class Gateway:
    """Where a running gateway is reached, and the broker behind it."""

    def __init__(self, portal: BlockingPortal, broker: Broker, *, url: str) -> None:
        self._portal = portal
        self._broker = broker
        self.url = url

    def run(self, function: Callable[[Broker], Awaitable[T]], *, account: str, region: str = REGION) -> T:
        """Runs a coroutine function on the gateway's event loop, with a broker that sees one account."""
        return self._portal.call(function, self._broker.within(account, region))

    def advance(self, seconds: float, *, account: str, region: str = REGION) -> None:
        """Lets so many seconds pass in Redis, and wakes whoever waits in the account."""
        self.run(lambda broker: Clock(broker).advance(seconds), account=account, region=region)

    def now_ms(self) -> int:
        """The time that Redis's scripts see."""

        async def read(broker: Broker) -> int:
            seconds, microseconds = await broker.core.runner.fetch("TIME")
            return int(seconds) * 1000 + int(microseconds) // 1000 + await clock_offset_ms(broker.core.runner)

        return self._portal.call(read, self._broker)

    def reset_clock(self) -> None:
        """Goes back to the real time."""
        self._portal.call(set_clock, self._broker.core.runner)


class WireClock:
    """Moves the time of the gateway's Redis, as the test's account sees it."""

    def __init__(self, gateway: Gateway, account: str) -> None:
        self._gateway = gateway
        self._account = account

    def advance(self, seconds: float) -> None:
        """Lets so many seconds pass."""
        self._gateway.advance(seconds, account=self._account)

    def now_ms(self) -> int:
        """The time now."""
        return self._gateway.now_ms()


@contextmanager
def running_gateway(redis_url: str, settings: Settings, *keys: AccessKey) -> Iterator[Gateway]:
    """A gateway with these access keys, or none, on a free port of the loopback interface, over its own broker."""
    options = GatewayOptions(host="127.0.0.1", port=0, keys=keys)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Broker(redis_url, settings=settings)) as broker,
        portal.wrap_async_context_manager(run_gateway(broker, options, grace_s=1.0)) as bound,
    ):
        yield Gateway(portal, broker, url=bound.url)
