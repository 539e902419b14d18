"""The settings of asynchronous calls: retries, age, destinations. Putting and deleting them overrules what the code
declares until it declares something else."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker import errors, limits
from broker.builds import InvokeOverlay
from broker.functions import change_function
from broker.gateway.aws.lambda_.errors import invalid, not_found
from broker.gateway.aws.lambda_.failures import NO_FUNCTION
from broker.gateway.aws.lambda_.function_shapes import (
    DestinationConfig,
    DestinationOf,
    InvokeConfigRequest,
    InvokeConfigsPage,
    InvokeConfiguration,
    ListInvokeConfigsRequest,
    QualifiedRequest,
)
from broker.gateway.aws.lambda_.functions import exists, settings_of
from broker.gateway.aws.lambda_.members import described_function, resource_of, target_of
from broker.gateway.aws.lambda_.names import LATEST, FunctionName
from broker.gateway.aws.lambda_.paging import page_of
from broker.gateway.aws.service import Call, ServiceError
from broker.names import Queue, Resource, Target
from broker.records import FunctionSettings, InvokeConfig
from broker.versions import read_catalogue, set_overlay

_PAGE: Final = 50
_NOTHING_GIVEN: Final = "You must specify at least one of error handling or destination setting."
_ITSELF: Final = "You can't specify the function as a destination for itself."
_BAD_DESTINATION: Final = "The destination ARN {arn} is invalid."
_BAD_CONFIG: Final = "The provided destination config {config} is invalid."
_NONE: Final = "The function {arn} doesn't have an EventInvokeConfig"
_USUAL: Final[dict[str, Any]] = {
    "retries": limits.DEFAULT_RETRIES,
    "max_event_age_s": limits.DEFAULT_MAX_EVENT_AGE_S,
    "on_success": None,
    "on_failure": None,
}


async def put(call: Call, given: InvokeConfigRequest) -> InvokeConfiguration:
    """PutFunctionEventInvokeConfig: what is not given is as usual afterwards."""
    return await _write(call, given, keep=False)


async def update(call: Call, given: InvokeConfigRequest) -> InvokeConfiguration:
    """UpdateFunctionEventInvokeConfig: what is not given stays."""
    return await _write(call, given, keep=True)


async def get(call: Call, given: QualifiedRequest) -> InvokeConfiguration:
    """GetFunctionEventInvokeConfig."""
    name, _, settings, changed_ms = await _function(call, given.function_name, given.qualifier)
    if not _configured(settings):
        raise not_found(_NONE.format(arn=name.qualified_arn(call)))
    return _answered(call, name, settings, changed_ms)


async def delete(call: Call, given: QualifiedRequest) -> None:
    """DeleteFunctionEventInvokeConfig: all is as usual afterwards."""
    name, resource, settings, _ = await _function(call, given.function_name, given.qualifier)
    if not _configured(settings):
        raise not_found(_NONE.format(arn=name.qualified_arn(call)))
    if name.latest:
        await _change(call, resource, {**_USUAL, "invoke_config": None})
    else:
        await set_overlay(call.broker.core, name.name, name.qualifier or "", None)


async def list_all(call: Call, given: ListInvokeConfigsRequest) -> InvokeConfigsPage:
    """ListFunctionEventInvokeConfigs: those of the function, its versions and its aliases that have any."""
    name, _, _, _ = await _function(call, given.function_name, None)
    catalogue = await read_catalogue(call.broker.core, name.name)
    qualifiers = [LATEST, *sorted(catalogue.versions, key=int), *sorted(catalogue.aliases)]
    found: list[InvokeConfiguration] = []
    for qualifier in qualifiers:
        each, _, settings, changed_ms = await _function(call, name.name, qualifier)
        if _configured(settings):
            found.append(_answered(call, each, settings, changed_ms))
    page, marker = page_of(
        list(enumerate(found)), given.marker, size=given.max_items or _PAGE, key=lambda each: f"{each[0]:09}"
    )
    return InvokeConfigsPage(function_event_invoke_configs=[each for _, each in page], next_marker=marker)


async def _write(call: Call, given: InvokeConfigRequest, *, keep: bool) -> InvokeConfiguration:
    numbers = {"retries": given.maximum_retry_attempts, "max_event_age_s": given.maximum_event_age_in_seconds}
    said = {name: value for name, value in numbers.items() if value is not None}
    if not said and given.destination_config is None:
        raise invalid(_NOTHING_GIVEN)
    name, resource, before, _ = await _function(call, given.function_name, given.qualifier)
    if keep and not _configured(before):
        raise not_found(_NONE.format(arn=name.qualified_arn(call)))
    function = call.broker.core.resource("function", name.name)
    targets = await _targets(call, function, given.destination_config)
    now_ms = await call.broker.core.messages.now_ms()
    told = set(said)
    if keep and before.invoke_config is not None:
        told |= set(before.invoke_config.told)
    config = InvokeConfig(told=tuple(sorted(told)), modified_ms=now_ms)
    base = {} if keep else _USUAL
    if name.latest:
        after = await _change(call, resource, {**base, **said, **targets, "invoke_config": config})
    else:
        after = await _overlay(call, name, before if keep else FunctionSettings(), {**said, **targets}, config)
    return _answered(call, name, after, now_ms)


async def _overlay(
    call: Call, name: FunctionName, before: FunctionSettings, changes: dict[str, Any], config: InvokeConfig
) -> FunctionSettings:
    """Of a version or alias; each has its own, which says all there is to say."""
    kept = {field: getattr(before, field) for field in _USUAL}
    overlay = InvokeOverlay(**{**kept, **changes}, config=config)
    try:
        await set_overlay(call.broker.core, name.name, name.qualifier or "", overlay)
    except errors.VersionNotFound as error:
        raise not_found(NO_FUNCTION) from error
    return msgspec.structs.replace(before, **{**kept, **changes}, invoke_config=config)


async def _change(call: Call, resource: Resource, changes: dict[str, Any]) -> FunctionSettings:
    def change(stored: FunctionSettings) -> FunctionSettings:
        if changes.get("retries") and not stored.retry_delays_s:
            return msgspec.structs.replace(stored, **changes, retry_delays_s=limits.DEFAULT_RETRY_DELAYS_S)
        return msgspec.structs.replace(stored, **changes)

    try:
        return await change_function(call.broker.core, resource, change)
    except errors.FunctionNotFound as error:
        raise not_found(NO_FUNCTION) from error


async def _function(
    call: Call, given: str, qualifier: str | None
) -> tuple[FunctionName, Resource, FunctionSettings, int]:
    try:
        name, resource, described = await described_function(call, given, qualifier)
    except ServiceError as error:
        if error.name == "ResourceNotFoundException":
            raise not_found(NO_FUNCTION) from None
        raise
    return name, resource, settings_of(described), described.changed_ms


def _configured(settings: FunctionSettings) -> bool:
    """Whether anything was said of it, by the API or by code that differs from the usual."""
    return settings.invoke_config is not None or any(getattr(settings, name) != usual for name, usual in _USUAL.items())


def _answered(call: Call, name: FunctionName, settings: FunctionSettings, changed_ms: int) -> InvokeConfiguration:
    config = settings.invoke_config or InvokeConfig(modified_ms=changed_ms)
    shown = {
        field: round(getattr(settings, field))
        for field in ("retries", "max_event_age_s")
        if field in config.told or getattr(settings, field) != _USUAL[field]
    }
    return InvokeConfiguration(
        last_modified=config.modified_ms / 1000,
        function_arn=name.qualified_arn(call),
        maximum_retry_attempts=shown.get("retries"),
        maximum_event_age_in_seconds=shown.get("max_event_age_s"),
        destination_config=DestinationConfig(
            on_success=_destination(call, settings.on_success), on_failure=_destination(call, settings.on_failure)
        ),
    )


def _destination(call: Call, target: Target | None) -> DestinationOf:
    return DestinationOf() if target is None else DestinationOf(destination=resource_of(call, target).arn)


async def _targets(call: Call, function: Resource, given: DestinationConfig | None) -> dict[str, Target | None]:
    if given is None:
        return {}
    found: dict[str, Target | None] = {}
    for field, each in (("on_success", given.on_success), ("on_failure", given.on_failure)):
        if each is None:
            continue
        arn = each.destination
        found[field] = await _target(call, function, given, arn) if arn else None
    return found


async def _target(call: Call, function: Resource, given: DestinationConfig, arn: str) -> Target:
    target = target_of(call, arn)
    if target is None or (isinstance(target, Queue) and resource_of(call, target).fifo):
        raise invalid(_BAD_CONFIG.format(config=_spelled(given)))
    if resource_of(call, target) == function:
        raise invalid(_ITSELF)
    if not await exists(call, target):
        raise invalid(_BAD_DESTINATION.format(arn=arn))
    return target


def _spelled(given: DestinationConfig) -> str:
    """As the real service writes it."""
    on_success = _spelled_part("OnSuccess", given.on_success)
    on_failure = _spelled_part("OnFailure", given.on_failure)
    return f"DestinationConfig(onSuccess={on_success}, onFailure={on_failure})"


def _spelled_part(kind: str, part: DestinationOf | None) -> str:
    return "null" if part is None else f"{kind}(destination={part.destination or 'null'})"
