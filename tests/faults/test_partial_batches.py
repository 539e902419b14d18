"""R13: handlers of batches answer in every shape there is, by chance, until all messages are gone."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any, Final

import pytest

from broker import Broker
from broker.settings import Settings
from runtime import App, Context
from tests.faults.scene import SEED, judged, report, sized, until
from tests.runtime.scene import serving

MESSAGES = sized(3_000, 50_000)
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"


def _named(*identifiers: object) -> dict[str, list[Any]]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in identifiers]}


_NOTHING_FAILS: Final[tuple[Any, ...]] = (None, {}, {"batchItemFailures": None}, {"batchItemFailures": []})
_EVERYTHING_FAILS: Final[tuple[Any, ...]] = (
    *([], "", "text", 7, True, {"batchItemFailures": "x"}, {"batchItemFailures": {}}, {"batchItemFailure": []}),
    *(_named(_NOBODY), _named(""), _named(None), _named(3), {"batchItemFailures": [{}]}, {"batchItemFailures": ["x"]}),
)


class Answers:
    """A mapped handler that answers by chance, and keeps by Lambda's table what must become of each message."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self.app = App()
        self.deliveries: Counter[str] = Counter()
        self.deleted: set[str] = set()
        self.shapes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter({"deleted and delivered": 0, "wrong receive counts": 0})
        self._chance = chance
        self.app.queue("letters", name="take", batch_size=size, partial_failures=True)(self.handle)

    async def handle(self, event: dict[str, Any], context: Context) -> Any:
        bodies = {record["messageId"]: record["body"] for record in event["Records"]}
        for record in event["Records"]:
            body = record["body"]
            self.deliveries[body] += 1
            self.faults["deleted and delivered"] += body in self.deleted
            receives = int(record["attributes"]["ApproximateReceiveCount"])
            self.faults["wrong receive counts"] += receives != self.deliveries[body]
        shape = self._chance.choice((self._well, self._well, self._bad, self._some, self._some, self._raise))
        self.shapes[shape.__name__.strip("_")] += 1
        return shape(bodies)

    def _well(self, bodies: dict[str, str]) -> Any:
        self.deleted |= set(bodies.values())
        return self._chance.choice(_NOTHING_FAILS)

    def _bad(self, bodies: dict[str, str]) -> Any:
        bad = self._chance.choice(_EVERYTHING_FAILS)
        if isinstance(bad, dict) and self._chance.random() < 0.5:  # a good name beside it saves nothing
            items = bad.get("batchItemFailures")
            if isinstance(items, list):
                return {"batchItemFailures": [*_named(next(iter(bodies)))["batchItemFailures"], *items]}
        return bad

    def _some(self, bodies: dict[str, str]) -> Any:
        failed = [name for name in bodies if self._chance.random() < 0.3]
        self.deleted |= {body for name, body in bodies.items() if name not in failed}
        named = failed + failed[:2]
        self._chance.shuffle(named)
        return _named(*named)

    def _raise(self, bodies: dict[str, str]) -> Any:
        raise ValueError("no")


async def _gone(broker: Broker, queue: str) -> bool:
    return (await broker.queue(queue).counts()).total == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("size", [1, 10, 10_000])
async def test_every_shape_of_answer_keeps_exactly_what_lambdas_table_says(
    broker: Broker, redis_url: str, settings: Settings, size: int
) -> None:
    chance, started, count = random.Random(SEED), time.monotonic(), MESSAGES // (10 if size == 1 else 1)
    answers = Answers(size, chance)
    queue = broker.queue("letters")
    await queue.create(visibility_timeout=0)
    bodies = [f"letter {number}" for number in range(count)]
    await queue.send_many(bodies)
    async with serving(answers.app, redis_url, settings):
        await until(lambda: _gone(broker, "letters"), timeout_s=100, what="every message is gone")
    lost = set(bodies) - answers.deleted
    report(
        f"R13 {size}",
        seed=SEED,
        messages=count,
        batch_size=size,
        batches=sum(answers.shapes.values()),
        deliveries=sum(answers.deliveries.values()),
        **{f"batches_{name}": number for name, number in sorted(answers.shapes.items())},
        seconds=time.monotonic() - started,
    )
    faults = {"lost": len(lost), **answers.faults}
    judged(**faults)
    assert not any(faults.values()), faults


@pytest.mark.timeout(180)
async def test_batches_of_groups_keep_their_order_whatever_is_answered(
    broker: Broker, redis_url: str, settings: Settings
) -> None:
    """What is named stops its group: what stands behind it in the group must not be gone before it."""
    chance, started = random.Random(SEED), time.monotonic()
    order: dict[str, list[int]] = {}
    app = App()

    async def handle(event: dict[str, Any], context: Context) -> Any:
        records = event["Records"]
        if chance.random() < 0.2:
            raise ValueError("no")
        cut = chance.randint(0, len(records))
        for record in records[:cut]:
            order.setdefault(record["attributes"]["MessageGroupId"], []).append(int(record["body"]))
        return _named(*(record["messageId"] for record in records[cut:]))

    app.queue("letters.fifo", name="take", batch_size=10, partial_failures=True)(handle)
    queue = broker.queue("letters.fifo")
    await queue.create(visibility_timeout=0, content_deduplication=True)
    count = MESSAGES // 10
    for start in range(0, count, 100):
        await queue.send_batch({"body": str(number), "group": f"g{number % 7}"} for number in range(start, start + 100))
    async with serving(app, redis_url, settings):
        await until(lambda: _gone(broker, "letters.fifo"), timeout_s=100, what="every message is gone")
    wrong = sum(numbers != sorted(numbers) for numbers in order.values())
    report("R13 fifo", seed=SEED, messages=count, groups=len(order), seconds=time.monotonic() - started)
    judged(**{"lost": count - sum(map(len, order.values())), "groups out of order": wrong})
    assert sum(map(len, order.values())) == count
    assert not wrong
