"""The aws CLI, version 1: every action once, what it prints, and its exit status.

Version 1 takes SQS's own host for granted where it knows the region, whatever AWS_ENDPOINT_URL says: there, and only
there, `--endpoint-url` is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from awscli.clidriver import create_clidriver  # type: ignore[import-untyped]
from botocore.session import Session

from broker.gateway.aws.lambda_.configuration import CONFIGURATION
from tests.wire.gateway import Gateway, WireClock
from tests.wire.lambda_control import LambdaClient

SERVICE_ERROR = 255


class Printed(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    output: str
    errors: str


class Cli:
    """The command in this process: a process of its own for each would take most of the time of these tests."""

    def __init__(self, endpoint: str, service: str = "sqs") -> None:
        self._endpoint = endpoint
        self._service = service
        self._driver = create_clidriver()  # takes ten times as long as a command
        self.used: set[str] = set()

    def run(self, *arguments: str) -> Printed:
        """Runs `aws sqs ...`, or that of another service."""
        output, errors = TextIOWrapper(BytesIO(), "utf-8"), TextIOWrapper(BytesIO(), "utf-8")
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                status = self._driver.main(["--endpoint-url", self._endpoint, self._service, *arguments])
            except SystemExit as ended:
                status = int(ended.code or 0)
        texts = []
        for stream in (output, errors):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
        return Printed(status, *texts)

    def __call__(self, action: str, **options: str | list[str]) -> Any:
        """What an action printed, as data; it must succeed. `queue_url=` stands for `--queue-url`."""
        self.used.add(action)
        words: list[str] = []
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
        printed = self.run(action, *words)
        assert (printed.status, printed.errors) == (0, ""), printed
        return json.loads(printed.output) if printed.output.strip() else None


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, account: str, tmp_path: Path) -> None:
    """The account's credentials, and no files of whoever runs the tests."""
    for name in {name for name in os.environ if name.startswith("AWS_")} - {"AWS_DATA_PATH"}:  # it is awscli's own
        monkeypatch.delenv(name)
    settings = {
        "AWS_ACCESS_KEY_ID": account,
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_DEFAULT_OUTPUT": "json",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    structlog.reset_defaults()  # another test may have had it write to standard output, where the command does


@pytest.fixture
def aws(gateway: Gateway, environment: None, clock: WireClock) -> Cli:
    return Cli(gateway.url)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:awscli")
def test_every_action_works_from_the_command(aws: Cli, account: str) -> None:
    url = aws("create-queue", queue_name="orders", attributes="DelaySeconds=0", tags="team=sales")["QueueUrl"]
    queues_and_their_settings(aws, url)
    messages(aws, url)
    permissions(aws, url)
    dead_letters(aws, account)
    aws("purge-queue", queue_url=url)
    aws("delete-queue", queue_url=url)
    known = Session().get_service_model("sqs").operation_names
    assert {name.replace("-", "") for name in aws.used} == {name.lower() for name in known}


def queues_and_their_settings(aws: Cli, url: str) -> None:
    assert aws("get-queue-url", queue_name="orders") == {"QueueUrl": url}
    assert aws("list-queues", queue_name_prefix="ord") == {"QueueUrls": [url]}
    assert aws("set-queue-attributes", queue_url=url, attributes='{"VisibilityTimeout": "60"}') is None
    shown = aws("get-queue-attributes", queue_url=url, attribute_names="VisibilityTimeout")
    assert shown == {"Attributes": {"VisibilityTimeout": "60"}}
    aws("tag-queue", queue_url=url, tags="empty=,k=v")
    aws("untag-queue", queue_url=url, tag_keys="team")
    assert aws("list-queue-tags", queue_url=url) == {"Tags": {"empty": "", "k": "v"}}


def messages(aws: Cli, url: str) -> None:
    attributes = '{"k": {"DataType": "Binary", "BinaryValue": "abc"}}'
    sent = aws("send-message", queue_url=url, message_body="hello", message_attributes=attributes)
    assert sent["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592"
    batch = aws("send-message-batch", queue_url=url, entries=["Id=a,MessageBody=two", "Id=b,MessageBody=three"])
    assert {entry["Id"] for entry in batch["Successful"]} == {"a", "b"}
    asked = {"message_attribute_names": "All", "message_system_attribute_names": "All"}
    received = aws("receive-message", queue_url=url, max_number_of_messages="10", **asked)["Messages"]
    first, *others = received
    assert first["MessageAttributes"] == {"k": {"DataType": "Binary", "BinaryValue": "YWJj"}}  # shown in base64
    assert first["Attributes"]["ApproximateReceiveCount"] == "1"
    aws("change-message-visibility", queue_url=url, receipt_handle=first["ReceiptHandle"], visibility_timeout="100")
    aws("delete-message", queue_url=url, receipt_handle=first["ReceiptHandle"])
    handles = [f"Id={m['Body']},ReceiptHandle={m['ReceiptHandle']}" for m in others]
    hidden = [f"{handle},VisibilityTimeout=100" for handle in handles]
    changed = aws("change-message-visibility-batch", queue_url=url, entries=hidden)
    deleted = aws("delete-message-batch", queue_url=url, entries=handles)
    assert changed == deleted == {"Successful": [{"Id": "two"}, {"Id": "three"}]}
    assert aws("receive-message", queue_url=url) is None


def permissions(aws: Cli, url: str) -> None:
    aws("add-permission", queue_url=url, label="l", aws_account_ids="111122223333", actions="SendMessage")
    aws("remove-permission", queue_url=url, label="l")


def dead_letters(aws: Cli, account: str) -> None:
    dead = aws("create-queue", queue_name="dead")["QueueUrl"]
    arn = f"arn:aws:sqs:us-east-1:{account}:dead"
    policy = json.dumps({"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})})
    source = aws("create-queue", queue_name="source", attributes=policy)["QueueUrl"]
    assert aws("list-dead-letter-source-queues", queue_url=dead) == {"queueUrls": [source]}
    for _ in range(3):
        aws("send-message-batch", queue_url=dead, entries=[f"Id={number},MessageBody=x" for number in range(10)])
    target = f"arn:aws:sqs:us-east-1:{account}:source"
    rate = {"max_number_of_messages_per_second": "1"}
    handle = aws("start-message-move-task", source_arn=arn, destination_arn=target, **rate)["TaskHandle"]
    (task,) = aws("list-message-move-tasks", source_arn=arn)["Results"]
    assert (task["Status"], task["TaskHandle"], task["DestinationArn"]) == ("RUNNING", handle, target)
    assert aws("cancel-message-move-task", task_handle=handle)["ApproximateNumberOfMessagesMoved"] < 30


@pytest.mark.filterwarnings("ignore::DeprecationWarning:awscli")
def test_an_error_of_the_service_is_printed_and_told_by_the_exit_status(aws: Cli) -> None:
    printed = aws.run("get-queue-url", "--queue-name", "nothing")
    assert (printed.status, printed.output) == (SERVICE_ERROR, "")
    said = "(AWS.SimpleQueueService.NonExistentQueue) when calling the GetQueueUrl operation"
    assert said in printed.errors
    assert "The specified queue does not exist." in printed.errors


@pytest.mark.filterwarnings("ignore::DeprecationWarning:awscli")
def test_pages_are_put_together(aws: Cli) -> None:
    for number in range(5):
        aws("create-queue", queue_name=f"q{number}")
    assert len(aws("list-queues", page_size="2")["QueueUrls"]) == 5
    assert len(aws("list-queues", max_items="3")["QueueUrls"]) == 3


@pytest.mark.usefixtures("environment")
def test_as_a_program_with_nothing_but_the_environment(gateway: Gateway, account: str) -> None:
    region = {"AWS_DEFAULT_REGION": "local-1", "AWS_ENDPOINT_URL": gateway.url}
    command = [sys.executable, "-m", "awscli", "sqs", "create-queue", "--queue-name", "orders"]
    done = subprocess.run(command, env=os.environ | region, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"QueueUrl": f"{gateway.url}/{account}/orders"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:awscli")
def test_lambda_is_configured_from_the_command(gateway: Gateway, environment: None, control: LambdaClient) -> None:
    aws = Cli(gateway.url, "lambda")
    arn = control.register(build="7f3a2c")
    mappings_of(aws, control)
    settings_of_functions(aws)
    versions_of_functions(aws)
    aws("tag-resource", resource=arn, tags="team=a,stage=b")
    aws("untag-resource", resource=arn, tag_keys="team")
    assert aws("list-tags", resource=arn) == {"Tags": {"stage": "b"}}
    assert aws("get-account-settings")["AccountUsage"]["FunctionCount"] == 1
    assert {name.replace("-", "") for name in aws.used} == {each.name.lower() for each in CONFIGURATION}


def mappings_of(aws: Cli, control: LambdaClient) -> None:
    queue = control.queue()
    scaling = "MaximumConcurrency=3"
    made = aws(
        "create-event-source-mapping",
        function_name="work",
        event_source_arn=queue,
        batch_size="5",
        scaling_config=scaling,
        function_response_types="ReportBatchItemFailures",
    )
    assert (made["BatchSize"], made["State"]) == (5, "Creating")
    uuid = made["UUID"]
    aws("update-event-source-mapping", uuid=uuid, batch_size="100", maximum_batching_window_in_seconds="2")
    found = aws("get-event-source-mapping", uuid=uuid)
    assert (found["BatchSize"], found["MaximumBatchingWindowInSeconds"], found["State"]) == (100, 2, "Enabled")
    assert [each["UUID"] for each in aws("list-event-source-mappings")["EventSourceMappings"]] == [uuid]
    assert aws("delete-event-source-mapping", uuid=uuid)["State"] == "Deleting"


def settings_of_functions(aws: Cli) -> None:
    work = {"function_name": "work"}
    assert [each["FunctionName"] for each in aws("list-functions")["Functions"]] == ["work"]
    assert aws("update-function-configuration", **work, timeout="20")["Timeout"] == 20
    assert aws("get-function-configuration", **work)["Timeout"] == 20
    aws("put-function-concurrency", **work, reserved_concurrent_executions="7")
    assert aws("get-function-concurrency", **work) == {"ReservedConcurrentExecutions": 7}
    assert aws("get-function", **work)["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    aws("delete-function-concurrency", **work)
    aws("put-function-event-invoke-config", **work, maximum_retry_attempts="1")
    aws("update-function-event-invoke-config", **work, maximum_event_age_in_seconds="60")
    found = aws("get-function-event-invoke-config", **work)
    assert (found["MaximumRetryAttempts"], found["MaximumEventAgeInSeconds"]) == (1, 60)
    assert len(aws("list-function-event-invoke-configs", **work)["FunctionEventInvokeConfigs"]) == 1
    aws("delete-function-event-invoke-config", **work)


def versions_of_functions(aws: Cli) -> None:
    work = {"function_name": "work"}
    assert aws("publish-version", **work)["Version"] == "1"
    assert [each["Version"] for each in aws("list-versions-by-function", **work)["Versions"]] == ["$LATEST", "1"]
    live = {**work, "name": "live"}
    assert aws("create-alias", **live, function_version="1")["FunctionVersion"] == "1"
    assert aws("update-alias", **live, description="what customers use")["Description"] == "what customers use"
    assert aws("get-alias", **live)["FunctionVersion"] == "1"
    assert [each["Name"] for each in aws("list-aliases", **work)["Aliases"]] == ["live"]
    aws("delete-alias", **live)
    aws("delete-function", **work, qualifier="1")
    aws("put-function-recursion-config", **work, recursive_loop="Allow")
    assert aws("get-function-recursion-config", **work) == {"RecursiveLoop": "Allow"}
