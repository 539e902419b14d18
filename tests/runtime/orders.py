"""A mapped queue, ``orders``, for the tests of mappings: its handler, and waiting for what becomes of its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker import Broker
from broker.store.values import Counts
from runtime import App, Context
from tests.runtime.scene import eventually

VISIBILITY_S = 30


class Orders:
    """A mapped handler that answers what it is told to, and the batches it got."""

    def __init__(self, answer: Callable[[list[Any]], Any] = lambda _: None, **options: Any) -> None:
        self.app = App()
        self.batches: list[list[dict[str, Any]]] = []
        self.answer = answer
        self.app.queue("orders", **options)(self.handle)

    async def handle(self, event: dict[str, Any], context: Context) -> Any:
        self.batches.append(event["Records"])
        return self.answer(event["Records"])

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for batch in self.batches for record in batch]


def failing(records: list[Any]) -> Any:
    raise ValueError("no")


def naming(*bodies: str) -> Callable[[list[Any]], Any]:
    """Names the messages of those bodies as failed."""

    def answer(records: list[Any]) -> Any:
        ids = [record["messageId"] for record in records if record["body"] in bodies]
        return {"batchItemFailures": [{"itemIdentifier": name} for name in ids]}

    return answer


async def counts(broker: Broker, queue: str = "orders") -> Counts:
    return await broker.queue(queue).counts()


async def settled(broker: Broker, queue: str = "orders", *, left: int = 0) -> None:
    """Returns when nothing is in flight and so many wait to be visible again."""

    async def look() -> bool:
        found = await counts(broker, queue)
        return found.total == found.retrying == left and found.outbox == 0

    await eventually(look, what=f"{left} messages left, none in flight")


async def fill(broker: Broker, bodies: list[Any], *, visibility_s: float = VISIBILITY_S) -> list[str]:
    queue = broker.queue("orders")
    await queue.create(visibility_timeout=visibility_s)
    return await queue.send_many(bodies)
