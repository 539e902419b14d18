"""The operations on event source mappings. Changes hold at once for all workers that run."""

from __future__ import annotations

from typing import Final

import msgspec

from broker import errors
from broker.gateway.aws.lambda_ import mapping_rules as rules
from broker.gateway.aws.lambda_.errors import invalid, not_found
from broker.gateway.aws.lambda_.failures import NO_MAPPING, conflict
from broker.gateway.aws.lambda_.mapping_shapes import (
    CreateMappingRequest,
    Filter,
    FilterCriteria,
    ListMappingsRequest,
    MappingConfiguration,
    MappingRequest,
    MappingsPage,
    MetricsConfig,
    ProvisionedPollerConfig,
    ScalingConfig,
    UpdateMappingRequest,
)
from broker.gateway.aws.lambda_.members import shown_arn, unqualified
from broker.gateway.aws.lambda_.names import LATEST, FunctionName, read_name
from broker.gateway.aws.lambda_.paging import page_of
from broker.gateway.aws.lambda_.tag_rules import check_tags
from broker.gateway.aws.service import Call, ServiceError
from broker.mappings import change_mapping, create_mapping, delete_mapping, find_mapping, list_mappings
from broker.names import Resource
from broker.queue_settings import describe_queue
from broker.records import FunctionSettings, MappingSettings

_PAGE: Final = 100
_USER: Final = "USER_INITIATED"
_UNDECLARED: Final = "No live worker declares this mapping any more; it goes on when one does."
_DECLARED: Final = (
    "The function of mapping {name} is declared by code and cannot be changed: disable this mapping, and make one for "
    "the other function."
)


async def create(call: Call, given: CreateMappingRequest) -> MappingConfiguration:
    """CreateEventSourceMapping."""
    queue = _queue_of(call, given.event_source_arn)
    function = await _function_of(call, given.function_name)
    rules.check_parameters(given)
    check_tags(given.tags or {})
    new = MappingSettings(
        queue=queue.name,
        function=function.name,
        qualifier=function.qualifier or "",
        origin="api",
        tags=given.tags or {},
    )
    settings = rules.with_parameters(new, given)
    await _check_visibility(call, settings)
    try:
        made = await create_mapping(call.broker.core, settings)
    except errors.MappingExists as error:
        raise conflict(rules.duplicate(queue.arn, function.name, error.uuid)) from error
    return answered(call, made, state="Creating")


async def get(call: Call, given: MappingRequest) -> MappingConfiguration:
    """GetEventSourceMapping."""
    return answered(call, await _found(call, given.uuid))


async def update(call: Call, given: UpdateMappingRequest) -> MappingConfiguration:
    """UpdateEventSourceMapping."""
    before = await _found(call, given.uuid)
    rules.check_parameters(given)
    function = None if given.function_name is None else await _function_of(call, given.function_name)

    def change(stored: MappingSettings) -> MappingSettings:
        return rules.with_parameters(_moved(stored, function), given)

    after = change(before)
    if before.origin == "api":  # code may declare longer timeouts, and its mapping must still be changed
        await _check_visibility(call, after)
    try:
        after = await change_mapping(call.broker.core, before.name, change)
    except errors.MappingExists as error:
        arn = call.broker.core.resource("queue", after.queue).arn
        raise conflict(rules.duplicate(arn, after.function, error.uuid)) from error
    except errors.MappingNotFound as error:
        raise not_found(NO_MAPPING) from error
    state = "Updating"
    if after.enabled != before.enabled:
        state = "Enabling" if after.enabled else "Disabling"
    return answered(call, after, state=state)


async def delete(call: Call, given: MappingRequest) -> MappingConfiguration:
    """DeleteEventSourceMapping."""
    found = await _found(call, given.uuid)
    try:
        await delete_mapping(call.broker.core, found.name)
    except errors.MappingNotFound as error:
        raise not_found(NO_MAPPING) from error
    return answered(call, found, state="Deleting")


async def list_all(call: Call, given: ListMappingsRequest) -> MappingsPage:
    """ListEventSourceMappings."""
    found = await list_mappings(call.broker.core)
    if given.event_source_arn is not None:
        found = [each for each in found if _arn_of(call, each) == given.event_source_arn]
    if given.function_name is not None:
        wanted = read_name(call, given.function_name)
        found = [each for each in found if _names(each, wanted)]
    size = min(given.max_items or _PAGE, _PAGE)
    page, marker = page_of(found, given.marker, size=size, key=lambda each: each.name)
    return MappingsPage(event_source_mappings=[answered(call, each) for each in page], next_marker=marker)


def answered(call: Call, mapping: MappingSettings, *, state: str = "") -> MappingConfiguration:
    """The mapping as clients see it; ``state`` is the one that it is about to leave."""
    function = FunctionName(mapping.function, mapping.qualifier or None)
    limit, pollers = mapping.max_concurrency, mapping.pollers
    return MappingConfiguration(
        uuid=mapping.identity,
        event_source_mapping_arn=arn_of(call, mapping),
        event_source_arn=_arn_of(call, mapping),
        function_arn=shown_arn(call, function),
        batch_size=mapping.batch_size,
        maximum_batching_window_in_seconds=round(mapping.batch_window_s),
        function_response_types=["ReportBatchItemFailures"] if mapping.partial_failures else [],
        last_modified=mapping.modified_ms / 1000,
        state=state or ("Disabled" if mapping.asleep else "Enabled"),
        state_transition_reason=_UNDECLARED if mapping.undeclared and mapping.enabled and not state else _USER,
        filter_criteria=FilterCriteria(filters=[Filter(pattern=each) for each in mapping.filters])
        if mapping.filters
        else None,
        scaling_config=None if limit is None else ScalingConfig(maximum_concurrency=limit),
        kms_key_arn=mapping.kms_key or None,
        metrics_config=MetricsConfig(metrics=list(mapping.metrics)) if mapping.metrics else None,
        provisioned_poller_config=None
        if pollers is None
        else ProvisionedPollerConfig(minimum_pollers=pollers[0], maximum_pollers=pollers[1]),
    )


def arn_of(call: Call, mapping: MappingSettings) -> str:
    """The mapping's own ARN."""
    return f"arn:aws:lambda:{call.region}:{call.account}:event-source-mapping:{mapping.identity}"


def _arn_of(call: Call, mapping: MappingSettings) -> str:
    return call.broker.core.resource("queue", mapping.queue).arn


def _names(mapping: MappingSettings, wanted: FunctionName) -> bool:
    return mapping.function == wanted.name and (mapping.qualifier or LATEST) == (wanted.qualifier or LATEST)


async def _found(call: Call, uuid: str) -> MappingSettings:
    try:
        return await find_mapping(call.broker.core, uuid)
    except errors.MappingNotFound as error:
        raise not_found(NO_MAPPING) from error


def _queue_of(call: Call, arn: str | None) -> Resource:
    try:
        resource = Resource.from_arn(arn or "")
    except errors.InvalidName:
        raise invalid(rules.UNRECOGNIZED_SOURCE) from None
    if resource.kind != "queue":
        raise invalid(rules.UNRECOGNIZED_SOURCE)
    if (resource.account, resource.region) != (call.account, call.region):
        raise invalid(rules.NO_SUCH_QUEUE)
    return resource


async def _function_of(call: Call, text: str) -> FunctionName:
    """The function that a mapping names. Raises ServiceError where it is not there."""
    found = read_name(call, text)
    try:
        resource = unqualified(call, found)
    except ServiceError:
        raise invalid(rules.NO_SUCH_FUNCTION) from None
    if not found.latest:
        resource = call.broker.core.resource("function", found.stored)
    if await call.broker.core.directory.describe(resource) is None:
        raise invalid(rules.NO_SUCH_FUNCTION)
    return found


def _moved(mapping: MappingSettings, function: FunctionName | None) -> MappingSettings:
    if function is None:
        return mapping
    if mapping.origin == "code" and function.name != mapping.function:
        raise invalid(_DECLARED.format(name=mapping.name))
    return msgspec.structs.replace(mapping, function=function.name, qualifier=function.qualifier or "")


async def _check_visibility(call: Call, mapping: MappingSettings) -> None:
    core = call.broker.core
    try:
        queue = await describe_queue(core, core.resource("queue", mapping.queue))
    except errors.QueueNotFound as error:
        raise invalid(rules.NO_SUCH_QUEUE) from error
    described = await core.directory.describe(core.resource("function", mapping.target))
    if described is not None:
        function = msgspec.json.decode(described.settings, type=FunctionSettings)
        rules.check_visibility(queue.settings.visibility_timeout_s, function.timeout_s)
