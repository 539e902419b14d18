"""What the doctor says of servers and of what is in them, each time with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import Broker, Queue
from broker.core import Core
from broker.doctor.advisories import open_advisories
from broker.doctor.checkup import Checkup
from broker.doctor.findings import Finding, worst
from broker.doctor.server_checks import Rights, ServerFacts, server_findings
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.mappings import register_mapping
from broker.records import FunctionSettings, MappingSettings
from broker.settings import Address, Settings
from broker.store.server import InForce
from broker.workers import Serves
from tests.conftest import Clock

# -- known vulnerabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ((6, 2, 14), 5),
        ((6, 2, 20), 0),
        ((7, 0, 15), 5),
        ((7, 2, 11), 1),
        ((7, 4, 6), 1),
        ((8, 2, 1), 3),
        ((8, 6, 3), 0),
    ],
)
def test_a_release_of_redis_has_what_its_line_has_not_mended(version: tuple[int, ...], number: int) -> None:
    assert len(open_advisories("redis", version)) == number


def test_a_line_that_never_got_the_fix_has_the_vulnerability() -> None:
    names = [advisory.name for advisory in open_advisories("redis", (7, 0, 15))]
    assert any("CVE-2025-49844" in name for name in names)
    assert not any("CVE-2025-62507" in name for name in names)


@pytest.mark.parametrize(("version", "number"), [((8, 0, 5), 2), ((8, 0, 8), 0), ((8, 1, 4), 1), ((9, 1, 1), 0)])
def test_valkey_has_its_own_numbers(version: tuple[int, ...], number: int) -> None:
    assert len(open_advisories("valkey", version)) == number


# -- the server -------------------------------------------------------------------------------------------------------

WELL: dict[str, Any] = {
    "place": "Redis at redis://r",
    "info": {
        "redis_version": "8.6.3",
        "role": "master",
        "maxmemory": "1000000",
        "used_memory": "100000",
        "maxmemory_policy": "noeviction",
        "connected_slaves": "1",
        "slave0": "ip=a,state=online",
    },
    "in_force": InForce("fsync", "appendfsync is always"),
    "rights": Rights("penstock"),
    "clock_off_s": 0.01,
    "answers_ms": (0.2, 0.3),
    "scripts_loaded": 3,
    "scripts": 50,
    "full_at_percent": 90,
}


def said(**changes: Any) -> dict[str, Finding]:
    info = WELL["info"] | changes.pop("info", {})
    return {finding.check: finding for finding in server_findings(ServerFacts(**{**WELL, **changes, "info": info}))}


def test_valkey_is_called_by_its_own_version() -> None:
    assert said(info={"redis_version": "7.2.4", "valkey_version": "9.1.2"})["version"].text == "valkey 9.1.2"


def test_a_good_server_is_all_well() -> None:
    findings = list(said().values())
    assert worst(findings) == "ok", findings
    assert not any(finding.advice for finding in findings)


@pytest.mark.parametrize(
    ("changes", "check", "severity", "words"),
    [
        ({"info": {"redis_version": "6.0.9"}}, "version", "error", "too old"),
        ({"info": {"redis_version": "6.2.14"}}, "vulnerabilities", "warning", "CVE-2025-49844"),
        ({"info": {"valkey_version": "8.0.5"}}, "vulnerabilities", "warning", "valkey 8.0.5 has"),
        ({"info": {"role": "slave"}}, "role", "error", "replica"),
        ({"info": {"maxmemory_policy": "allkeys-lru"}}, "eviction", "error", "allkeys-lru throws events away"),
        ({"info": {"maxmemory": "0"}}, "memory", "warning", "without limit"),
        ({"info": {"used_memory": "750000"}}, "memory", "warning", "soon have to wait"),
        ({"info": {"used_memory": "950000"}}, "memory", "error", "95.0 %"),
        ({"in_force": InForce("memory", "there is no file")}, "durability", "warning", "there is no file"),
        ({"in_force": InForce(None, "not shown")}, "durability", "note", "not shown"),
        ({"info": {"aof_last_write_status": "err"}}, "disk", "error", "aof_last_write_status"),
        ({"info": {"aof_delayed_fsync": "7"}}, "disk", "note", "7 writes waited"),
        ({"info": {"connected_slaves": "2"}}, "replicas", "warning", "1 of 2"),
        ({"info": {"connected_slaves": "0", "slave0": ""}}, "replicas", "note", "none"),
        ({"answers_ms": (20.0, 30.0)}, "latency", "warning", "25.0 ms"),
        ({"clock_off_s": -5.0}, "clock", "warning", "5.00 s behind"),
        ({"clock_off_s": 90.0}, "clock", "error", "ahead of"),
        ({"rights": Rights("penstock", lacking=("xrange",))}, "rights", "error", "xrange"),
        ({"rights": Rights("default", too_much=("acl", "keys"))}, "access", "note", "the default user"),
    ],
)
def test_what_is_wrong_with_a_server_is_named_with_what_to_do(
    changes: dict[str, Any], check: str, severity: str, words: str
) -> None:
    finding = said(**changes)[check]
    assert finding.severity == severity
    assert words in finding.text
    assert finding.advice


# -- what is in it ----------------------------------------------------------------------------------------------------


async def looked(broker: Broker, *, repair: bool = False) -> list[Finding]:
    """All findings about what is not the server."""
    checkup = Checkup(broker.core, watch_s=0, progress=lambda _: None, repair=repair)
    place = broker.core.runner.place
    return [finding async for finding in checkup.run() if finding.subject != place]


def of(findings: list[Finding], check: str, subject: str) -> Finding:
    (found,) = [finding for finding in findings if (finding.check, finding.subject) == (check, subject)]
    return found


async def test_an_old_backlog_and_a_function_that_nobody_serves_are_named(broker: Broker, clock: Clock) -> None:
    await broker.queue("orders").create()
    await broker.queue("orders").send("x")
    await register_function(broker.core, "work", FunctionSettings())
    await broker.invoke("work", {})
    await broker.function("work").pause()
    await clock.advance(7_200)
    findings = await looked(broker)
    backlog = of(findings, "backlog", 'queue "orders"')
    assert (backlog.severity, "the oldest for 720" in backlog.text) == ("note", True)
    assert of(findings, "workers", 'function "work"').severity == "error"
    assert of(findings, "pause", 'function "work"').advice == "`penstock resume work`"


async def test_workers_that_all_went_without_a_word_do_not_count(broker: Broker, clock: Clock) -> None:
    """Nobody is left to forget them."""
    await register_function(broker.core, "work", FunctionSettings())
    await register_mapping(broker.core, MappingSettings(queue="orders", function="work"))
    serves = Serves(process="p", functions=("work",), mappings=("orders->work",))
    await broker.core.directory.heartbeat("p", msgspec.json.encode(serves), ttl_ms=30_000)
    await broker.invoke("work", {})
    findings = await looked(broker)
    assert "workers" not in {finding.check for finding in findings}
    assert of(findings, "mapping", 'mapping "orders->work"').severity == "ok"
    await clock.advance(31)
    findings = await looked(broker)
    assert of(findings, "workers", 'function "work"').severity == "error"
    assert of(findings, "mapping", 'mapping "orders->work"').severity == "warning"


async def test_an_outbox_whose_target_is_gone_or_that_nobody_sends_on_is_named(broker: Broker, clock: Clock) -> None:
    queue = broker.queue("orders")
    await queue.create(dead_letter=Queue("dead"), max_receives=1, visibility_timeout=0)
    await queue.send("poor")
    desk = await broker.core.messages.claim(queue.resource, token="r1", lease_ms=0, room=1, mode="receive")
    assert len(desk.messages) == 1
    await broker.core.messages.claim(queue.resource, token="r2", lease_ms=0, room=1, mode="receive")
    await clock.advance(120)
    assert "overdue" in of(await looked(broker), "outbox", 'queue "orders"').text
    await broker.queue("dead").delete(force=True)
    for _ in range(4):
        await broker.deliver(queue.resource)
        await clock.advance(600)
    finding = of(await looked(broker), "outbox", 'queue "orders"')
    assert 'attempts to dead failed: queue "dead" does not exist' in finding.text


async def test_mappings_that_nothing_is_behind_are_named(broker: Broker) -> None:
    await register_function(broker.core, "work", FunctionSettings())
    await register_mapping(broker.core, MappingSettings(queue="orders", function="work"))
    unpolled = of(await looked(broker), "mapping", 'mapping "orders->work"')
    assert (unpolled.severity, unpolled.text) == ("warning", "no live worker polls for it")
    assert "`penstock runtime`" in unpolled.advice
    assert '`penstock delete mapping "orders->work"`' in unpolled.advice
    await broker.queue("orders").send_many(["a", "b"])
    waiting = of(await looked(broker), "mapping", 'mapping "orders->work"')
    text = "2 messages wait in its queue, and no live worker polls for it"
    assert (waiting.severity, waiting.text, waiting.advice) == ("error", text, unpolled.advice)
    await register_mapping(broker.core, MappingSettings(queue="rare", function="work", enabled=False, origin="api"))
    disabled = of(await looked(broker), "mapping", 'mapping "rare->work"')
    assert (disabled.severity, "update-event-source-mapping --enabled" in disabled.advice) == ("note", True)
    await broker.queue("orders").delete(force=True)
    finding = of(await looked(broker), "mapping", 'mapping "orders->work"')
    assert (finding.severity, 'queue "orders" does not exist' in finding.text) == ("error", True)


async def test_a_durability_that_is_not_given_is_named(broker: Broker) -> None:
    await broker.queue("orders").create()
    await broker.queue("other").create(durability="memory")
    described = await broker.core.directory.describe(broker.queue("orders").resource)
    assert described is not None
    # It was given when the queue was made.
    settings = msgspec.json.encode({**msgspec.json.decode(described.settings), "durability": "fsync"})
    await broker.core.directory.configure(broker.queue("orders").resource, settings, {}, mode="replace")
    findings = await looked(broker)
    assert of(findings, "durability", 'queue "orders"').severity == "error"
    assert of(findings, "durability", 'queue "other"').severity == "ok"


async def test_a_message_in_no_set_is_named_and_repaired(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()
    await queue.send("x", delay=900)
    key = broker.core.keys.of(queue.resource)
    await broker.core.runner.fetch("DEL", key.delayed)
    assert of(await looked(broker), "stranded", 'queue "orders"').severity == "error"
    repaired = of(await looked(broker, repair=True), "repair", 'queue "orders"')
    assert repaired.text == "1 messages were given a place again"
    assert not [finding for finding in await looked(broker) if finding.check == "stranded"]


async def test_every_account_and_region_is_looked_at(broker: Broker) -> None:
    await broker.queue("here").create()
    await broker.within("111111111111", "eu-west-1").queue("there").create()
    subjects = {finding.subject for finding in await looked(broker)}
    assert {'queue "here"', 'queue "there"'} <= subjects


async def test_nothing_is_scanned_and_a_long_queue_costs_what_a_short_one_does(broker: Broker) -> None:
    queue = broker.queue("orders")
    await queue.create()

    async def calls() -> int:
        await broker.core.runner.fetch("CONFIG", "RESETSTAT")
        await looked(broker)
        lines = (await broker.core.runner.fetch("INFO", "commandstats")).decode().splitlines()
        stats = [line.partition(":calls=") for line in lines[1:] if line]
        used = {name: int(rest.partition(",")[0]) for name, _, rest in stats}
        assert "cmdstat_keys" not in used
        assert used.get("cmdstat_hscan", 0) <= 1, "whether our user may, on a key that is not there"
        return sum(number for name, number in used.items() if name not in {"cmdstat_ping", "cmdstat_time"})

    few = await calls()
    await queue.send_many([str(number) for number in range(5_000)])
    assert abs(await calls() - few) <= 5


async def test_a_server_that_penstock_refuses_is_diagnosed(tmp_path: Path) -> None:
    options = {"maxmemory-policy": "allkeys-lru"}
    with EmbeddedRedis(tmp_path / "r", append_only=False, options=options) as server:
        core = Core(Address(server.url, "the URL given"), Settings())
        try:
            findings = [each async for each in Checkup(core, watch_s=0, progress=lambda _: None).run()]
        finally:
            await core.close()
    assert [each.check for each in findings if each.severity == "error"] == ["eviction"]
