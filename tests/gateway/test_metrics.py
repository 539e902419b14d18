"""What a gateway tells Prometheus and autoscalers, and whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.errors import InvalidOption
from broker.functions import register_function
from broker.gateway import stored_figures
from broker.gateway.access import Access, AccessKey
from broker.gateway.app import gateway_app
from broker.gateway.metrics_access import MetricsToken, read_metrics_token
from broker.gateway.options import GatewayOptions
from broker.gateway.server import Bound
from broker.mappings import register_mapping
from broker.records import FunctionSettings, MappingSettings
from tests.conftest import Clock
from tests.gateway.scraping import answer_of, get, scrape
from tests.gateway.tiny import asked, json_request, serving

TOKEN = "0123456789abcdef"
KEY = AccessKey("AKIDONE", "secret")


@asynccontextmanager
async def gateway(broker: Broker, *, keys: tuple[AccessKey, ...] = (), token: str = "") -> AsyncIterator[Bound]:
    app = gateway_app(broker, Access(keys), metrics_token=MetricsToken(token) if token else None)
    async with serving(app) as bound:
        yield bound


async def test_a_scrape_tells_where_messages_are_and_what_became_of_them(broker: Broker, clock: Clock) -> None:
    orders = broker.queue("orders")
    await orders.create()
    await broker.queue("empty.fifo").create()
    for number in range(5):
        await orders.send(str(number))
    await orders.send("later", delay=600)
    first, _ = await orders.receive(2)
    await first.delete()
    await clock.advance(30)
    async with gateway(broker) as bound:
        found = await scrape(bound)
    whose = {"kind": "queue", "name": "orders", "account": "000000000000", "region": "us-east-1"}
    states = {state: found.one("penstock_messages", state=state, **whose) for state in stored_figures.STATES}
    assert states == {"visible": 4, "in_flight": 0, "retrying": 0, "delayed": 1, "set_apart": 0, "outbox": 0}
    assert found.one("penstock_messages_sent_total", **whose) == 6
    assert found.one("penstock_messages_deleted_total", **whose) == 1
    assert 30 <= found.one("penstock_oldest_message_age_seconds", **whose) < 60
    assert found.one("penstock_oldest_message_age_seconds", name="empty.fifo") == 0
    assert found.one("penstock_store_up") == 1
    assert found.one("penstock_resources") == 2
    assert found.all("penstock_messages_throttled_total", **whose) == []


async def test_calls_beyond_the_limit_are_counted_wherever_they_come_from(broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings(concurrency=1))
    permits = broker.core.permits
    resource = broker.core.resource("function", "orders")
    await broker.core.runner.fetch("ZADD", broker.core.keys.of(resource).permits, "inf", "somebody")
    status = await permits.call(resource, call_id="c", permit_ms=60_000, process="nowhere", notice=b"n")
    assert status == "throttled"
    async with gateway(broker) as bound:
        found = await scrape(bound)
    assert found.one("penstock_messages_throttled_total", kind="function", name="orders") == 1
    assert found.one("penstock_concurrency_in_use", name="orders") == 1


async def test_requests_are_counted_by_what_was_asked_and_how_it_was_answered(broker: Broker) -> None:
    async with gateway(broker) as bound:
        await asked(bound, json_request("CreateQueue", {"QueueName": "q"}))
        await asked(bound, json_request("GetQueueUrl", {"QueueName": "other"}))
        await asked(bound, json_request("Made\u00dcp", {}))
        found = await scrape(bound)
        again = await scrape(bound)
    requests = "penstock_gateway_requests_total"
    assert found.one(requests, service="sqs", operation="CreateQueue", code="OK") == 1
    assert found.one(requests, service="sqs", operation="GetQueueUrl", code="QueueDoesNotExist") == 1
    assert found.one(requests, service="unknown", operation="unknown") == 1
    assert found.one("penstock_gateway_request_duration_seconds_count", operation="CreateQueue") == 1
    assert found.one("penstock_gateway_request_duration_seconds_bucket", operation="CreateQueue", le="+Inf") == 1
    assert found.one("penstock_gateway_loop_lag_seconds") >= 0
    assert again.sum(requests) == 3  # scrapes are none of them


async def test_openmetrics_is_spoken_to_who_asks_for_it(broker: Broker) -> None:
    await broker.queue("orders").create()
    async with gateway(broker) as bound:
        answer = await answer_of(
            bound, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.1"
        )
        found = await scrape(bound, Accept="application/openmetrics-text")
        odd = await answer_of(bound, "/metrics", Accept="text/plain;version=x;escaping=\u00fc")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
    assert found.one("penstock_messages_sent_total", name="orders") == 0
    assert odd.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_more_resources_than_a_page_holds_are_on_the_next_ones(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_figures, "PER_PAGE", 2)
    for name in "abc":
        await broker.queue(name).create()
    async with gateway(broker) as bound:
        pages = [await scrape(bound, f"/metrics?page={number}") for number in (1, 2, 3)]
        bad = [await answer_of(bound, f"/metrics?page={number}") for number in ("0", "-1", "x", "1" * 99, "%00")]
    sent = [len(page.all("penstock_messages_sent_total")) for page in pages]
    assert sent == [2, 1, 0]
    assert [page.one("penstock_resources") for page in pages] == [3, 3, 3]
    assert [len(page.all("penstock_gateway_loop_lag_seconds")) for page in pages] == [1, 0, 0]
    assert {answer.status for answer in bad} == {400}


async def test_scrapes_within_a_second_read_redis_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_figures, "_FRESH_S", 600.0)  # however long the five take here
    real, reads = stored_figures.StoredFigures._read, list[int]()

    async def counted(self: stored_figures.StoredFigures, number: int) -> stored_figures.Page:
        reads.append(number)
        return await real(self, number)

    monkeypatch.setattr(stored_figures.StoredFigures, "_read", counted)
    await broker.queue("orders").create()
    async with gateway(broker) as bound:
        for _ in range(5):
            assert (await scrape(bound)).one("penstock_messages_sent_total", name="orders") == 0
    assert reads == [1]


async def test_without_redis_the_gateways_own_figures_are_there_and_it_is_said(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, append_only=False) as redis:
        async with Broker(redis.url) as broker, gateway(broker) as bound:
            await asked(bound, json_request("ListQueues", {}))
            redis.stop()
            found = await scrape(bound)
            work = await answer_of(bound, "/scaling/queue/orders")
    assert found.one("penstock_store_up") == 0
    assert found.all("penstock_messages") == []
    assert found.one("penstock_gateway_requests_total", operation="ListQueues", code="OK") == 1
    assert (work.status, work.json) == (503, {"reason": "StoreUnavailable"})


# -- scaling ----------------------------------------------------------------------------------------------------------


async def test_the_work_of_a_function_is_its_events_and_those_of_the_queues_mapped_to_it(broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings())
    for name, enabled in (("in", True), ("off", False)):
        await broker.queue(name).create()
        await register_mapping(broker.core, MappingSettings(queue=name, function="orders", enabled=enabled))
        await broker.queue(name).send("x")
    await broker.queue("in").send("y")
    await broker.queue("in").receive(1)
    await broker.invoke("orders", {})
    async with gateway(broker) as bound:
        work = (await answer_of(bound, "/scaling/function/orders")).json
        alone = (await answer_of(bound, "/scaling/queue/in")).json
        await broker.function("orders").pause()
        paused = (await answer_of(bound, "/scaling/function/orders")).json
    assert (work["value"], work["backlog"], work["in_flight"]) == (3, 3, 1)
    assert work["own"]["value"] == 1
    assert {each["queue"]: each["value"] for each in work["mappings"]} == {"in": 2, "off": 0}
    assert (alone["value"], alone["backlog"], alone["in_flight"]) == (2, 1, 1)
    assert (paused["value"], paused["backlog"], paused["rests"]) == (1, 3, True)


async def test_what_waits_counts_also_where_no_worker_is_left(broker: Broker) -> None:
    await register_function(broker.core, "orders", FunctionSettings())
    await broker.queue("in").create()
    await register_mapping(broker.core, MappingSettings(queue="in", function="orders", undeclared=True))
    await broker.queue("in").send("x")
    async with gateway(broker) as bound:
        work = (await answer_of(bound, "/scaling/function/orders")).json
    assert work["value"] == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/scaling/queue/none", 404),
        ("/scaling/function/none", 404),
        ("/scaling/function/orders:7", 404),
        ("/scaling/function/a%20b", 400),
        ("/scaling/queue/%C3%BC", 400),
        ("/scaling/queue/" + "x" * 301, 404),
        ("/scaling/stream/x", 404),
        ("/scaling/queue/", 404),
        ("/scaling/queue/x?account=1", 400),
        ("/scaling/queue/x?region=A/B", 400),
        ("/scaling/queue/x?" + "a=1&" * 40, 400),
        ("/scaling/queue/x?region=eu-west-1", 404),
    ],
)
async def test_what_is_not_there_or_badly_named_is_said(broker: Broker, path: str, status: int) -> None:
    await broker.queue("x").create()
    async with gateway(broker) as bound:
        answer = await answer_of(bound, path)
    assert answer.status == status
    assert answer.json["reason"]


# -- who may see ------------------------------------------------------------------------------------------------------


async def test_with_access_keys_nobody_sees_them_without_a_token_of_their_own(broker: Broker) -> None:
    async with gateway(broker, keys=(KEY,)) as bound:
        answers = [await answer_of(bound, path) for path in ("/metrics", "/scaling/queue/x")]
    assert {answer.status for answer in answers} == {403}
    assert all("PENSTOCK_METRICS_TOKEN" in answer.json["reason"] for answer in answers)


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["open", "with keys"])
async def test_who_has_the_token_sees_them_and_nobody_else(broker: Broker, keys: tuple[AccessKey, ...]) -> None:
    async with gateway(broker, keys=keys, token=TOKEN) as bound:
        good = [
            await answer_of(bound, "/metrics", Authorization=text) for text in (f"Bearer {TOKEN}", f"bearer {TOKEN}")
        ]
        for text in (
            "",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            TOKEN,
            "Bearer \u00fc",
            "Bearer",
        ):
            answer = await answer_of(bound, "/metrics", Authorization=text)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN not in answer.body.decode()
        scaling = await answer_of(bound, "/scaling/queue/x", Authorization=f"Bearer {TOKEN}")
    assert [answer.status for answer in good] == [200, 200]
    assert scaling.status == 404


async def test_an_open_gateway_does_not_show_them_to_web_pages(broker: Broker) -> None:
    async with gateway(broker) as bound:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await asked(bound, get("/metrics", headers))).status == 403
        assert (await asked(bound, get("/metrics", method="POST"))).status == 405
        assert (await asked(bound, get("/metrics", method="HEAD"), head_only=True)).status == 200


@pytest.mark.parametrize("text", ["short", "with a space in it....", "x" * 1025, "ümlaut-ümlaut-ümlaut", "@/nowhere/x"])
def test_a_token_that_is_none_stops_the_start_and_is_not_told(text: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        GatewayOptions.read(environment={"PENSTOCK_METRICS_TOKEN": text})
    assert "PENSTOCK_METRICS_TOKEN" in str(refused.value)
    assert text.startswith("@") or text not in str(refused.value)


def test_a_token_is_read_from_a_file_and_does_not_show(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = GatewayOptions.read(environment={"PENSTOCK_METRICS_TOKEN": f"@{tmp_path / 'token'}"})
    assert options.metrics_token is not None
    assert options.metrics_token.is_in(f"Bearer {TOKEN}".encode())
    assert TOKEN not in repr(options)
    assert read_metrics_token({}) is None


async def test_partitions_are_one_queue_in_metrics_and_for_scaling(broker: Broker) -> None:
    queue = broker.queue("split")
    await queue.create(partitions=4)
    for number in range(8):
        await queue.send_many([number])
    async with gateway(broker) as bound:
        found = await scrape(bound)
        work = (await answer_of(bound, "/scaling/queue/split")).json
    assert found.one("penstock_messages", kind="queue", name="split", state="visible") == 8
    assert found.one("penstock_messages_sent_total", kind="queue", name="split") == 8
    assert work["backlog"] == 8
