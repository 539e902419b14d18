"""docker-compose.yml for real: up, through the published port, scaled, hit, and down without a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.compose.stack import PROJECT_LABEL, ROOT, Stack, docker, until

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


NODES = [f"cluster-{number}" for number in range(1, 7)]
SIX = {"PENSTOCK_REDIS_URL": f"redis+cluster://{','.join(NODES)}"}
UP = ("--profile", "cluster", "up", "--build", "--detach", "--scale", "redis=0")
TOGETHER = "test:{fn:000000000000:us-east-1:thumbnail}"
"""A key that is on the same node as all of the example's function."""


@pytest.fixture(scope="module")
def six() -> Iterator[Stack]:
    """The stack on a cluster of six, without the one Redis."""
    with Stack("cluster", environment=SIX) as made:
        made.compose(*UP)
        until(lambda: is_whole(made), within_s=180, what="the cluster is made")
        until(lambda: is_ready(made), within_s=120, what="the gateway answers")
        yield made
    assert made.left() == []


def is_whole(six: Stack) -> bool:
    check = f"sh /keep-cluster.sh --check {' '.join(NODES)} && echo whole"
    return six.compose("exec", "-T", "cluster-keeper", "sh", "-c", check, check=False).strip() == "whole"


def roles(six: Stack, asked: str) -> dict[str, str]:
    """Which service of the six is what now: ``primary`` or ``replica``, as that one tells; without those that fail."""
    lines = [line.split() for line in six.inside(asked, "redis-cli", "cluster", "nodes").splitlines()]
    services = {at: node for node, at in addresses(six).items()}
    flags = {services.get(line[1].partition(":")[0], ""): line[2].removeprefix("myself,") for line in lines}
    names = {"master": "primary", "slave": "replica"}
    return {node: names[each] for node, each in flags.items() if node and each in names}


def addresses(six: Stack) -> dict[str, str]:
    """Where each of the six is now; "" where it does not run."""
    project = ("--filter", f"label={PROJECT_LABEL}={six.project}")
    found = msgspec.json.decode(docker("inspect", *docker("ps", "--all", "--quiet", *project).split()))
    return {
        service: next(iter(each["NetworkSettings"]["Networks"].values()))["IPAddress"]
        for each in found
        if (service := each["Config"]["Labels"]["com.docker.compose.service"]) in NODES
    }


def serves(six: Stack, key: str) -> str:
    """The primary that has this key; a write to it waits until its replica has it, and all that was before."""
    commands = f"SET {key} 1\nWAIT 1 60000\n"
    for node in (node for node, role in roles(six, NODES[0]).items() if role == "primary"):
        said = six.inside(node, "sh", "-c", f"printf '{commands}' | redis-cli").split()
        if said == ["OK", "1"]:
            return node
    msg = f"no primary has {key}, with a replica"
    raise AssertionError(msg)


def send_in(client: Any, folder: str) -> None:
    """All photographs, for one folder each time; a gateway that cannot store them at the moment is asked again."""
    for photo in PHOTOS:
        event = {"source": f"/app/examples/thumbnails/photos/{photo}", "target_dir": f"/out/{folder}"}
        payload = msgspec.json.encode(event)

        def stored(payload: bytes = payload) -> bool:
            try:
                answer = client.invoke(FunctionName="thumbnail", InvocationType="Event", Payload=payload)
            except (ClientError, BotoCoreError):
                return False
            return bool(answer["StatusCode"] == 202)

        until(stored, within_s=90, what=f"{photo} is taken for {folder}")


def are_made(six: Stack, folders: Sequence[str]) -> bool:
    """Whether the thumbnails of all photographs are in all of these."""
    there = six.inside("runtime", "find", "/out", "-name", "*.thumb.jpg").split()
    return {f"/out/{folder}/{photo}.thumb.jpg" for folder in folders for photo in PHOTOS} <= set(there)


def test_gateway_and_workers_go_on_when_a_primary_of_the_cluster_is_killed(six: Stack) -> None:
    assert six.containers("redis") == []
    lambda_, sqs = (six.client(service, six.access_key()) for service in ("lambda", "sqs"))
    queues = [sqs.create_queue(QueueName=f"letters-{number}")["QueueUrl"] for number in range(12)]
    for queue in queues:
        sqs.send_message(QueueUrl=queue, MessageBody=f"before {queue}")
    until(lambda: described(six)["live_workers"] == 1, within_s=120, what="the worker is there")

    docker("pause", *six.containers("runtime"))
    before = [f"before-{number}" for number in range(ROUNDS)]
    for folder in before:
        send_in(lambda_, folder)
    held = serves(six, TOGETHER)
    others = [node for node in NODES if node != held]
    docker("kill", six.containers(held)[0])
    docker("unpause", *six.containers("runtime"))

    send_in(lambda_, "after")
    until(lambda: are_made(six, (*before, "after")), within_s=300, what="every photograph has its thumbnail")
    until(
        lambda: Counter(roles(six, others[0]).values()) == {"primary": 3, "replica": 2}, within_s=60, what="five go on"
    )
    assert held not in roles(six, others[0])
    told = described(six)
    assert told["counters"]["done"] >= (ROUNDS + 1) * len(PHOTOS)
    assert told["counters"]["failed"] == 0
    assert "worker_died" not in docker("logs", *six.containers("runtime"))
    for queue in queues:
        (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
        assert message["Body"] == f"before {queue}"

    docker("start", six.containers(held)[0])
    until(lambda: roles(six, others[0]).get(held) == "replica", within_s=90, what="the killed one is a replica")


def test_a_cluster_that_was_stopped_is_found_together_again_at_other_addresses(six: Stack) -> None:
    sqs = six.client("sqs", six.access_key())
    queues = [sqs.create_queue(QueueName=f"kept-{number}")["QueueUrl"] for number in range(12)]
    for queue in queues:
        sqs.send_message(QueueUrl=queue, MessageBody=f"still here, {queue}")
    containers = {node: six.containers(node)[0] for node in NODES}
    before = addresses(six)
    docker("stop", "-t", "5", *containers.values())
    for node in reversed(NODES):
        docker("start", containers[node])
    assert addresses(six) != before
    until(lambda: is_whole(six), within_s=180, what="it is one cluster again")
    until(lambda: is_ready(six), within_s=120, what="the gateway has found it")
    for queue in queues:
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1)["Messages"]
        assert message["Body"] == f"still here, {queue}"
    lambda_ = six.client("lambda", six.access_key())
    send_in(lambda_, "again")
    until(lambda: are_made(six, ["again"]), within_s=120, what="the worker has found it")
