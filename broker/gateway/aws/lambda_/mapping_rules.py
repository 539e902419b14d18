"""The rules of event source mappings on queues: decided from values alone."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker import filter_criteria, limits
from broker.event_patterns import InvalidPattern
from broker.filter_criteria import SQS_BODY, RecordFilter
from broker.gateway.aws.bounds import violation, violations
from broker.gateway.aws.lambda_.errors import invalid
from broker.gateway.aws.lambda_.mapping_shapes import FilterCriteria, MappingParameters, ProvisionedPollerConfig
from broker.records import MappingSettings

_PARTIAL: Final = "ReportBatchItemFailures"
_EVENT_COUNT: Final = "EventCount"
_METRICS: Final = (_EVENT_COUNT, "ErrorCount", "KafkaMetrics")
_FIFO_BATCH: Final = 10
_LEAST_POLLERS: Final = 2
_DEFAULT_POLLERS: Final = (2, 200)
_OF_OTHER_SOURCES: Final = (
    "destination_config",
    "logging_config",
    "parallelization_factor",
    "starting_position",
    "starting_position_timestamp",
    "maximum_record_age_in_seconds",
    "bisect_batch_on_function_error",
    "maximum_retry_attempts",
    "tumbling_window_in_seconds",
    "topics",
    "queues",
    "source_access_configurations",
    "self_managed_event_source",
    "amazon_managed_kafka_event_source_config",
    "self_managed_kafka_event_source_config",
    "document_db_event_source_config",
)
UNRECOGNIZED_SOURCE: Final = "Unrecognized event source."
NO_SUCH_FUNCTION: Final = "Function does not exist"
NO_SUCH_QUEUE: Final = (
    "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
    "SQS Error Message: The specified queue does not exist."
)
_WINDOW_NEEDED: Final = (
    "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
)
_DUPLICATE: Final = (
    'An event source mapping with SQS arn (" {arn} ") and function (" {function} ") already exists. '
    "Please update or delete the existing mapping with UUID {uuid}"
)
_BAD_PATTERN: Final = "Invalid filter pattern definition."


def duplicate(arn: str, function: str, uuid: str) -> str:
    """What is said where the pair is mapped already."""
    return _DUPLICATE.format(arn=arn, function=function, uuid=uuid)


def check_parameters(given: MappingParameters) -> None:
    """Raises ServiceError for what no queue's mapping takes, or values that are none."""
    types = given.function_response_types or []
    broken = [each for each in types if each != _PARTIAL]
    if broken:
        rule = f"satisfy constraint: [Member must satisfy enum value set: [{_PARTIAL}]]"
        raise violations([violation(f"[{', '.join(types)}]", "functionResponseTypes", rule)])
    if len(types) > 1:
        rule = "have length less than or equal to 1"
        raise violations([violation(f"[{', '.join(types)}]", "functionResponseTypes", rule)])
    for name in _OF_OTHER_SOURCES:
        if getattr(given, name, None) not in (None, [], {}):
            raise invalid(f"Unsupported {_shown(given, name)} parameter for given event source mapping type.")
    _check_metrics(given)


def _shown(given: MappingParameters, name: str) -> str:
    fields = msgspec.structs.fields(given)
    return next(field.encode_name for field in fields if field.name == name)


def _check_metrics(given: MappingParameters) -> None:
    metrics = [] if given.metrics_config is None else given.metrics_config.metrics or []
    if any(metric not in _METRICS for metric in metrics):
        rule = f"satisfy constraint: [Member must satisfy enum value set: [{', '.join(_METRICS)}]]"
        raise violations([violation(f"[{', '.join(metrics)}]", "metricsConfig.metrics", rule)])
    if any(metric != _EVENT_COUNT for metric in metrics):
        raise invalid("Unsupported MetricsConfig parameter for given event source mapping type: only EventCount.")


def with_parameters(before: MappingSettings, given: MappingParameters) -> MappingSettings:
    """The mapping with what is given; what is given empty is taken away. Raises ServiceError."""
    changes: dict[str, Any] = {}
    if given.enabled is not None:
        changes["enabled"] = given.enabled
    if given.batch_size is not None:
        changes["batch_size"] = given.batch_size
    if given.maximum_batching_window_in_seconds is not None:
        changes["batch_window_s"] = given.maximum_batching_window_in_seconds
    if given.function_response_types is not None:
        changes["partial_failures"] = bool(given.function_response_types)
    if given.filter_criteria is not None:
        changes["filters"] = _patterns(given.filter_criteria)
    if given.scaling_config is not None:
        changes["max_concurrency"] = given.scaling_config.maximum_concurrency
    if given.metrics_config is not None:
        changes["metrics"] = tuple(given.metrics_config.metrics or ())
    if given.kms_key_arn is not None:
        changes["kms_key"] = given.kms_key_arn
    if given.provisioned_poller_config is not None:
        changes["pollers"] = _pollers(given.provisioned_poller_config, before.pollers)
    after = msgspec.structs.replace(before, **changes)
    _check_together(after, changes)
    return after


def _patterns(given: FilterCriteria) -> tuple[str, ...]:
    patterns = tuple(each.pattern or "" for each in given.filters or ())
    try:
        RecordFilter(filter_criteria.FilterCriteria.of(*patterns), SQS_BODY)
    except InvalidPattern:
        raise invalid(_BAD_PATTERN) from None
    return patterns


def _pollers(given: ProvisionedPollerConfig, before: tuple[int, int] | None) -> tuple[int, int] | None:
    if given.poller_group_name:
        raise invalid("Unsupported PollerGroupName parameter for given event source mapping type.")
    if given.minimum_pollers is None and given.maximum_pollers is None:
        return None
    least, most = before or _DEFAULT_POLLERS
    least = least if given.minimum_pollers is None else given.minimum_pollers
    most = max(most, least) if given.maximum_pollers is None else given.maximum_pollers
    if least < _LEAST_POLLERS or most < _LEAST_POLLERS:
        raise invalid("MinimumPollers and MaximumPollers of an SQS event source mapping must be at least 2")
    if least > most:
        raise invalid(f"MinimumPollers ({least}) must not be greater than MaximumPollers ({most})")
    return least, most


def _check_together(settings: MappingSettings, changes: dict[str, Any]) -> None:
    """What one parameter allows another; only of what the request is about, so that code may declare more."""
    fifo = settings.queue.endswith(".fifo")
    if {"batch_size", "batch_window_s"} & changes.keys():
        if fifo and settings.batch_window_s:
            raise invalid("Batching window is not supported for FIFO queues")
        if fifo and settings.batch_size > _FIFO_BATCH:
            raise invalid(f"Batch size {settings.batch_size} is not supported for FIFO queues: the maximum is 10")
        if settings.batch_size > limits.DEFAULT_BATCH_SIZE and settings.batch_window_s < 1:
            raise invalid(_WINDOW_NEEDED)
    if {"pollers", "max_concurrency"} & changes.keys() and settings.pollers and settings.max_concurrency:
        raise invalid("ScalingConfig and ProvisionedPollerConfig exclude each other: give one of them")


def check_visibility(visibility_timeout_s: float, timeout_s: float) -> None:
    """Raises ServiceError where a batch could be visible again while it runs."""
    if visibility_timeout_s < timeout_s:
        raise invalid(
            f"Queue visibility timeout: {visibility_timeout_s:g} seconds is less than "
            f"Function timeout: {timeout_s:g} seconds"
        )
