"""Message move tasks: back to the sources or elsewhere, at a rate, listed and cancelled (sqs.md 3 and 8)."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from typing import Any

import pytest

from tests.wire.clients import Sqs
from tests.wire.gateway import WireClock

SOON_S = 20.0
MANY = 30


def redrive_policy(arn: str) -> str:
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})


@pytest.fixture
def dead(sqs: Sqs) -> str:
    """A dead-letter queue, of the queues `source` and `other`."""
    url = sqs.queue("dead")
    for name in ("source", "other"):
        sqs.queue(name, VisibilityTimeout="0", RedrivePolicy=redrive_policy(sqs.arn(url)))
    return url


def url_of(sqs: Sqs, name: str) -> str:
    return f"{sqs.endpoint}/{sqs.account}/{name}"


def die(sqs: Sqs, dead: str, name: str, count: int) -> None:
    """Lets messages of a queue become dead letters, and waits until they are there."""
    url, before = url_of(sqs, name), sqs.counts(dead)[0]
    for number in range(count):
        sqs.send(url, f"{name}{number}")
    received = 0
    while received < count:
        received += len(sqs.receive(url, VisibilityTimeout=0))
    assert sqs.receive(url) == []
    until(lambda: sqs.counts(dead)[0] == before + count)


def until(condition: Any) -> None:
    """Asks until it holds: what the gateway does in the background ends by itself, and tells nobody."""
    deadline, pause = time.monotonic() + SOON_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        pause.wait(0.01)


def tasks(sqs: Sqs, dead: str, count: int = 10) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sqs.list_message_move_tasks(SourceArn=sqs.arn(dead), MaxResults=count).get(
        "Results", []
    )
    return found


def ended(sqs: Sqs, dead: str) -> dict[str, Any]:
    """The newest task, once it does nothing more."""
    until(lambda: tasks(sqs, dead)[0]["Status"] not in {"RUNNING", "CANCELLING"})
    return tasks(sqs, dead)[0]


# -- moving -----------------------------------------------------------------------------------------------------------


def test_without_a_destination_each_message_returns_to_its_own_source(sqs: Sqs, dead: str) -> None:
    die(sqs, dead, "source", 3)
    die(sqs, dead, "other", 2)
    assert sqs.start_message_move_task(SourceArn=sqs.arn(dead))["TaskHandle"]
    task = ended(sqs, dead)
    assert task["Status"] == "COMPLETED"
    assert (task["ApproximateNumberOfMessagesMoved"], task["ApproximateNumberOfMessagesToMove"]) == (5, 5)
    until(lambda: sqs.counts(url_of(sqs, "source"))[0] == 3 and sqs.counts(url_of(sqs, "other"))[0] == 2)
    assert sqs.counts(dead) == (0, 0, 0)
    assert sorted(sqs.bodies(url_of(sqs, "other"))) == ["other0", "other1"]


def test_with_a_destination_all_messages_go_there(sqs: Sqs, dead: str) -> None:
    die(sqs, dead, "source", 2)
    target = sqs.queue("target")
    sqs.start_message_move_task(SourceArn=sqs.arn(dead), DestinationArn=sqs.arn(target))
    task = ended(sqs, dead)
    assert (task["Status"], task["DestinationArn"]) == ("COMPLETED", sqs.arn(target))
    until(lambda: sqs.counts(target)[0] == 2)
    assert sorted(sqs.bodies(target)) == ["source0", "source1"]


def test_what_was_sent_straight_to_the_dead_letter_queue_can_be_moved_to_a_destination(sqs: Sqs, dead: str) -> None:
    target = sqs.queue("target")
    sqs.send(dead, "by hand")
    sqs.start_message_move_task(SourceArn=sqs.arn(dead), DestinationArn=sqs.arn(target))
    assert ended(sqs, dead)["ApproximateNumberOfMessagesMoved"] == 1
    assert sqs.bodies(target, WaitTimeSeconds=10) == ["by hand"]


def test_a_fifo_dead_letter_queue_is_moved_in_order(sqs: Sqs) -> None:
    content = {"ContentBasedDeduplication": "true"}
    dead = sqs.queue("dead.fifo", **content)
    policy = redrive_policy(sqs.arn(dead))
    source = sqs.queue("source.fifo", VisibilityTimeout="0", RedrivePolicy=policy, **content)
    bodies = [f"a{number}" for number in range(4)]
    for body in bodies:
        sqs.send(source, body, MessageGroupId="a")
    assert sqs.bodies(source) == bodies
    assert sqs.receive(source) == []
    until(lambda: sqs.counts(dead)[0] == 4)
    sqs.start_message_move_task(SourceArn=sqs.arn(dead))
    assert ended(sqs, dead)["Status"] == "COMPLETED"
    until(lambda: sqs.counts(source)[0] == 4)
    assert sqs.bodies(source) == bodies


def test_a_destination_that_is_deleted_fails_the_task(sqs: Sqs, dead: str, clock: WireClock) -> None:
    target = sqs.queue("target")
    for number in range(4):
        sqs.send(dead, str(number))
    start = {"SourceArn": sqs.arn(dead), "DestinationArn": sqs.arn(target), "MaxNumberOfMessagesPerSecond": 1}
    sqs.start_message_move_task(**start)
    sqs.delete_queue(QueueUrl=target)

    def over() -> bool:
        clock.advance(1)
        return bool(tasks(sqs, dead)[0]["Status"] != "RUNNING")

    until(over)
    task = ended(sqs, dead)
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "AWS.SimpleQueueService.NonExistentQueue")
    assert "TaskHandle" not in task


# -- what a task tells ------------------------------------------------------------------------------------------------


def slow(sqs: Sqs, dead: str) -> str:
    """Starts a task that moves a message a second, and has some to do."""
    for start in range(0, MANY, 10):
        entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(start, start + 10)]
        sqs.send_message_batch(QueueUrl=dead, Entries=entries)
    target = sqs.arn(sqs.queue("target"))
    arguments = {"SourceArn": sqs.arn(dead), "DestinationArn": target, "MaxNumberOfMessagesPerSecond": 1}
    handle: str = sqs.start_message_move_task(**arguments)["TaskHandle"]
    return handle


def test_a_running_task_tells_its_handle_rate_and_start(sqs: Sqs, dead: str) -> None:
    before = int(time.time() * 1000)
    handle = slow(sqs, dead)
    (task,) = tasks(sqs, dead)
    assert (task["Status"], task["TaskHandle"]) == ("RUNNING", handle)
    assert (task["SourceArn"], task["MaxNumberOfMessagesPerSecond"]) == (sqs.arn(dead), 1)
    assert task["ApproximateNumberOfMessagesToMove"] == MANY
    assert before - 1 <= task["StartedTimestamp"] <= time.time() * 1000 + 1


def test_a_task_keeps_its_rate(sqs: Sqs, dead: str, clock: WireClock) -> None:
    slow(sqs, dead)
    target, started_ms = url_of(sqs, "target"), tasks(sqs, dead)[0]["StartedTimestamp"]
    while tasks(sqs, dead)[0]["Status"] == "RUNNING":
        before = sqs.counts(target)[0]
        until(lambda least=before: sqs.counts(target)[0] > least or tasks(sqs, dead)[0]["Status"] != "RUNNING")
        moved = sqs.counts(target)[0]
        assert moved <= 1 + (clock.now_ms() - started_ms) / 1000
        clock.advance(5)
    assert ended(sqs, dead)["Status"] == "COMPLETED"
    assert sqs.counts(target)[0] == MANY


def test_a_task_that_has_ended_has_no_handle(sqs: Sqs, dead: str) -> None:
    sqs.start_message_move_task(SourceArn=sqs.arn(dead))
    task = ended(sqs, dead)
    assert task["Status"] == "COMPLETED"
    assert "TaskHandle" not in task


def test_one_task_at_a_time_runs_for_a_source(sqs: Sqs, dead: str) -> None:
    slow(sqs, dead)
    refusal = sqs.refusal("start_message_move_task", SourceArn=sqs.arn(dead))
    said = "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
    assert (refusal.message, refusal.status) == (said, 400)


def test_tasks_are_listed_newest_first_and_one_if_nothing_is_said(sqs: Sqs, dead: str, clock: WireClock) -> None:
    assert tasks(sqs, dead) == []
    for _ in range(3):
        sqs.start_message_move_task(SourceArn=sqs.arn(dead))
        ended(sqs, dead)
        clock.advance(1)
    found = tasks(sqs, dead)
    started = [task["StartedTimestamp"] for task in found]
    assert started == sorted(started, reverse=True)
    assert len(started) == 3
    assert sqs.list_message_move_tasks(SourceArn=sqs.arn(dead))["Results"] == found[:1]


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_leaves_what_it_moved_where_it_is(sqs: Sqs, dead: str) -> None:
    handle = slow(sqs, dead)
    until(lambda: sqs.counts(url_of(sqs, "target"))[0] >= 1)
    answer = sqs.cancel_message_move_task(TaskHandle=handle)
    task = ended(sqs, dead)
    assert task["Status"] == "CANCELLED"
    moved = sqs.counts(url_of(sqs, "target"))[0]
    assert 1 <= answer["ApproximateNumberOfMessagesMoved"] <= moved == task["ApproximateNumberOfMessagesMoved"]
    assert sqs.counts(dead)[0] == MANY - moved


def test_after_a_cancelled_task_another_can_be_started(sqs: Sqs, dead: str) -> None:
    sqs.cancel_message_move_task(TaskHandle=slow(sqs, dead))
    ended(sqs, dead)
    sqs.start_message_move_task(SourceArn=sqs.arn(dead), DestinationArn=sqs.arn(sqs.queue("target")))
    assert ended(sqs, dead)["Status"] == "COMPLETED"
    until(lambda: sqs.counts(url_of(sqs, "target"))[0] == MANY)


def test_a_task_that_has_ended_cannot_be_cancelled(sqs: Sqs, dead: str) -> None:
    handle = sqs.start_message_move_task(SourceArn=sqs.arn(dead))["TaskHandle"]
    ended(sqs, dead)
    refusal = sqs.refusal("cancel_message_move_task", TaskHandle=handle)
    assert refusal.code in {
        "ResourceNotFoundException",
        "InvalidParameterValue",
        "AWS.SimpleQueueService.UnsupportedOperation",
    }


def test_a_task_that_does_not_exist_cannot_be_cancelled(sqs: Sqs, dead: str) -> None:
    known = json.loads(base64.b64decode(slow(sqs, dead)))
    unknown = json.dumps(known | {"taskId": str(uuid.uuid4())}).encode()
    refusal = sqs.refusal("cancel_message_move_task", TaskHandle=base64.b64encode(unknown).decode())
    assert refusal == ("ResourceNotFoundException", "Task does not exist.", 404)
    assert tasks(sqs, dead)[0]["Status"] == "RUNNING"


@pytest.mark.parametrize("handle", ["garbage", "Zm9v", "é"])
def test_a_bad_handle_is_refused(sqs: Sqs, handle: str) -> None:
    refusal = sqs.refusal("cancel_message_move_task", TaskHandle=handle)
    assert refusal == ("InvalidParameterValue", "Value for parameter TaskHandle is invalid.", 400)


# -- what is refused --------------------------------------------------------------------------------------------------


def not_there(parameter: str) -> tuple[str, str, int]:
    said = f"The resource that you specified for the {parameter} parameter doesn't exist."
    return "ResourceNotFoundException", said, 404


def test_a_source_that_does_not_exist_is_refused(sqs: Sqs) -> None:
    arn = f"arn:aws:sqs:us-east-1:{sqs.account}:nothing"
    assert sqs.refusal("start_message_move_task", SourceArn=arn) == not_there("SourceArn")
    assert sqs.refusal("list_message_move_tasks", SourceArn=arn) == not_there("SourceArn")


def test_a_destination_that_does_not_exist_is_refused(sqs: Sqs, dead: str) -> None:
    arn = f"arn:aws:sqs:us-east-1:{sqs.account}:nothing"
    refusal = sqs.refusal("start_message_move_task", SourceArn=sqs.arn(dead), DestinationArn=arn)
    assert refusal == not_there("DestinationArn")


def test_a_source_that_is_no_dead_letter_queue_is_refused(sqs: Sqs) -> None:
    refusal = sqs.refusal("start_message_move_task", SourceArn=sqs.arn(sqs.queue()))
    said = "Source queue must be configured as a Dead Letter Queue."
    assert refusal == ("InvalidParameterValue", said, 400)


@pytest.mark.parametrize("arn", ["dummy", "arn:aws:sns:us-east-1:000000000000:topic", "arn:aws:sqs:us-east-1:1:q"])
def test_an_arn_that_names_no_queue_is_refused(sqs: Sqs, arn: str) -> None:
    refusal = sqs.refusal("start_message_move_task", SourceArn=arn)
    assert refusal.code in {"InvalidParameterValue", "ResourceNotFoundException"}


@pytest.mark.parametrize("rate", [0, 501, -1])
def test_a_rate_outside_its_range_is_refused(sqs: Sqs, dead: str, rate: int) -> None:
    refusal = sqs.refusal("start_message_move_task", SourceArn=sqs.arn(dead), MaxNumberOfMessagesPerSecond=rate)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)


@pytest.mark.parametrize("count", [0, 11])
def test_a_number_of_results_outside_its_range_is_refused(sqs: Sqs, dead: str, count: int) -> None:
    refusal = sqs.refusal("list_message_move_tasks", SourceArn=sqs.arn(dead), MaxResults=count)
    assert (refusal.code, refusal.status) == ("InvalidParameterValue", 400)
