"""docker-compose.yml for real: up, through the published port, scaled, hit, and down without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pytest
from botocore.exceptions import ClientError

from tests.compose.stack import ROOT, Stack, docker, until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("engine"),
    # boto3 forgets the sockets of a gateway that was killed under it.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

PHOTOS = sorted(path.name for path in (ROOT / "examples/thumbnails/photos").glob("*.jpg"))
ROUNDS = 20
OWN_APP = """
from runtime import App

app = App()

@app.function()
async def greet(event, context):
    return f"hello {event['name']}"
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack of a fresh clone, running."""
    with Stack("fresh") as made:
        made.compose("up", "--build", "--detach")
        until(lambda: is_ready(made), within_s=120, what="the gateway answers")
        yield made
    assert made.left() == []


def is_ready(stack: Stack) -> bool:
    try:
        with urlopen(f"{stack.url}/health/ready", timeout=5) as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except OSError:
        return False


def described(stack: Stack) -> dict[str, Any]:
    """The example's function, as a worker's container tells; waits where that one has just been killed."""

    def ask() -> dict[str, Any] | None:
        told = stack.compose("exec", "-T", "runtime", "penstock", "functions", "thumbnail", "--json", check=False)
        try:
            return msgspec.json.decode(told, type=dict[str, Any])
        except msgspec.DecodeError:
            return None

    found: dict[str, Any] = until(ask, within_s=60, what="a worker tells of its function")
    return found


def send(client: Any, rounds: int) -> int:
    """Events for the example's function through the gateway; answers how many."""
    sent = 0
    for _ in range(rounds):
        for photo in PHOTOS:
            event = {"source": f"/app/examples/thumbnails/photos/{photo}", "target_dir": "/out"}
            answer = client.invoke(FunctionName="thumbnail", InvocationType="Event", Payload=msgspec.json.encode(event))
            assert answer["StatusCode"] == 202
            sent += 1
    return sent


def test_a_fresh_clone_runs_the_example(stack: Stack) -> None:
    until(
        lambda: "contact-sheet.jpg" in stack.inside("runtime", "ls", "/out").split(),
        within_s=60,
        what="the contact sheet is there",
    )
    (photographs,) = stack.containers("photographs")
    assert (stack.state(photographs)["Status"], stack.state(photographs)["ExitCode"]) == ("exited", 0)
    assert f"{len(PHOTOS)} thumbnails are made" in docker("logs", photographs)


def test_the_first_start_made_a_key_that_works_and_nothing_goes_without_one(stack: Stack) -> None:
    key = stack.access_key()
    sqs = stack.client("sqs", key)
    queue = sqs.create_queue(QueueName="letters")["QueueUrl"]
    assert queue == f"{stack.url}/000000000000/letters"
    sqs.send_message(QueueUrl=queue, MessageBody="hello")
    assert sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "hello"
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stack.client("sqs", (key[0], "wrong")).list_queues()
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{stack.url}/?Action=ListQueues", timeout=5)  # noqa: S310 - http
    refused.value.close()
    assert refused.value.code == 403
    (broker,) = stack.containers("broker")
    said = docker("logs", broker)
    assert "access_keys_made" in said
    assert "docker compose exec broker cat /keys/access-keys" in said
    assert key[1] not in said


def test_nothing_runs_as_root_writes_to_its_image_or_is_reached_from_other_machines(stack: Stack) -> None:
    for service, user in (("broker", 10001), ("runtime", 10001), ("redis", 999)):
        container = stack.containers(service)[0]
        about = msgspec.json.decode(docker("inspect", container))[0]
        assert stack.inside(service, "id", "-u").strip() == str(user)
        assert about["HostConfig"]["ReadonlyRootfs"] is True
        assert about["HostConfig"]["CapDrop"] == ["ALL"]
        published = [each["HostIp"] for ports in about["NetworkSettings"]["Ports"].values() for each in ports or []]
        assert published == (["127.0.0.1"] if service == "broker" else [])
    assert "Read-only file system" in stack.compose("exec", "-T", "runtime", "touch", "/app/x", check=False)
    fsync = stack.inside("redis", "redis-cli", "config", "get", "appendfsync").split()
    assert fsync == ["appendfsync", "always"]


def test_events_outlive_the_death_of_every_container(stack: Stack) -> None:
    lambda_ = stack.client("lambda", stack.access_key())
    before = described(stack)["counters"]["done"]
    stack.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "runtime=4", "runtime")
    runtimes = stack.containers("runtime")
    assert len(runtimes) == 4
    until(lambda: described(stack)["live_workers"] == 4, within_s=60, what="four workers are there")
    sent = send(lambda_, ROUNDS)
    for container in (*runtimes[2:], *stack.containers("redis"), *stack.containers("broker")):
        stack.hit(container)
    until(lambda: is_ready(stack), within_s=60, what="the gateway is back")
    sent += send(lambda_, ROUNDS)
    stack.hit(runtimes[0])
    until(lambda: all(stack.state(each)["Running"] for each in runtimes), within_s=60, what="all run again")

    def all_done() -> bool:
        told = described(stack)
        left = sum(told[name] for name in ("queued", "in_flight", "retrying", "set_apart"))
        return bool(told["counters"]["done"] - before >= sent and not left)

    until(all_done, within_s=180, what="every event has succeeded")
    assert described(stack)["counters"]["done"] - before == sent
    assert described(stack)["counters"]["failed"] == 0


def test_a_stop_drains_and_what_was_stored_is_there_again(stack: Stack) -> None:
    key = stack.access_key()
    sqs = stack.client("sqs", key)
    queue = sqs.create_queue(QueueName="kept")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="still here")
    stack.compose("stop")
    for service in ("runtime", "broker", "redis"):
        for container in stack.containers(service):
            assert (service, stack.state(container)["ExitCode"]) == (service, 0)
    stack.compose("up", "--detach", "--scale", "runtime=2")
    until(lambda: is_ready(stack), within_s=60, what="the gateway is back")
    assert stack.access_key() == key
    assert sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"] == "still here"


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that others than root may read, with all above it."""
    with TemporaryDirectory(prefix="penstock-app-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_your_own_app_and_keys_take_the_place_of_the_example(own_folder: Path) -> None:
    (own_folder / "app.py").write_text(OWN_APP)
    environment = {
        "PENSTOCK_APP": "app:app",
        "PENSTOCK_APP_DIR": str(own_folder),
        "PENSTOCK_ACCESS_KEYS": "AKIDMINE:mysecret",
    }
    files = ("docker-compose.yml", "deploy/own-app.yml")
    with Stack("own", files=files, environment=environment) as own:
        own.compose("up", "--build", "--detach")
        until(lambda: is_ready(own), within_s=120, what="the gateway answers")
        lambda_ = own.client("lambda", ("AKIDMINE", "mysecret"))

        def greeted() -> Any:
            try:
                return lambda_.invoke(FunctionName="greet", Payload=b'{"name": "world"}')["Payload"].read()
            except ClientError:
                return None  # the worker is not there yet

        assert until(greeted, within_s=60, what="the function answers") == b'"hello world"'
        assert own.containers("photographs") == []
        assert own.inside("broker", "ls", "/keys").split() == []
    assert own.left() == []


def test_the_cluster_of_six_is_made_and_found_together_again() -> None:
    nodes = [f"cluster-{number}" for number in range(1, 7)]

    def ask(*words: str) -> str:
        return six.inside("cluster-1", "redis-cli", "-c", *words)

    with Stack("cluster") as six:
        six.compose("--profile", "cluster", "up", "--detach", *nodes, "cluster-keeper")
        until(lambda: six.is_healthy("cluster-keeper"), within_s=120, what="the cluster is made")
        roles = [line.split()[2].rpartition(",")[2] for line in ask("cluster", "nodes").splitlines()]
        assert (roles.count("master"), roles.count("slave")) == (3, 3)
        assert ask("set", "kept", "here").strip() == "OK"
        containers = {node: six.containers(node)[0] for node in (*nodes, "cluster-keeper")}
        docker("stop", "-t", "5", *containers.values())
        for node in (*reversed(nodes), "cluster-keeper"):  # in another order they get other addresses
            docker("start", containers[node])
        until(lambda: "cluster_state:ok" in ask("cluster", "info"), within_s=90, what="it is one cluster again")
        assert ask("get", "kept").strip() == "here"
    assert six.left() == []
