"""Workers of a function that is split and has versions and aliases."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from msgspec.structs import replace

from broker import Broker
from broker.functions import change_function, register_function
from broker.ids import id_mark, partition_of
from broker.records import FunctionSettings
from broker.workers import live_workers
from runtime import App, Context
from tests.runtime.scene import Gauge, Serve, empty, eventually

PARTITIONS = 4


class Build:
    """An app of one build, whose function `orders` says what ran and by which build."""

    def __init__(self, name: str, ran: list[tuple[str, str, int]], gauge: Gauge | None = None, **options: Any) -> None:
        self.gauge = gauge or Gauge()
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.app = App(build=name)
        self._ran = ran
        self.app.function(name="orders", **{"timeout": 20, "partitions": PARTITIONS, **options})(self.orders)

    async def orders(self, event: Any, context: Context) -> str:
        partition = partition_of(id_mark(context.aws_request_id) or 0)
        self._ran.append((self.app.build, context.function_version, partition))
        try:
            async with self.gauge:
                await asyncio.sleep(0.002)
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"


async def serves(broker: Broker, process: str) -> set[str]:
    workers = await live_workers(broker.core)
    return next((set(worker.functions) for worker in workers if worker.process == process), set())


async def test_the_function_and_its_versions_run_side_by_side(broker: Broker, serve: Serve) -> None:
    ran: list[tuple[str, str, int]] = []
    async with serve(Build("one", ran).app):
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        names = ("orders", "orders:1", "orders:live")
        ids = {name: [await broker.invoke(name, number) for number in range(8)] for name in names}
        for name in names:
            for request_id in ids[name]:
                assert (await broker.status(request_id, wait=8)).state == "succeeded"
        assert await broker.call("orders:live", {}, timeout=10) == "done"
        assert await broker.call("orders", {}, timeout=10) == "done"
    counted = Counter((version, partition) for _, version, partition in ran)
    assert [counted["$LATEST", partition] for partition in range(1, PARTITIONS)] == [2] * (PARTITIONS - 1)
    assert (counted["$LATEST", 0], counted["1", 0]) == (3, 17)


async def test_one_limit_holds_for_all_partitions_and_versions(broker: Broker, serve: Serve) -> None:
    ran: list[tuple[str, str, int]] = []
    gauge = Gauge()
    await register_function(broker.core, "orders", FunctionSettings(partitions=PARTITIONS))
    async with (
        serve(Build("one", ran, gauge, concurrency=2).app),
        serve(Build("one", ran, gauge, concurrency=2).app),
    ):
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        for number in range(40):
            await broker.invoke("orders", number)
            await broker.invoke("orders:live" if number % 2 else "orders:1", number)
        for name in ("orders", "orders:1", "orders:live"):
            await empty(broker, name)
    assert gauge.most == 2
    assert Counter(version for _, version, _ in ran) == {"$LATEST": 40, "1": 40}


async def test_a_build_stands_back_from_all_partitions_and_takes_them_again(broker: Broker, serve: Serve) -> None:
    ran: list[tuple[str, str, int]] = []
    async with serve(Build("one", ran).app) as one:
        await broker.function("orders").publish()
        await run_everywhere(broker)
        async with serve(Build("two", ran).app):
            await eventually(lambda: _serves(broker, one.process, {"orders:1"}), what="it stands back")
            ran.clear()
            await run_everywhere(broker)
            assert {(build, version) for build, version, _ in ran} == {("two", "$LATEST")}
            assert {partition for _, _, partition in ran} == set(range(PARTITIONS))
        await eventually(lambda: _serves(broker, one.process, {"orders", "orders:1"}), what="it takes over again")
        ran.clear()
        await run_everywhere(broker)
        assert sorted(ran) == [("one", "$LATEST", partition) for partition in range(PARTITIONS) for _ in range(3)]


async def run_everywhere(broker: Broker) -> None:
    """Three events in each partition, and nothing left."""
    for number in range(3 * PARTITIONS):
        await broker.invoke("orders", number)
    await empty(broker, "orders")


async def _serves(broker: Broker, process: str, names: set[str]) -> bool:
    return await serves(broker, process) == names


async def test_growing_reaches_a_worker_that_serves_versions(broker: Broker, serve: Serve) -> None:
    ran: list[tuple[str, str, int]] = []
    async with serve(Build("one", ran, partitions=1).app):
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        resource = broker.function("orders").resource
        await change_function(broker.core, resource, lambda stored: replace(stored, partitions=PARTITIONS))
        await broker.invoke("orders:live", 1)
        await run_everywhere(broker)
        await empty(broker, "orders:live")
    assert {partition for _, version, partition in ran if version == "$LATEST"} >= set(range(1, PARTITIONS))
    assert [partition for _, version, partition in ran if version == "1"] == [0]


async def test_a_running_event_of_an_alias_of_a_split_function_is_cancelled(broker: Broker, serve: Serve) -> None:
    ran: list[tuple[str, str, int]] = []
    build = Build("one", ran)
    build.gate.clear()
    async with serve(build.app):
        await broker.function("orders").publish()
        await broker.function("orders").set_alias("live", 1)
        await broker.invoke("orders:live", 1, id="own")
        made = await broker.invoke("orders:live", 2)
        of_function = [await broker.invoke("orders", number) for number in range(PARTITIONS)]
        await eventually(lambda: build.gauge.now == 2 + PARTITIONS, what="all run")
        assert (await broker.status("own", function="orders:live")).state == "running"
        assert await broker.cancel("own", function="orders:live")
        assert await broker.cancel(made)
        for request_id in of_function:
            assert (await broker.status(request_id)).state == "running"
            assert await broker.cancel(request_id)
        await eventually(lambda: build.cancelled == 2 + PARTITIONS, what="all have ended")
        assert (await broker.status(made)).state == "cancelled"
        assert (await broker.status("own", function="orders:live", wait=1)).condition == "Cancelled"
