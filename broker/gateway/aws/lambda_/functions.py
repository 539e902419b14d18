"""The operations on functions themselves: what is registered, and what may be changed of it."""

from __future__ import annotations

import math
import time
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec

from broker import errors
from broker.builds import code_digest
from broker.environment import RESERVED, VARIABLE_PATTERN, badly_named, check_environment, measured, too_much
from broker.functions import change_function
from broker.gateway.aws.bounds import violations
from broker.gateway.aws.lambda_.errors import invalid, unknown_function
from broker.gateway.aws.lambda_.failures import STALE_REVISION, UNQUALIFIED_ONLY
from broker.gateway.aws.lambda_.function_shapes import (
    Concurrency,
    DeadLetterConfig,
    Environment,
    FunctionConfiguration,
    FunctionsPage,
    GetFunctionResponse,
    ListFunctionsRequest,
    QualifiedRequest,
    UpdateFunctionRequest,
)
from broker.gateway.aws.lambda_.members import described_function, resource_of, shown_arn, target_of
from broker.gateway.aws.lambda_.names import LATEST, FunctionName
from broker.gateway.aws.lambda_.paging import page_of
from broker.gateway.aws.service import Call, ServiceError
from broker.names import Queue, Resource, Target
from broker.records import FunctionSettings
from broker.store.directory import Described
from broker.versions import read_catalogues
from broker.workers import live_workers

_PAGE: Final = 50
_IDLE: Final = "No live worker serves the function."
_UNCHANGEABLE: Final = (
    "{name} cannot be changed through the API: functions run in the process of their worker, with its code and "
    "resources. Change it where the worker is deployed."
)
_RESERVED_VARIABLES: Final = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
    "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: "
    "{names}"
)
_TOO_MANY_VARIABLES: Final = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
    "exceeded the 4KB limit. String measured: {measured}"
)
_BAD_TARGET: Final = "The dead-letter target {arn} is invalid: the ARN of a standard queue, a function or a stream here"
_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "vpc_config": ({}, {"SubnetIds": [], "SecurityGroupIds": []}),
    "kms_key_arn": ("",),
    "tracing_config": ({}, {"Mode": "PassThrough"}),
    "layers": ([],),
    "file_system_configs": ([],),
    "snap_start": ({"ApplyOn": "None"},),
}
"""What tools send that have nothing to change."""
_UNCHANGING: Final = (
    *("role", "handler", "vpc_config", "runtime", "kms_key_arn", "tracing_config"),
    *("layers", "file_system_configs", "image_config", "ephemeral_storage", "snap_start", "logging_config"),
    *("capacity_provider_config", "durable_config", "runtime_config", "accelerator_config"),
)


async def list_all(call: Call, given: ListFunctionsRequest) -> FunctionsPage:
    """ListFunctions."""
    names: list[str] = await call.broker.functions()
    items = [(name, 0) for name in names]
    if given.function_version == "ALL":
        catalogues = await read_catalogues(call.broker.core, set(names))
        items += [(name, version.number) for name, each in catalogues.items() for version in each.versions.values()]
    size = min(given.max_items or _PAGE, _PAGE)
    page, marker = page_of(sorted(items), given.marker, size=size, key=lambda item: f"{item[0]} {item[1]:09}")
    served = await served_names(call)
    found: list[FunctionConfiguration] = []
    for name, number in page:
        latest = None if given.function_version is None else LATEST
        each = FunctionName(name, str(number) if number else latest)
        described = await call.broker.core.directory.describe(call.broker.core.resource("function", each.stored))
        if described is not None:  # deleted meanwhile
            found.append(configuration(call, each, described, served=each.stored in served))
    return FunctionsPage(functions=found, next_marker=marker)


async def get(call: Call, given: QualifiedRequest) -> GetFunctionResponse:
    """GetFunction."""
    name, _, described = await described_function(call, given.function_name, given.qualifier)
    settings = settings_of(described)
    return GetFunctionResponse(
        configuration=configuration(call, name, described, served=name.stored in await served_names(call)),
        code={},
        tags=settings.tags or None,
        concurrency=None if settings.concurrency is None else Concurrency(settings.concurrency),
    )


async def get_configuration(call: Call, given: QualifiedRequest) -> FunctionConfiguration:
    """GetFunctionConfiguration."""
    name, _, described = await described_function(call, given.function_name, given.qualifier)
    return configuration(call, name, described, served=name.stored in await served_names(call))


async def update_configuration(call: Call, given: UpdateFunctionRequest) -> FunctionConfiguration:
    """UpdateFunctionConfiguration."""
    name, resource, described = await described_function(call, given.function_name)
    if not name.latest:
        raise invalid(UNQUALIFIED_ONLY)
    _check_unchanged(given)
    if given.revision_id and given.revision_id != revision_of(described):
        raise ServiceError("PreconditionFailedException", STALE_REVISION)
    changes: dict[str, Any] = {}
    if given.description is not None:
        changes["description"] = given.description
    if given.timeout is not None:
        changes["timeout_s"] = given.timeout
    if given.memory_size is not None:
        changes["memory_mb"] = given.memory_size
    if given.environment is not None:
        changes["environment"] = variables_of(given.environment)
    if given.dead_letter_config is not None:
        arn = given.dead_letter_config.target_arn
        changes["dead_letter"] = await _dead_letter(call, resource, arn) if arn else None
    await changed(call, name, resource, changes)
    return await get_configuration(call, QualifiedRequest(function_name=given.function_name))


async def changed(call: Call, name: FunctionName, resource: Resource, changes: dict[str, Any]) -> FunctionSettings:
    """The settings after these have been changed. Raises ServiceError where the function is gone."""

    def change(stored: FunctionSettings) -> FunctionSettings:
        return msgspec.structs.replace(stored, **changes)

    try:
        return await change_function(call.broker.core, resource, change)
    except errors.FunctionNotFound as error:
        raise unknown_function(shown_arn(call, name)) from error


def settings_of(described: Described) -> FunctionSettings:
    """The settings in force."""
    return msgspec.json.decode(described.settings, type=FunctionSettings)


def configuration(call: Call, name: FunctionName, described: Described, *, served: bool) -> FunctionConfiguration:
    """The function as clients see it."""
    settings, target = settings_of(described), None
    if settings.dead_letter is not None:
        target = DeadLetterConfig(target_arn=resource_of(call, settings.dead_letter).arn)
    return FunctionConfiguration(
        function_name=name.name,
        function_arn=shown_arn(call, name),
        code_size=0,
        code_sha256=code_digest(settings.build),
        description=settings.description,
        timeout=math.ceil(settings.timeout_s),
        memory_size=settings.memory_mb,
        last_modified=_iso(described.changed_ms),
        version=settings.version,
        revision_id=revision_of(described),
        state="Active" if served else "Inactive",
        state_reason=None if served else _IDLE,
        state_reason_code=None if served else "Idle",
        last_update_status="Successful",
        package_type="Zip",
        tracing_config={"Mode": "PassThrough"},
        dead_letter_config=target,
        environment=Environment(variables=settings.environment) if settings.environment else None,
    )


async def served_names(call: Call) -> set[str]:
    """What live workers serve: functions, and versions and aliases as the store calls them."""
    workers = await live_workers(call.broker.core)
    return {name for worker in workers if not worker.alone for name in worker.functions}


def revision_of(described: Described) -> str:
    """The revision of the settings in force."""
    return str(uuid5(NAMESPACE_URL, f"{described.nonce}:{described.revision}"))


def _iso(when_ms: int) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when_ms // 1000))}.{when_ms % 1000:03d}+0000"


def _check_unchanged(given: UpdateFunctionRequest) -> None:
    shown = {field.name: field.encode_name for field in msgspec.structs.fields(UpdateFunctionRequest)}
    for name in _UNCHANGING:
        value = getattr(given, name)
        if value is not None and value not in _NOTHING.get(name, ()):
            raise invalid(_UNCHANGEABLE.format(name=shown[name]))


def variables_of(given: Environment) -> dict[str, str]:
    """What is to be set. Raises ServiceError with Lambda's texts; values are told to nobody but who sent them."""
    variables = given.variables or {}
    if badly_named(variables):
        shown = "{" + ", ".join(f"{name}=***" for name in variables) + "}"
        rule = f"Map keys must satisfy constraint: [Member must satisfy regular expression pattern: {VARIABLE_PATTERN}]"
        raise violations([f"Value '{shown}' at 'environment.variables' failed to satisfy constraint: {rule}"])
    if reserved := sorted(RESERVED & variables.keys()):
        raise invalid(_RESERVED_VARIABLES.format(names=", ".join(reserved)))
    if too_much(variables):
        raise invalid(_TOO_MANY_VARIABLES.format(measured=measured(variables)))
    try:
        check_environment(variables)
    except errors.InvalidOption as error:
        raise invalid(str(error)) from None
    return variables


async def _dead_letter(call: Call, function: Resource, arn: str) -> Target:
    target = target_of(call, arn)
    if target is None or resource_of(call, target) == function or not await exists(call, target):
        raise invalid(_BAD_TARGET.format(arn=arn))
    if isinstance(target, Queue) and resource_of(call, target).fifo:
        raise invalid(_BAD_TARGET.format(arn=arn))
    return target


async def exists(call: Call, target: Target) -> bool:
    """Whether a target is there."""
    return await call.broker.core.directory.describe(resource_of(call, target)) is not None
