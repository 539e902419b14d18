"""Inputs and outputs of the operations on versions and aliases, as Lambda's model has them."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from broker.gateway.aws.lambda_.function_shapes import FunctionConfiguration
from broker.gateway.aws.lambda_.members import (
    FunctionInPath,
    MarkerInQuery,
    MaxItemsInQuery,
    PlainFunctionInPath,
    QualifierInQuery,
)

_ALIAS_PATTERN: Final = "(?!^[0-9]+$)([a-zA-Z0-9-_]+)"
_VERSION_PATTERN: Final = r"(\$LATEST(\.PUBLISHED)?|[0-9]+)"
_ALIAS_BOUNDS: Final = {"pattern": _ALIAS_PATTERN, "min": 1, "max": 128}
_VERSION_BOUNDS: Final = {"pattern": _VERSION_PATTERN, "min": 1, "max": 1_024}
_AliasInPath: TypeAlias = Annotated[str, Meta(extra={"in": "path", "name": "Name", **_ALIAS_BOUNDS})]
_Description: TypeAlias = Annotated[str | None, Meta(extra={"max": 256})]


class PublishVersionRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """PublishVersion."""

    function_name: PlainFunctionInPath
    code_sha256: str | None = msgspec.field(name="CodeSha256", default=None)
    description: _Description = None
    revision_id: str | None = None
    publish_to: Annotated[str | None, Meta(extra={"enum": ("LATEST_PUBLISHED",)})] = None


class ListVersionsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListVersionsByFunction."""

    function_name: FunctionInPath
    marker: MarkerInQuery = None
    max_items: MaxItemsInQuery = None


class VersionsPage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ListVersionsByFunction's answer."""

    versions: list[FunctionConfiguration]
    next_marker: str | None = None


class RoutingConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Which version besides an alias's own gets a share of its calls."""

    additional_version_weights: dict[str, float] | None = None


class CreateAliasRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """CreateAlias."""

    function_name: PlainFunctionInPath
    name: Annotated[str, Meta(extra=_ALIAS_BOUNDS)]
    function_version: Annotated[str, Meta(extra=_VERSION_BOUNDS)]
    description: _Description = None
    routing_config: RoutingConfig | None = None


class UpdateAliasRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """UpdateAlias."""

    function_name: PlainFunctionInPath
    name: _AliasInPath
    function_version: Annotated[str | None, Meta(extra=_VERSION_BOUNDS)] = None
    description: _Description = None
    routing_config: RoutingConfig | None = None
    revision_id: str | None = None


class AliasRequest(msgspec.Struct, frozen=True, kw_only=True):
    """GetAlias and DeleteAlias."""

    function_name: PlainFunctionInPath
    name: _AliasInPath


class ListAliasesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListAliases."""

    function_name: PlainFunctionInPath
    function_version: Annotated[
        str | None, Meta(extra={"in": "query", "name": "FunctionVersion", **_VERSION_BOUNDS})
    ] = None
    marker: MarkerInQuery = None
    max_items: MaxItemsInQuery = None


class AliasConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """An alias as every operation answers it."""

    alias_arn: str
    name: str
    function_version: str
    description: str
    revision_id: str
    routing_config: RoutingConfig | None = None


class AliasesPage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ListAliases' answer."""

    aliases: list[AliasConfiguration]
    next_marker: str | None = None


class DeleteFunctionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """DeleteFunction."""

    function_name: FunctionInPath
    qualifier: QualifierInQuery = None


class DeleteFunctionResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """DeleteFunction's answer."""

    status_code: Annotated[int, Meta(extra={"in": "status", "name": "StatusCode"})] = 204
