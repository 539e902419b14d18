"""Inputs and outputs of the operations on functions' configuration, as Lambda's model has them."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from broker.gateway.aws.lambda_.members import (
    ARN_PATTERN,
    FunctionInPath,
    MarkerInQuery,
    MaxItemsInQuery,
    PlainFunctionInPath,
    QualifierInQuery,
    UnqualifiedInPath,
)

_TARGET_PATTERN: Final = r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()"
_DESTINATION_PATTERN: Final = rf"$|kafka://([^.]([a-zA-Z0-9\-_.]{{0,248}}))|{ARN_PATTERN}"
_TAGGED_PATTERN: Final = (
    r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:"
    r"(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|code-signing-config:csc-[a-z0-9]{17}|"
    r"event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|"
    r"(capacity-provider|network-connector):[a-zA-Z0-9-_]{1,64})"
)
_Resource: TypeAlias = Annotated[
    str, Meta(extra={"in": "path", "name": "Resource", "pattern": _TAGGED_PATTERN, "min": 1, "max": 10_000})
]
_Destination: TypeAlias = Annotated[str | None, Meta(extra={"pattern": _DESTINATION_PATTERN, "max": 350})]


class NoInput(msgspec.Struct, frozen=True):
    """Nothing."""


class FunctionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Operations that name nothing but a function."""

    function_name: PlainFunctionInPath


class QualifiedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Operations that name a function and perhaps a qualifier."""

    function_name: FunctionInPath
    qualifier: QualifierInQuery = None


class ListFunctionsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListFunctions."""

    function_version: Annotated[
        str | None, Meta(extra={"in": "query", "name": "FunctionVersion", "enum": ("ALL",)})
    ] = None
    master_region: Annotated[str | None, Meta(extra={"in": "query", "name": "MasterRegion"})] = None
    marker: MarkerInQuery = None
    max_items: MaxItemsInQuery = None


class DeadLetterConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Where events go that are given up."""

    target_arn: Annotated[str | None, Meta(extra={"pattern": _TARGET_PATTERN, "max": 10_000})] = None


class Environment(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """A function's variables."""

    variables: dict[str, str] | None = None


class UpdateFunctionRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """UpdateFunctionConfiguration; the last ones cannot be changed."""

    function_name: PlainFunctionInPath
    description: Annotated[str | None, Meta(extra={"max": 256})] = None
    timeout: Annotated[int | None, Meta(extra={"min": 1, "max": 900})] = None
    dead_letter_config: DeadLetterConfig | None = None
    revision_id: str | None = None
    environment: Environment | None = None
    memory_size: Annotated[int | None, Meta(extra={"min": 128, "max": 10_240})] = None
    role: Any = None
    handler: Any = None
    vpc_config: Any = None
    runtime: Any = None
    kms_key_arn: Any = msgspec.field(name="KMSKeyArn", default=None)
    tracing_config: Any = None
    layers: Any = None
    file_system_configs: Any = None
    image_config: Any = None
    ephemeral_storage: Any = None
    snap_start: Any = None
    logging_config: Any = None
    capacity_provider_config: Any = None
    durable_config: Any = None
    runtime_config: Any = None
    accelerator_config: Any = None


class FunctionConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """A function as every operation answers it."""

    function_name: str
    function_arn: str
    code_size: int
    description: str
    timeout: int
    memory_size: int
    last_modified: str
    code_sha256: str = msgspec.field(name="CodeSha256")
    version: str
    revision_id: str
    state: str
    state_reason: str | None = None
    state_reason_code: str | None = None
    last_update_status: str
    package_type: str
    tracing_config: dict[str, str]
    dead_letter_config: DeadLetterConfig | None = None
    environment: Environment | None = None


class FunctionsPage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ListFunctions' answer."""

    functions: list[FunctionConfiguration]
    next_marker: str | None = None


class Concurrency(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How many calls of a function may run at a time; nothing where there is no limit."""

    reserved_concurrent_executions: int | None = None


class GetFunctionResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """GetFunction's answer."""

    configuration: FunctionConfiguration
    code: dict[str, str]
    tags: dict[str, str] | None = None
    concurrency: Concurrency | None = None


class PutConcurrencyRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """PutFunctionConcurrency."""

    function_name: PlainFunctionInPath
    reserved_concurrent_executions: Annotated[int, Meta(extra={"min": 0})]


class PutRecursionRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """PutFunctionRecursionConfig."""

    function_name: UnqualifiedInPath
    recursive_loop: Annotated[str, Meta(extra={"enum": ("Allow", "Terminate")})]


class RecursionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """GetFunctionRecursionConfig."""

    function_name: UnqualifiedInPath


class Recursion(msgspec.Struct, frozen=True, rename="pascal"):
    """Whether loops are stopped: ``Terminate`` or ``Allow``."""

    recursive_loop: str


class AccountLimit(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What an account may have at most."""

    total_code_size: int
    code_size_unzipped: int
    code_size_zipped: int
    concurrent_executions: int
    unreserved_concurrent_executions: int


class AccountUsage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What it has."""

    total_code_size: int
    function_count: int


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """GetAccountSettings' answer."""

    account_limit: AccountLimit
    account_usage: AccountUsage


class DestinationOf(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Where the records of one kind of end go."""

    destination: _Destination = None


class DestinationConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """Where records of asynchronous calls go."""

    on_success: DestinationOf | None = None
    on_failure: DestinationOf | None = None


class InvokeConfigRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """PutFunctionEventInvokeConfig and UpdateFunctionEventInvokeConfig."""

    function_name: FunctionInPath
    qualifier: QualifierInQuery = None
    maximum_retry_attempts: Annotated[int | None, Meta(extra={"min": 0, "max": 2})] = None
    maximum_event_age_in_seconds: Annotated[int | None, Meta(extra={"min": 60, "max": 21_600})] = None
    destination_config: DestinationConfig | None = None


class InvokeConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The settings of asynchronous calls as every operation answers them."""

    last_modified: float
    function_arn: str
    maximum_retry_attempts: int | None = None
    maximum_event_age_in_seconds: int | None = None
    destination_config: DestinationConfig


class ListInvokeConfigsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListFunctionEventInvokeConfigs."""

    function_name: FunctionInPath
    marker: MarkerInQuery = None
    max_items: Annotated[int | None, Meta(extra={"in": "query", "name": "MaxItems", "min": 1, "max": 50})] = None


class InvokeConfigsPage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """ListFunctionEventInvokeConfigs' answer."""

    function_event_invoke_configs: list[InvokeConfiguration]
    next_marker: str | None = None


class TagResourceRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """TagResource."""

    resource: _Resource
    tags: dict[str, str] | None = None


class UntagResourceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """UntagResource."""

    resource: _Resource
    tag_keys: Annotated[list[str] | None, Meta(extra={"in": "query", "name": "tagKeys"})] = None


class ListTagsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ListTags."""

    resource: _Resource


class ListTagsResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """ListTags' answer."""

    tags: dict[str, str]
