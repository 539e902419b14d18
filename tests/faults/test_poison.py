"""R11: events that end their process, or do what no handler should, among healthy ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.settings import Settings
from tests.faults.history import read_histories
from tests.faults.killer import Killer
from tests.faults.scene import SEED, assert_nothing_left, read_all, report, sized, until, wait_until_empty
from tests.faults.service import Serve

HEALTHY = sized(300, 10_000)
MAX_CRASHES = 3
DEADLY = {"exit": "exit status 3", "segfault": "signal: segmentation fault"}
FAILING = {
    "sys.exit": ("Runtime.ExitError", "exit status 4"),
    "memory": ("MemoryError", ""),
    "recurse": ("RecursionError", "maximum recursion depth exceeded"),
    "loud": ("_Unprintable", "xxx"),
    "unencodable": ("Runtime.MarshalError", "Unable to marshal response"),
}


async def drain(broker: Broker, queue: str) -> list[Any]:
    """All messages of a queue."""
    found = []
    while messages := await broker.queue(queue).receive(10):
        for message in messages:
            found.append(message)
            await message.delete()
    return found


@pytest.mark.timeout(150)
async def test_poison_is_quarantined_with_its_cause_and_its_neighbours_go_on(
    serve: Serve, durable: EmbeddedRedis, short_leases: Settings, tmp_path: Path
) -> None:
    killer, started = Killer(SEED), time.monotonic()
    events = [{"do": "well"}] * HEALTHY + [{"do": word} for word in (*DEADLY, *FAILING)]
    killer.random.shuffle(events)
    async with serve("poison", processes=2, max_calls=20) as (broker, service):
        ids = await broker.invoke_many("swallow", events)
        kinds = {identity: event["do"] for identity, event in zip(ids, events, strict=True)}
        await wait_until_empty(broker, "swallow", timeout_s=100)
        await until(lambda: delivered(broker), timeout_s=20, what="all records have arrived")
        seconds = time.monotonic() - started
        resource = broker.core.resource("function", "swallow")
        await assert_nothing_left(broker, resource)
        records = [json.loads(message.body) for message in await drain(broker, "failed")]
        dead = await drain(broker, "dead")
        deaths = len(list(service.lines("worker_died")))
    async with Broker(durable.url, settings=short_leases) as broker:
        found = await read_all(broker, resource, durable, tmp_path, ids=ids)

    done = {run.event for run in found.runs if run.ended}
    healthy = {identity for identity, kind in kinds.items() if kind == "well"}
    report("R11", seed=SEED, events=len(ids), deaths=deaths, redelivered=found.redelivered, seconds=seconds)
    assert healthy <= done
    by_kind = {kinds[record["requestContext"]["requestId"]]: record for record in records}
    assert sorted(by_kind) == sorted((*DEADLY, *FAILING))
    assert len(records) == len(dead) == len(by_kind)
    errors = {json.loads(message.body)["do"]: message.attributes["ErrorMessage"] for message in dead}
    for kind, cause in DEADLY.items():
        context, payload = by_kind[kind]["requestContext"], by_kind[kind]["responsePayload"]
        assert context["condition"] == "Quarantined"
        assert context["approximateInvokeCount"] == 0
        assert payload["errorType"] == "Runtime.ExitError"
        assert cause in payload["errorMessage"]
        assert cause in errors[kind]
        crashes = [step for step in found.steps if getattr(step, "why", "") == "ended"]
        (poison,) = (found.entries[identity] for identity, of_kind in kinds.items() if of_kind == kind)
        assert sum(step.entry == poison for step in crashes) == MAX_CRASHES + 1
    for kind, (error_type, words) in FAILING.items():
        context, payload = by_kind[kind]["requestContext"], by_kind[kind]["responsePayload"]
        assert context["condition"] == "RetriesExhausted"
        assert context["approximateInvokeCount"] == 1
        assert payload["errorType"] == error_type
        assert words in payload["errorMessage"]


async def delivered(broker: Broker) -> bool:
    return (await broker.function("swallow").counts()).outbox == 0


@pytest.mark.timeout(60)
async def test_one_that_runs_alone_and_never_stops_does_not_hold_up_the_others(serve: Serve, tmp_path: Path) -> None:
    """The first run ends the process, so that all three run alone; there the first one never returns."""
    async with serve("stubborn") as (broker, service):
        started = time.monotonic()
        await broker.invoke_many("cling", [{"s": 600}, {"s": 0}, {"s": 0}])
        await wait_until_empty(broker, "cling", timeout_s=40)
        report("R11 stubborn", deaths=len(list(service.lines("worker_died"))), seconds=time.monotonic() - started)
        ended = [line for line in read_histories(tmp_path) if line.kind == "end"]
        assert len(ended) == 2
