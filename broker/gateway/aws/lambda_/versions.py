"""The operations on versions and aliases, and on what is deleted with them."""

from __future__ import annotations

from typing import Final

from broker import errors
from broker.builds import Alias, code_digest
from broker.gateway.aws.bounds import violations
from broker.gateway.aws.lambda_.errors import invalid, unknown_alias, unknown_function
from broker.gateway.aws.lambda_.failures import STALE_REVISION, UNQUALIFIED_ONLY, conflict
from broker.gateway.aws.lambda_.function_shapes import FunctionConfiguration
from broker.gateway.aws.lambda_.functions import configuration, revision_of, served_names, settings_of
from broker.gateway.aws.lambda_.members import described_function, shown_arn
from broker.gateway.aws.lambda_.names import LATEST, FunctionName, read_name
from broker.gateway.aws.lambda_.paging import page_of
from broker.gateway.aws.lambda_.version_shapes import (
    AliasConfiguration,
    AliasesPage,
    AliasRequest,
    CreateAliasRequest,
    DeleteFunctionRequest,
    DeleteFunctionResponse,
    ListAliasesRequest,
    ListVersionsRequest,
    PublishVersionRequest,
    RoutingConfig,
    UpdateAliasRequest,
    VersionsPage,
)
from broker.gateway.aws.service import Call, ServiceError
from broker.store.directory import Described
from broker.versions import create_alias, delete_alias, delete_version, publish_version, read_catalogue, update_alias

_PAGE: Final = 50
_OTHER_CODE: Final = (
    "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({current}). "
    "Please try again with the CodeSHA256 in $LATEST."
)
_NO_CAPACITY: Final = "PublishTo is for functions of capacity providers, which are not here."
_LATEST_STAYS: Final = "$LATEST version cannot be deleted without deleting the function."
_NO_ALIASES: Final = "Deletion of aliases is not currently supported."
_WEIGHTS: Final = "failed to satisfy constraint: Map {what} must satisfy constraint: [{rules}]"
_OF_KEYS: Final = (
    "Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, "
    "Member must satisfy regular expression pattern: [0-9]+, Member must not be null"
)
_OF_VALUES: Final = (
    "Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, "
    "Member must not be null"
)


# -- versions ---------------------------------------------------------------------------------------------------------


async def publish(call: Call, given: PublishVersionRequest) -> FunctionConfiguration:
    """PublishVersion."""
    if given.publish_to is not None:
        raise invalid(_NO_CAPACITY)
    name = _unqualified(call, given.function_name)
    _, resource, described = await described_function(call, given.function_name)
    if given.revision_id and given.revision_id != revision_of(described):
        raise ServiceError("PreconditionFailedException", STALE_REVISION)
    current = code_digest(settings_of(described).build)
    if given.code_sha256 and given.code_sha256 != current:
        raise invalid(_OTHER_CODE.format(given=given.code_sha256, current=current))
    made = await publish_version(call.broker.core, resource.name, description=given.description)
    return await _version(call, name, made.qualifier)


async def list_versions(call: Call, given: ListVersionsRequest) -> VersionsPage:
    """ListVersionsByFunction."""
    name, _, described = await described_function(call, given.function_name)
    catalogue = await read_catalogue(call.broker.core, name.name)
    served = await served_names(call)
    numbers = [0, *sorted(version.number for version in catalogue.versions.values())]
    page, marker = page_of(numbers, given.marker, size=min(given.max_items or _PAGE, _PAGE), key="{:09}".format)
    found: list[FunctionConfiguration] = []
    for number in page:
        qualified = FunctionName(name.name, str(number) if number else LATEST)
        if number:
            described = await _described_version(call, qualified) or described
        found.append(configuration(call, qualified, described, served=qualified.stored in served))
    return VersionsPage(versions=found, next_marker=marker)


async def _version(call: Call, name: FunctionName, qualifier: str) -> FunctionConfiguration:
    qualified, _, described = await described_function(call, name.name, qualifier)
    return configuration(call, qualified, described, served=qualified.stored in await served_names(call))


async def _described_version(call: Call, name: FunctionName) -> Described | None:
    core = call.broker.core
    return await core.directory.describe(core.resource("function", name.stored))


async def delete_function(call: Call, given: DeleteFunctionRequest) -> DeleteFunctionResponse:
    """DeleteFunction: all of it, or one version."""
    name = read_name(call, given.function_name, given.qualifier)
    if name.qualifier is not None and not name.qualifier.isdecimal():
        raise invalid(_LATEST_STAYS if name.latest else _NO_ALIASES)
    base, _, _ = await described_function(call, name.name)
    try:
        if name.qualifier is None:
            await call.broker.function(base.name).delete(force=True)
        else:
            await delete_version(call.broker.core, base.name, name.qualifier)
    except errors.FunctionNotFound as error:
        raise unknown_function(shown_arn(call, base)) from error
    except errors.VersionNotFound:
        pass  # as the service does it
    except (errors.VersionInUse, errors.ResourceBusy) as error:
        raise conflict(str(error)) from error
    return DeleteFunctionResponse()


# -- aliases ----------------------------------------------------------------------------------------------------------


async def create(call: Call, given: CreateAliasRequest) -> AliasConfiguration:
    """CreateAlias."""
    name = _unqualified(call, given.function_name)
    await described_function(call, given.function_name)
    weights = _weights(given.function_version, given.routing_config)
    try:
        made = await create_alias(
            call.broker.core,
            name.name,
            given.name,
            given.function_version,
            weights=weights,
            description=given.description or "",
        )
    except errors.AliasExists as error:
        raise conflict(f"Alias already exists: {FunctionName(name.name, given.name).qualified_arn(call)}") from error
    except errors.VersionNotFound as error:
        raise _no_version(call, error) from error
    return _answered(call, name, made)


async def get(call: Call, given: AliasRequest) -> AliasConfiguration:
    """GetAlias."""
    name = _unqualified(call, given.function_name)
    return _answered(call, name, await _alias(call, name, given.name))


async def update(call: Call, given: UpdateAliasRequest) -> AliasConfiguration:
    """UpdateAlias."""
    name = _unqualified(call, given.function_name)
    before = await _alias(call, name, given.name)
    version = given.function_version or before.version
    try:
        after = await update_alias(
            call.broker.core,
            name.name,
            given.name,
            version=given.function_version,
            weights=None if given.routing_config is None else _weights(version, given.routing_config),
            description=given.description,
            revision=given.revision_id,
        )
    except errors.RevisionChanged as error:
        raise ServiceError("PreconditionFailedException", STALE_REVISION) from error
    except errors.VersionNotFound as error:
        raise _no_version(call, error) from error
    return _answered(call, name, after)


async def delete(call: Call, given: AliasRequest) -> None:
    """DeleteAlias."""
    name = _unqualified(call, given.function_name)
    await described_function(call, given.function_name)
    try:
        await delete_alias(call.broker.core, name.name, given.name)
    except errors.VersionNotFound:
        pass  # as the service does it
    except errors.ResourceBusy as error:
        raise conflict(str(error)) from error


async def list_all(call: Call, given: ListAliasesRequest) -> AliasesPage:
    """ListAliases."""
    name = _unqualified(call, given.function_name)
    await described_function(call, given.function_name)
    found = (await read_catalogue(call.broker.core, name.name)).aliases
    aliases = [
        found[each]
        for each in sorted(found)
        if given.function_version is None
        or given.function_version == found[each].version
        or given.function_version in found[each].weights
    ]
    size = min(given.max_items or _PAGE, _PAGE)
    page, marker = page_of(aliases, given.marker, size=size, key=lambda alias: alias.name)
    return AliasesPage(aliases=[_answered(call, name, alias) for alias in page], next_marker=marker)


async def _alias(call: Call, name: FunctionName, alias: str) -> Alias:
    await described_function(call, name.name)
    found = (await read_catalogue(call.broker.core, name.name)).aliases.get(alias)
    if found is None:
        raise unknown_alias(FunctionName(name.name, alias).qualified_arn(call))
    return found


def _answered(call: Call, name: FunctionName, alias: Alias) -> AliasConfiguration:
    return AliasConfiguration(
        alias_arn=FunctionName(name.name, alias.name).qualified_arn(call),
        name=alias.name,
        function_version=alias.version,
        description=alias.description,
        revision_id=alias.revision,
        routing_config=RoutingConfig(alias.weights) if alias.weights else None,
    )


def _weights(version: str, given: RoutingConfig | None) -> dict[str, float]:
    """The shares that are to be. Raises ServiceError in Lambda's words."""
    weights = (None if given is None else given.additional_version_weights) or {}
    if len(weights) > 1:
        raise invalid("Number of items in AdditionalVersionWeights cannot be greater than 1")
    for other, share in weights.items():
        shown = f"Value '{{{other}={share}}}' at 'routingConfig.additionalVersionWeights'"
        if not 0 <= share <= 1:
            raise violations([f"{shown} {_WEIGHTS.format(what='value', rules=_OF_VALUES)}"])
        if other == version:
            raise invalid(
                f"Invalid function version {version}. Function version {version} is already included in routing "
                "configuration."
            )
        if version == LATEST:
            raise invalid("$LATEST is not supported for an alias pointing to more than 1 version")
        if not other.isdecimal():
            raise violations([f"{shown} {_WEIGHTS.format(what='keys', rules=_OF_KEYS)}"])
    return weights


def _unqualified(call: Call, given: str) -> FunctionName:
    name = read_name(call, given)
    if name.qualifier is not None:
        raise invalid(UNQUALIFIED_ONLY)
    return name


def _no_version(call: Call, error: errors.VersionNotFound) -> ServiceError:
    function, _, version = error.name.partition(":")
    return unknown_function(FunctionName(function, version).qualified_arn(call))
