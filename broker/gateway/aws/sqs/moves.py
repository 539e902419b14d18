"""Message move tasks: started, cancelled and listed; whatever process keeps the queues up moves the messages."""

from __future__ import annotations

from typing import Final

from broker.errors import InvalidOption, MoveInProgress, MoveNotFound, QueueNotFound
from broker.gateway.aws.service import Call, ServiceError
from broker.gateway.aws.sqs import shapes
from broker.gateway.aws.sqs.access import check_own, core_of
from broker.gateway.aws.sqs.errors import invalid, invalid_value, missing
from broker.gateway.aws.sqs.redrive import queue_of_arn
from broker.moves import MAX_LISTED, MAX_RATE_PER_S, MoveTask, cancel_move, dead_letter_sources, list_moves, start_move
from broker.names import Resource
from broker.queue_settings import describe_queue

_ARN_FORM: Final = "arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
_RUNNING: Final = (
    "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
)


async def start(call: Call, wanted: shapes.StartMessageMoveTaskRequest) -> shapes.StartMessageMoveTaskResult:
    """Starts moving the messages of a dead-letter queue."""
    source = await _existing(call, "SourceArn", wanted.source_arn, "StartMessageMoveTask")
    rate = wanted.max_number_of_messages_per_second
    if rate is not None and not 1 <= rate <= MAX_RATE_PER_S:
        reason = f"Must be an integer between 1 and {MAX_RATE_PER_S}, if provided."
        raise invalid_value("MaxNumberOfMessagesPerSecond", rate, reason)
    core = core_of(call, source)
    if not await dead_letter_sources(core, source):
        raise invalid("Source queue must be configured as a Dead Letter Queue.")
    destination = None
    if wanted.destination_arn:
        destination = await _existing(call, "DestinationArn", wanted.destination_arn, "StartMessageMoveTask")
    try:
        task = await start_move(core, source, destination=destination, max_per_s=rate)
    except MoveInProgress as error:
        raise ServiceError("UnsupportedOperation", _RUNNING) from error
    return shapes.StartMessageMoveTaskResult(task_handle=task.handle)


async def _existing(call: Call, parameter: str, arn: str, action: str) -> Resource:
    """The queue of an ARN. Raises MissingParameter, InvalidParameterValue, AccessDenied, ResourceNotFoundException."""
    if not arn:
        raise missing(parameter)
    queue = queue_of_arn(arn)
    if queue is None:
        raise invalid(f"You must use this format to specify the {parameter}: {_ARN_FORM}")
    check_own(call, queue, action)
    try:
        if queue.region == call.region:
            await describe_queue(call.broker.core, queue)
            return queue
    except QueueNotFound:
        pass
    said = f"The resource that you specified for the {parameter} parameter doesn't exist."
    raise ServiceError("ResourceNotFoundException", said)


async def cancel(call: Call, wanted: shapes.CancelMessageMoveTaskRequest) -> shapes.CancelMessageMoveTaskResult:
    """Ends a task; what it has moved stays moved."""
    if not wanted.task_handle:
        raise missing("TaskHandle")
    try:
        task = await cancel_move(call.broker.core, wanted.task_handle)
    except InvalidOption as error:
        raise invalid("Value for parameter TaskHandle is invalid.") from error
    except MoveNotFound as error:
        raise ServiceError("ResourceNotFoundException", "Task does not exist.") from error
    return shapes.CancelMessageMoveTaskResult(approximate_number_of_messages_moved=task.moved)


async def list_tasks(call: Call, wanted: shapes.ListMessageMoveTasksRequest) -> shapes.ListMessageMoveTasksResult:
    """The newest tasks of a queue."""
    count = 1 if wanted.max_results is None else wanted.max_results
    if not 1 <= count <= MAX_LISTED:
        reason = f"Must be an integer between 1 and {MAX_LISTED}, if provided."
        raise invalid_value("MaxResults", count, reason)
    source = await _existing(call, "SourceArn", wanted.source_arn, "ListMessageMoveTasks")
    tasks = await list_moves(core_of(call, source), source, count=count)
    return shapes.ListMessageMoveTasksResult(results=[_shown(task) for task in tasks] or None)


def _shown(task: MoveTask) -> shapes.ListMessageMoveTasksResultEntry:
    return shapes.ListMessageMoveTasksResultEntry(
        task_handle=task.handle if task.status == "RUNNING" else None,
        status=task.status,
        source_arn=task.source.arn,
        destination_arn=task.destination.arn if task.destination else None,
        max_number_of_messages_per_second=task.max_per_s,
        approximate_number_of_messages_moved=task.moved,
        approximate_number_of_messages_to_move=task.to_move,
        failure_reason=task.failure_reason or None,
        started_timestamp=task.started_ms,
    )
