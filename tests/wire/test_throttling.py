"""A store that is nearly full, over the wire: the throttling errors that SDKs try again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.embedded import EmbeddedRedis
from broker.functions import register_function
from broker.records import FunctionSettings
from broker.settings import Settings
from tests.wire.gateway import Gateway, running_gateway
from tests.wire.raw import RawClient

ACCOUNT = "100000000001"


@pytest.fixture(scope="module")
def throttled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on a server whose limit, 1 % of it, an empty server is above."""
    folder: Path = tmp_path_factory.mktemp("throttled")
    with (
        EmbeddedRedis(folder, append_only=False, max_memory_bytes=20_000_000) as server,
        running_gateway(server.url, Settings(full_at_percent=1)) as gateway,
    ):

        async def prepare(broker: Broker) -> None:
            await broker.queue("orders").create()
            await register_function(broker.core, "work", FunctionSettings())

        gateway.run(prepare, account=ACCOUNT)
        yield gateway


def urls(gateway: Gateway) -> dict[str, str]:
    return {"QueueUrl": f"{gateway.url}/{ACCOUNT}/orders", "MessageBody": "x"}


def test_sqs_answers_request_throttled_in_json(throttled: Gateway) -> None:
    answer = RawClient(throttled.url, ACCOUNT).json("SendMessage", urls(throttled))
    assert (answer.status, answer.json["__type"]) == (400, "com.amazonaws.sqs#RequestThrottled")


def test_sqs_answers_request_throttled_in_xml(throttled: Gateway) -> None:
    answer = RawClient(throttled.url, ACCOUNT).query("SendMessage", urls(throttled))
    assert answer.status == 403
    assert b"<Code>RequestThrottled</Code>" in answer.body


def test_a_batch_is_throttled_as_a_whole(throttled: Gateway) -> None:
    entries = [{"Id": "a", "MessageBody": "x"}, {"Id": "b", "MessageBody": "y"}]
    parameters = {"QueueUrl": urls(throttled)["QueueUrl"], "Entries": entries}
    answer = RawClient(throttled.url, ACCOUNT).json("SendMessageBatch", parameters)
    assert (answer.status, answer.json["__type"]) == (400, "com.amazonaws.sqs#RequestThrottled")


def test_receiving_goes_on(throttled: Gateway) -> None:
    answer = RawClient(throttled.url, ACCOUNT).json("ReceiveMessage", {"QueueUrl": urls(throttled)["QueueUrl"]})
    assert answer.status == 200


def test_lambda_answers_too_many_requests_and_when_to_come_again(throttled: Gateway) -> None:
    client = RawClient(throttled.url, ACCOUNT, service="lambda")
    answer = client.request(
        "POST",
        "/2015-03-31/functions/work/invocations",
        body=json.dumps({}).encode(),
        headers={"X-Amz-Invocation-Type": "Event"},
    )
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (429, "TooManyRequestsException")
    assert (answer.json["Reason"], answer.headers["retry-after"]) == ("CallerRateLimitExceeded", "1")
