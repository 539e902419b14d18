"""Powertools for AWS Lambda, the real package, in existing handlers that a worker runs unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker import Broker, FunctionError
from tests.cli.shell import eventually
from tests.conftest import ON_CLUSTER
from tests.runtime.taken_over import TakeOver, take_over

__all__ = ["take_over"]

LOGGER = """
import logging
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="shop")

@logger.inject_lambda_context(log_event=True, correlation_id_path="id", clear_state=True)
def handler(event: dict, context: LambdaContext) -> str:
    logger.append_keys(order=event["id"])
    logger.info("placed")
    logging.getLogger("elsewhere").warning("by the standard library")
    if event["id"] == "bad":
        try:
            raise ValueError("no such order")
        except ValueError:
            logger.exception("failed")
    return context.aws_request_id
"""


async def test_the_logger_writes_each_line_once_with_the_fields_of_the_context(
    broker: Broker, take_over: TakeOver
) -> None:
    async with take_over("app.handler", LOGGER) as running:
        first = await broker.call("orders", {"id": "a-1"}, timeout=10)
        second = await broker.call("orders", {"id": "bad"}, timeout=10)
        lines = [line for line in running.printed if line["message"] == "placed"]
        assert [line["function_request_id"] for line in lines] == [first, second]
        assert [(line["order"], line["correlation_id"], line["cold_start"]) for line in lines] == [
            ("a-1", "a-1", True),
            ("bad", "bad", False),
        ]
        for line in lines:
            assert line["service"] == "shop"
            assert line["function_name"] == "orders"
            assert line["function_memory_size"] == "128"
            assert line["function_arn"] == "arn:aws:lambda:us-east-1:000000000000:function:orders"
        (failed,) = [line for line in running.printed if line["message"] == "failed"]
        assert failed["exception_name"] == "ValueError"
        assert [line["message"] for line in running.printed if isinstance(line["message"], dict)] == [
            {"id": "a-1"},
            {"id": "bad"},
        ]
        ours = [json.loads(line) for line in running.err.splitlines() if line.startswith("{")]
        assert [line["event"] for line in ours if line.get("logger")] == ["by the standard library"] * 2


TRACER = """
from aws_lambda_powertools import Tracer

tracer = Tracer(service="shop")

@tracer.capture_method
def total(prices):
    tracer.put_annotation("items", len(prices))
    return sum(prices)

@tracer.capture_lambda_handler
def handler(event, context):
    if not event["prices"]:
        raise ValueError("nothing to pay")
    tracer.put_metadata("event", event)
    return total(event["prices"])
"""


@pytest.mark.parametrize("disabled", ["true", "false"])
async def test_the_tracer_is_in_nobodys_way_without_a_daemon(
    broker: Broker, take_over: TakeOver, disabled: str
) -> None:
    async with take_over("app.handler", TRACER, POWERTOOLS_TRACE_DISABLED=disabled) as running:
        assert await broker.call("orders", {"prices": [1, 2]}, timeout=10) == 3
        with pytest.raises(FunctionError, match=r"ValueError: nothing to pay"):
            await broker.call("orders", {"prices": []}, timeout=10)
        assert await broker.call("orders", {"prices": [3]}, timeout=10) == 3
        assert "Traceback" not in running.err


METRICS = """
from aws_lambda_powertools import Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit

metrics = Metrics(namespace="Shop", service="orders")
metrics.set_default_dimensions(stage="test")

@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event, context):
    metrics.add_metric(name="Placed", unit=MetricUnit.Count, value=event["count"])
    metrics.add_metadata(key="request", value=context.aws_request_id)
    return "ok"
"""


async def test_metrics_of_a_call_are_written_when_it_ends(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", METRICS) as running:
        for count in (3, 4):
            assert await broker.call("orders", {"count": count}, timeout=10) == "ok"
        placed = [line for line in running.printed if "Placed" in line]
        assert [line["Placed"] for line in placed] == [[3.0], [4.0]]
        assert {line["stage"] for line in placed} == {"test"}
        (cold,) = [line for line in running.printed if "ColdStart" in line]
        assert (cold["ColdStart"], cold["function_name"]) == ([1.0], "orders")
        (directive,) = placed[0]["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Shop"


BATCH = """
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

processor = BatchProcessor(event_type=EventType.SQS)

def record_handler(record: SQSRecord) -> None:
    order = record.json_body
    kind = record.message_attributes["kind"].string_value if "kind" in record.message_attributes else None
    if order["id"] % 2:
        raise ValueError("odd")
    print("placed", order["id"], kind, record.attributes.approximate_receive_count, record.queue_url)

def handler(event, context: LambdaContext):
    return process_partial_response(
        event=event, record_handler=record_handler, processor=processor, context=context
    )
"""


async def test_the_batch_processor_sends_back_what_failed_and_nothing_else(broker: Broker, take_over: TakeOver) -> None:
    words = ("--queue", "orders-in", "--partial-failures")
    async with take_over("app.handler", BATCH, *words) as running:
        queue = broker.queue("orders-in")
        await queue.send_batch({"body": {"id": n}, "attributes": {"kind": "new"}} for n in range(4))

        async def settled() -> bool:
            counts = await queue.counts()
            return (counts.visible, counts.in_flight, counts.retrying) == (0, 0, 2)

        await eventually(settled)
        url = "https://sqs.us-east-1.amazonaws.com/000000000000/orders-in"
        assert sorted(running.out.splitlines()) == [f"placed 0 new 1 {url}", f"placed 2 new 1 {url}"]
        # All of a batch failed: Powertools raises, and every message comes back.
        await queue.send_batch({"body": {"id": n}} for n in (5, 7))

        async def all_back() -> bool:
            return (await queue.counts()).retrying == 4

        await eventually(all_back)
        assert "BatchProcessingError" in running.err


FIFO = """
from aws_lambda_powertools.utilities.batch import SqsFifoPartialProcessor, process_partial_response

processor = SqsFifoPartialProcessor(skip_group_on_error=True)

def record_handler(record):
    print(record.attributes.message_group_id, record.body)
    if record.body == "2":
        raise ValueError("two")

def handler(event, context):
    return process_partial_response(
        event=event, record_handler=record_handler, processor=processor, context=context
    )
"""


async def test_the_fifo_processor_keeps_what_is_behind_a_failure_in_its_group(
    broker: Broker, take_over: TakeOver
) -> None:
    queue = broker.queue("orders-in.fifo")
    await queue.create(content_deduplication=True)
    await queue.send_batch(
        {"body": body, "group": group} for group, body in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"))
    )
    async with take_over("app.handler", FIFO, "--queue", "orders-in.fifo", "--partial-failures") as running:

        async def settled() -> bool:
            counts = await queue.counts()
            return not counts.in_flight and {message.body for message in await queue.peek(10)} == {"2", "3"}

        await eventually(settled)
        assert sorted(running.out.splitlines()) == ["a 1", "a 2", "b 4"]


CLASSES = """
from typing import Any
from pydantic import BaseModel
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.parser import envelopes, event_parser
from aws_lambda_powertools.utilities.typing import LambdaContext


class Order(BaseModel):
    id: int
    price: float = 1.0


@event_source(data_class=SQSEvent)
def with_class(event: SQSEvent, context: LambdaContext) -> None:
    for record in event.records:
        print(record.event_source, record.json_body["id"], record.md5_of_body, record.aws_region)


@event_parser(model=Order, envelope=envelopes.SqsEnvelope)
def with_parser(event: list[Order], context: LambdaContext) -> None:
    for order in event:
        print("parsed", order.id, order.price)


@event_parser(model=Order)
def with_model(event: Order, context: LambdaContext) -> dict[str, Any]:
    return event.model_dump()
"""


async def test_data_classes_read_our_records(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.with_class", CLASSES, "--queue", "orders-in") as running:
        await broker.queue("orders-in").send({"id": 7})
        await said(running, "aws:sqs 7 8dc7a9e2b7ad5d5c2ba4ccb51b2a1d8b us-east-1", fields=(0, 1, 3))


async def test_the_parser_reads_our_records(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.with_parser", CLASSES, "--queue", "orders-in") as running:
        await broker.queue("orders-in").send({"id": 7, "price": 2.5})
        await said(running, "parsed 7 2.5", fields=(0, 1, 2))


async def test_the_parser_refuses_an_event_in_its_own_words(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.with_model", CLASSES):
        assert await broker.call("orders", {"id": 1}, timeout=10) == {"id": 1, "price": 1.0}
        with pytest.raises(FunctionError, match="ValidationError"):
            await broker.call("orders", {"id": "one"}, timeout=10)


async def said(running: Any, line: str, *, fields: tuple[int, ...]) -> None:
    async def look() -> bool:
        words = [text.split() for text in running.out.splitlines()]
        wanted = line.split()
        return any([found[n] for n in fields] == [wanted[n] for n in fields] for found in words)

    await eventually(look)


IDEMPOTENT = """
import os
import redis
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent, idempotent_function
from aws_lambda_powertools.utilities.idempotency.persistence.redis import RedisCachePersistenceLayer

client = redis.Redis.from_url(os.environ["PENSTOCK_REDIS_URL"], decode_responses=True)
store = RedisCachePersistenceLayer(client=client, in_progress_expiry_attr="in_progress_expiry")
config = IdempotencyConfig(event_key_jmespath="order.id", expires_after_seconds=60)

@idempotent(config=config, persistence_store=store)
def handler(event, context):
    print("charged", event["order"]["id"])
    if event["order"]["cents"] < 0:
        raise ValueError("negative")
    return {"charged": event["order"]["id"], "request": context.aws_request_id}
"""


@pytest.mark.skipif(ON_CLUSTER, reason="Powertools' store is given the address of one server")
async def test_idempotency_keeps_its_records_in_our_redis(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", IDEMPOTENT) as running:
        order = {"order": {"id": broker.core.settings.prefix, "cents": 5}}
        first = await broker.call("orders", order, timeout=10)
        assert await broker.call("orders", order, timeout=10) == first
        assert running.out.splitlines() == [f"charged {order['order']['id']}"]
        # A first run that failed leaves nothing.
        failing = {"order": {"id": f"{broker.core.settings.prefix}-2", "cents": -1}}
        for _ in range(2):
            with pytest.raises(FunctionError, match="negative"):
                await broker.call("orders", failing, timeout=10)
        assert len(running.out.splitlines()) == 3


TYPED = """
from aws_lambda_powertools.utilities.typing import LambdaContext

def handler(event, context):
    names = [name for name, value in vars(LambdaContext).items() if isinstance(value, property)]
    return {name: type(getattr(context, name)).__name__ for name in names} | {
        "left": context.get_remaining_time_in_millis(),
        "methods": [name for name in vars(LambdaContext) if not name.startswith("_") and name not in names],
    }
"""


async def test_the_context_has_all_that_the_type_promises(broker: Broker, take_over: TakeOver) -> None:
    async with take_over("app.handler", TYPED, "--timeout", "5"):
        found = await broker.call("orders", {}, timeout=10)
        assert 0 < found.pop("left") <= 5000
        assert found == {
            "function_name": "str",
            "function_version": "str",
            "invoked_function_arn": "str",
            "memory_limit_in_mb": "str",
            "aws_request_id": "str",
            "log_group_name": "str",
            "log_stream_name": "str",
            "identity": "Identity",
            "client_context": "NoneType",
            "tenant_id": "NoneType",
            "methods": ["get_remaining_time_in_millis"],
        }
