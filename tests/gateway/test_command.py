"""`penstock broker` and the gateway of `penstock dev` as real processes, called by boto3."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import anyio.to_thread
import boto3
import msgspec
import pytest
import structlog.testing
from botocore.exceptions import ClientError

from broker import Broker
from broker.gateway.options import GatewayOptions
from runtime.cli.dev import DevGateway
from tests.cli.shell import Shell, started

APP = """
from runtime import App

app = App()

@app.function()
async def greet(event, context):
    return None
"""


def client(service: str, url: str, key: str = "test", secret: str = "test") -> Any:  # noqa: S107 - any will do
    return boto3.client(
        service, endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )


def send_and_receive(url: str) -> str:
    sqs = client("sqs", url)
    queue = sqs.create_queue(QueueName="orders")["QueueUrl"]
    assert queue == f"{url}/000000000000/orders"
    sqs.send_message(QueueUrl=queue, MessageBody="hello")
    return str(sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"])


async def test_boto3_works_on_it_and_a_signal_ends_it_with_an_open_wait(shell: Shell) -> None:
    with started(shell, "broker", "--port", "0", "--json") as running:
        told = msgspec.json.decode((await running.said("}\n")).splitlines()[0])
        assert (told["host"], told["access_keys"], told["url"]) == (
            "127.0.0.1",
            False,
            f"http://127.0.0.1:{told['port']}",
        )
        assert "gateway_open" in await running.said("gateway_open") + running.err.read_text()
        assert await anyio.to_thread.run_sync(send_and_receive, told["url"]) == "hello"
        identity = await anyio.to_thread.run_sync(lambda: client("sts", told["url"]).get_caller_identity())
        assert identity["Arn"] == "arn:aws:iam::000000000000:root"

        answers: list[Any] = []

        async def wait() -> None:
            sqs = client("sqs", told["url"])
            queue = f"{told['url']}/000000000000/orders"
            answers.append(
                await anyio.to_thread.run_sync(lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20))
            )

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.to_thread.run_sync(send_many, told["url"])
            assert await running.ended(signal.SIGTERM) == 0
        assert len(answers) == 1


async def test_dev_goes_on_without_a_gateway_where_the_default_port_is_taken(broker: Broker, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = DevGateway(redis_url, GatewayOptions(port=port), must=False, grace_s=0)
        with structlog.testing.capture_logs() as lines:
            await gateway.run()
    assert gateway.begun.is_set()
    assert gateway.lines == [
        f"SQS, Lambda: not served, as the port is taken by another program (port {port}); --port chooses another"
    ]
    assert [line["event"] for line in lines] == ["gateway_not_started"]


def send_many(url: str) -> None:
    """Something else meanwhile, so that the wait has most likely begun."""
    sqs = client("sqs", url)
    queue = sqs.create_queue(QueueName="other")["QueueUrl"]
    for number in range(20):
        sqs.send_message(QueueUrl=queue, MessageBody=str(number))


async def test_with_keys_the_screen_says_so_and_other_keys_are_refused(shell: Shell) -> None:
    keys = shell.folder / "keys"
    keys.write_text("# ours\nAKIDONE:one\nAKIDTWO:two:123456789012\n")
    words = ("broker", "--port", "0", "--host", "0.0.0.0", "--access-keys", str(keys))  # noqa: S104 - with keys
    with started(shell, *words) as running:
        screen = await running.said("Ctrl-C")
        assert "AWS_ACCESS_KEY_ID=AKIDONE" in screen
        assert "two" not in screen + running.err.read_text()
        port = screen.partition("http://0.0.0.0:")[2].split()[0]
        url = f"http://127.0.0.1:{port}"
        identity = await anyio.to_thread.run_sync(lambda: client("sts", url, "AKIDTWO", "two").get_caller_identity())
        assert identity["Arn"] == "arn:aws:iam::123456789012:user/AKIDTWO"
        with pytest.raises(ClientError) as refused:
            await anyio.to_thread.run_sync(lambda: client("sqs", url, "AKIDTWO", "wrong").list_queues())
        assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert await running.ended(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "without access keys the gateway listens on loopback addresses only"),  # noqa: S104
        (("--port", "70000"), "must be a port"),
        (("--access-keys", "/nowhere"), "cannot be read"),
        (("--public-url", "x"), "must be http"),
        (("--grace", "-1"), "grace"),
        (("--url", "redis://localhost:1"), "localhost:1"),
    ],
)
async def test_what_cannot_be_served_is_named(shell: Shell, words: tuple[str, ...], said: str) -> None:
    done = await shell.run("broker", *words, status=1)
    assert said in done.err
    assert done.out == ""


async def test_a_taken_port_is_named(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = await shell.run("broker", "--port", str(taken.getsockname()[1]), status=1)
    assert "the port is taken by another program" in done.err


async def test_dev_serves_too_and_ends_where_the_port_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    shell = Shell(tmp_path)
    with started(shell, "dev", "app:app", "--port", "0", "--no-reload") as running:
        screen = await running.said("Ctrl-C")
        url = screen.partition("AWS_ENDPOINT_URL=")[2].split()[0]
        assert "AWS_DEFAULT_REGION=us-east-1\n" in screen, "without a region no SDK starts"
        assert await anyio.to_thread.run_sync(send_and_receive, url) == "hello"
        assert await running.ended(signal.SIGINT) == 0
    with started(shell, "dev", "app:app", "--no-gateway", "--no-reload") as running:
        assert "AWS_ENDPOINT_URL" not in await running.said("Ctrl-C")
        assert await running.ended(signal.SIGINT) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = await shell.run("dev", "app:app", "--port", port, "--no-reload", status=1)
        assert "the port is taken by another program" in done.err
