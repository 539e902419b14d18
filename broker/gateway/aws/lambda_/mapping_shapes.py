"""Inputs and outputs of the operations on event source mappings, as Lambda's model has them."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from broker.gateway.aws.lambda_.members import ARN_PATTERN, MarkerInQuery, MaxItemsInQuery
from broker.gateway.aws.lambda_.names import NAME_PATTERN

_KMS_PATTERN: Final = r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()"
_FunctionName: TypeAlias = Annotated[str, Meta(extra={"pattern": NAME_PATTERN, "min": 1, "max": 256})]
_KmsKeyArn: TypeAlias = Annotated[str | None, Meta(extra={"pattern": _KMS_PATTERN, "max": 10_000})]
_BatchSize: TypeAlias = Annotated[int | None, Meta(extra={"min": 1, "max": 10_000})]
_Window: TypeAlias = Annotated[int | None, Meta(extra={"min": 0, "max": 300})]
_Uuid: TypeAlias = Annotated[str, Meta(extra={"in": "path", "name": "UUID"})]


class Filter(msgspec.Struct, frozen=True, rename="pascal"):
    """One pattern."""

    pattern: str | None = None


class FilterCriteria(msgspec.Struct, frozen=True, rename="pascal"):
    """Patterns, of which a message must match one."""

    filters: list[Filter] | None = None


class ScalingConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How many batches run at a time; without a number there is no limit."""

    maximum_concurrency: Annotated[int | None, Meta(extra={"min": 2, "max": 1_000})] = None


class MetricsConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """Which metrics are wanted; kept."""

    metrics: Annotated[list[str] | None, Meta(extra={"max": 3})] = None


class ProvisionedPollerConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Fewest and most pollers; kept."""

    minimum_pollers: Annotated[int | None, Meta(extra={"min": 1, "max": 200})] = None
    maximum_pollers: Annotated[int | None, Meta(extra={"min": 1, "max": 10_000})] = None
    poller_group_name: str | None = None


class MappingParameters(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What can be said of a mapping when it is made and when it is changed; the last ones are of other sources."""

    enabled: bool | None = None
    batch_size: _BatchSize = None
    filter_criteria: FilterCriteria | None = None
    kms_key_arn: _KmsKeyArn = msgspec.field(name="KMSKeyArn", default=None)
    metrics_config: MetricsConfig | None = None
    scaling_config: ScalingConfig | None = None
    maximum_batching_window_in_seconds: _Window = None
    function_response_types: list[str] | None = None
    provisioned_poller_config: ProvisionedPollerConfig | None = None
    destination_config: Any = None
    logging_config: Any = None
    parallelization_factor: Any = None
    maximum_record_age_in_seconds: Any = None
    bisect_batch_on_function_error: Any = None
    maximum_retry_attempts: Any = None
    tumbling_window_in_seconds: Any = None
    source_access_configurations: Any = None
    amazon_managed_kafka_event_source_config: Any = None
    self_managed_kafka_event_source_config: Any = None
    document_db_event_source_config: Any = msgspec.field(name="DocumentDBEventSourceConfig", default=None)


class CreateMappingRequest(MappingParameters, frozen=True, kw_only=True, rename="pascal"):
    """CreateEventSourceMapping."""

    function_name: _FunctionName
    event_source_arn: Annotated[str | None, Meta(extra={"pattern": ARN_PATTERN, "max": 10_000})] = None
    tags: dict[str, str] | None = None
    starting_position: Any = None
    starting_position_timestamp: Any = None
    topics: Any = None
    queues: Any = None
    self_managed_event_source: Any = None


class UpdateMappingRequest(MappingParameters, frozen=True, kw_only=True, rename="pascal"):
    """UpdateEventSourceMapping."""

    uuid: _Uuid = msgspec.field(name="UUID")
    function_name: Annotated[str | None, Meta(extra={"pattern": NAME_PATTERN, "min": 1, "max": 256})] = None


class MappingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """GetEventSourceMapping and DeleteEventSourceMapping."""

    uuid: _Uuid


class ListMappingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListEventSourceMappings."""

    event_source_arn: Annotated[
        str | None, Meta(extra={"in": "query", "name": "EventSourceArn", "pattern": ARN_PATTERN, "max": 10_000})
    ] = None
    function_name: Annotated[
        str | None,
        Meta(extra={"in": "query", "name": "FunctionName", "pattern": NAME_PATTERN, "min": 1, "max": 256}),
    ] = None
    marker: MarkerInQuery = None
    max_items: MaxItemsInQuery = None


class MappingConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """A mapping as every operation answers it."""

    uuid: str = msgspec.field(name="UUID")
    event_source_mapping_arn: str
    event_source_arn: str
    function_arn: str
    batch_size: int
    maximum_batching_window_in_seconds: int
    function_response_types: list[str]
    last_modified: float
    state: str
    state_transition_reason: str
    filter_criteria: FilterCriteria | None = None
    scaling_config: ScalingConfig | None = None
    kms_key_arn: str | None = msgspec.field(name="KMSKeyArn", default=None)
    metrics_config: MetricsConfig | None = None
    provisioned_poller_config: ProvisionedPollerConfig | None = None


class MappingsPage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ListEventSourceMappings' answer."""

    event_source_mappings: list[MappingConfiguration]
    next_marker: str | None = None
