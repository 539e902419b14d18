"""R25: somebody, or a broken disk, has written over stored messages."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import msgspec
import pytest

from broker import Broker
from broker.outgoing import event_message
from broker.store.values import Stored
from tests.faults.history import read_histories
from tests.faults.scene import SEED, assert_nothing_left, judged, report, sized, until, wait_until_empty
from tests.faults.service import Serve
from tests.faults.test_poison import drain

HEALTHY = sized(500, 10_000)
OF_A_KIND = sized(5, 50)
DELAY_MS = 1_500
KINDS = ("random bytes", "nothing", "a cut body", "no body", "random counters", "cut counters")


async def damage(broker: Broker, kind: str, entry: str, chance: random.Random) -> None:
    """Writes over one message that is stored in the hash."""
    fetch, keys = broker.core.runner.fetch, broker.core.keys.of(broker.core.resource("function", "swallow"))
    match kind:
        case "random bytes":
            await fetch("HSET", keys.bodies, entry, chance.randbytes(60))
        case "nothing":
            await fetch("HSET", keys.bodies, entry, "")
        case "a cut body":
            body: bytes = await fetch("HGET", keys.bodies, entry)
            await fetch("HSET", keys.bodies, entry, body[: len(body) // 2])
        case "no body":
            await fetch("HDEL", keys.bodies, entry)
        case "random counters":
            await fetch("HSET", keys.facts, entry, chance.randbytes(20))
        case _:
            await fetch("HSET", keys.facts, entry, "1,0")


@pytest.mark.timeout(150)
async def test_what_is_damaged_is_set_aside_and_the_rest_flows(serve: Serve, tmp_path: Path) -> None:
    chance, started = random.Random(SEED), time.monotonic()
    async with serve("poison", processes=2) as (broker, service):
        function = broker.function("swallow")
        await function.pause()
        kinds: dict[str, str] = {}
        resource = broker.core.resource("function", "swallow")
        late = msgspec.structs.replace(event_message("swallow", {"do": "well"}), delay_ms=DELAY_MS)
        for kind in KINDS:
            stored = await broker.core.messages.send(resource, [late] * OF_A_KIND, token=kind, bucket="damage")
            assert isinstance(stored, Stored)
            for number in range(OF_A_KIND):
                kinds[stored.id(number)] = kind
                await damage(broker, kind, stored.entry(number), chance)
        healthy = await broker.invoke_many("swallow", [{"do": "well"}] * HEALTHY)
        await function.resume()
        await wait_until_empty(broker, "swallow", timeout_s=60)

        async def delivered() -> bool:
            return (await function.counts()).outbox == 0

        await until(delivered, timeout_s=20, what="all records have arrived")
        await assert_nothing_left(broker, resource)
        records = [json.loads(message.body) for message in await drain(broker, "failed")]
        dead = await drain(broker, "dead")
        deaths = len(list(service.lines("worker_died")))
    done = {line.event for line in read_histories(tmp_path) if line.kind == "end"}
    told = {record["requestContext"]["requestId"] for record in records}
    report(
        "R25",
        seed=SEED,
        healthy=HEALTHY,
        damaged=len(kinds),
        **{
            f"{kind}: handled, set aside": f"{sum(i in done for i in of)}, {sum(i in told for i in of)}"
            for kind in KINDS
            if (of := [identity for identity, each in kinds.items() if each == kind])
        },
        dead_letters=len(dead),
        worker_deaths=deaths,
        seconds=time.monotonic() - started,
    )
    silent = [kind for identity, kind in kinds.items() if identity not in done | told and kind != "no body"]
    judged(**{"lost": len(set(healthy) - done), "damaged without a word": len(silent)})
    assert set(healthy) <= done
    assert not silent
    assert deaths == 0
